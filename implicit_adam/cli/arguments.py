"""Parsers of command-line values, whose errors say what is allowed."""

import argparse
import importlib.util
import re
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from implicit_adam.rules import rule_named


def names(
    known: Collection[str], *, accepts: Callable[[str], bool] = lambda part: False
) -> Callable[[str], tuple[str, ...]]:
    """A parser for comma-separated names, each one of `known` or accepted by `accepts`.

    `accepts` returns False for an unknown name, or raises `ValueError` with the reason.
    """

    def parse(text: str) -> tuple[str, ...]:
        # Commas inside parentheses belong to a name's own arguments.
        parts = tuple(dict.fromkeys(part.strip() for part in re.split(r",(?![^(]*\))", text)))
        for part in parts:
            if part not in known and not _accepted(part, accepts):
                msg = f"unknown name {part!r}; known are {', '.join(known)}"
                raise argparse.ArgumentTypeError(msg)
        return parts

    return parse


def _accepted(part: str, accepts: Callable[[str], bool]) -> bool:
    try:
        return accepts(part)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def rule_name(text: str) -> str:
    """Parse the name of a rule: one of the library's, or `module:Class`."""
    _accepted(text, lambda text: rule_named(text) is not None)
    return text


def folder(text: str) -> Path:
    """Parse the name of a folder, which must not be empty."""
    if not text.strip():
        msg = "'' is no folder; . is the current one"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def integers(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of integers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        msg = f"{text!r} is not a list of integers such as 48,96,192,384"
        raise argparse.ArgumentTypeError(msg) from None


def part(text: str) -> tuple[int, int]:
    """I/K: the I-th of K parts, from 0."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    i, k = map(int, found.groups()) if found else (0, 0)
    if i >= k:
        msg = f"{text!r} is not of the form I/K with 0 <= I < K; 0/8 .. 7/8 are eight parts"
        raise argparse.ArgumentTypeError(msg)
    return i, k


def axis(text: str) -> np.ndarray:
    """Parse values of one hyperparameter: START:STOP:COUNT, log:START:STOP:COUNT, a list, or one value."""
    try:
        values = _values(text)
    except ValueError:
        values = np.array([])
    if len(values) == 0 or not np.isfinite(values).all():
        msg = f"{text!r} is not of the form 0.5:0.99:16, log:1e-4:1e-2:8 (both > 0), 0.9,0.99 or 0.9"
        raise argparse.ArgumentTypeError(msg)
    return values


def _values(text: str) -> np.ndarray:
    if ":" not in text:
        return np.array([float(part) for part in text.split(",")])
    start, stop, count = text.removeprefix("log:").split(":")
    if not text.startswith("log:"):
        return np.linspace(float(start), float(stop), int(count))
    with np.errstate(all="ignore"):
        return np.exp(np.linspace(np.log(float(start)), np.log(float(stop)), int(count)))


def setting(text: str) -> tuple[str, np.ndarray]:
    """Parse NAME=VALUES."""
    name, equals, values = text.partition("=")
    if not equals:
        msg = f"{text!r} is not of the form NAME=VALUES, for example weight_decay=0,0.1,1"
        raise argparse.ArgumentTypeError(msg)
    return name.replace("-", "_"), axis(values)


FORMATS = ("png", "svg", "pdf")


def add_format(command: argparse.ArgumentParser) -> None:
    """Add the option `--format`, the file format of pictures."""
    command.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help="file format of pictures (default: png)"
    )


def require(*modules: str, extra: str = "cli") -> None:
    """Raise `ImportError`, before anything runs, if packages are missing that only some commands need."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        msg = (
            f"this command needs {', '.join(missing)}: install the extra {extra!r}, "
            f"pip install '.[{extra}]' in a checkout"
        )
        raise ImportError(msg)
