"""Files that are whole or absent, whatever kills the writer."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def save_arrays(path: Path, arrays: dict[str, Any], note: str) -> None:
    """Write an npz beside `path`, then rename: a reader sees all or nothing, also with several writers.

    Raises the `OSError` of a full or read-only disk with `note` added: what is intact and how to go on.
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(_mode_of_new_files())
        Path(name).replace(path)
    except BaseException as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.add_note(f"implicit_adam: {note}")
        raise


def _mode_of_new_files() -> int:
    """A temporary file is its owner's alone; what it becomes is readable to whom any other new file is."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
