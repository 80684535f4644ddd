"""Files that are complete or absent even if the writer is killed; names of arrays; installed versions."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np


@contextlib.contextmanager
def whole_file(path: Path, note: str) -> Iterator[Any]:
    """A file written beside `path`, then renamed: readers see all or nothing, also with several writers.

    A reader sees all or nothing, even with several writers. If the disk is full or read-only, raises the
    `OSError` with `note` added, which says what is intact and how to go on.
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
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


def save_arrays(path: Path, arrays: dict[str, Any], note: str) -> None:
    """Write an npz, whole or not at all; `note` says of an `OSError` what is intact and how to go on."""
    with whole_file(path, note) as file:
        np.savez(file, **arrays)


def _mode_of_new_files() -> int:
    """The permissions of an ordinary new file; a temporary file is readable by its owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def check_writable(name: str, folder: Any) -> Path:
    """The folder to write to, created and tested before anything runs; `ValueError` if that fails."""
    if not isinstance(folder, str | os.PathLike):
        msg = f"{name} must be the name of a folder, got {folder!r}"
        raise ValueError(msg)  # noqa: TRY004
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"{name} {folder} cannot be written to ({error.strerror}); name a folder that can"
        raise ValueError(msg) from error
    return folder


def named_leaves(tree: Any, separator: str) -> list[tuple[str, Any]]:
    """(path, leaf) for every leaf of a pytree; the path of a bare leaf is empty."""
    return [
        (separator.join(map(_entry, path)), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _entry(key: Any) -> str:
    return str(next((getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)), key))


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The version of each of the packages that is installed."""
    versions = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
