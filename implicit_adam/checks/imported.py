"""Import of a user's own objects, named as module:name."""

import importlib
import sys
from pathlib import Path
from typing import Any


def imported(name: str, unknown: str, form: str) -> Any:
    """The object `module:name`; modules in the current directory are found, too.

    Raises `ValueError` with the message `unknown` if `name` is not of this form, and with the advice `form`
    if it cannot be imported.
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
