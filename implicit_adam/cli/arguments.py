"""Reading values off the command line, with errors that say what is allowed."""

import argparse
import importlib.util
import re
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path


def names(known: Collection[str], *, prefix: str | None = None) -> Callable[[str], tuple[str, ...]]:
    """A comma-separated list of known names, or of anything that starts with the prefix."""

    def parse(text: str) -> tuple[str, ...]:
        # Commas inside parentheses belong to a name's own arguments.
        parts = tuple(dict.fromkeys(part.strip() for part in re.split(r",(?![^(]*\))", text)))
        for part in parts:
            if part not in known and not (prefix and part.startswith(prefix)):
                msg = f"unknown name {part!r}; known are {', '.join(known)}"
                raise argparse.ArgumentTypeError(msg)
        return parts

    return parse


def integers(text: str) -> tuple[int, ...]:
    """A comma-separated list of integers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        msg = f"{text!r} is not a list of integers such as 48,96,192,384"
        raise argparse.ArgumentTypeError(msg) from None


def require(*modules: str) -> None:
    """Packages that only some commands need, missed before anything runs."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        msg = f"this command needs {', '.join(missing)}: pip install 'implicit-adam[cli]'"
        raise ImportError(msg)


def writable_folder(folder: Path) -> Path:
    """The output folder, made and tried before anything runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"--out {folder} cannot be written to ({error.strerror}); name a folder that can"
        raise ValueError(msg) from error
    return folder
