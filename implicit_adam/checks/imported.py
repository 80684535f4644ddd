"""What users write themselves and name as module:name."""

import importlib
import sys
from pathlib import Path
from typing import Any


def imported(name: str, unknown: str, form: str) -> Any:
    """The object `module:name`, of the current directory, too.

    Raises `ValueError` with the words `unknown` where that is no such name, and with `form` where it cannot
    be imported.
    """
    module, colon, owner = name.partition(":")
    if not (module and colon and owner):
        raise ValueError(unknown)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), owner)
    except (ImportError, AttributeError) as error:
        msg = f"{name}: {error}; {form}"
        raise ValueError(msg) from error
