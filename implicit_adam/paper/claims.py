"""A claim of the paper, what was measured of it, and the verdict that a stated criterion gives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

HELD, DID_NOT_HOLD, UNDECIDED = "held", "did not hold", "not decided here"

# Told the share of an item's work that is done, from 0 to 1.
Advance = Callable[[float], None]


class Claim(NamedTuple):
    """Where the paper says what, by which criterion it is judged, what was measured, and the verdict."""

    source: str
    statement: str
    criterion: str
    measured: str
    verdict: str


class Table(NamedTuple):
    """What a report shows as a table: its title, the heads of its columns, and rows of as many cells."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Experiment(NamedTuple):
    """A figure, table or statement: `run(config, advance)` gives arrays, `claims(config, found)` judges them,
    `picture(config, found)` draws them, a matplotlib Figure.

    `subject` is what it is measured on, `quick` the config of a run that takes seconds, `caveat` what to keep
    in mind of the result, `tables(config, found)` what the report lists besides. `more_pictures(config,
    found)` are further pictures, by what is added to the experiment's name in the names of their files.
    """

    title: str
    subject: str
    config: Any
    quick: Any
    run: Callable[[Any, Advance], Any]
    claims: Callable[[Any, Any], tuple[Claim, ...]]
    picture: Callable[[Any, Any], Any]
    caveat: str = ""
    tables: Callable[[Any, Any], tuple[Table, ...]] = lambda config, found: ()
    more_pictures: Callable[[Any, Any], dict[str, Any]] = lambda config, found: {}


def decided(*, held: Any, refuted: Any) -> str:
    """The verdict; neither or both leave it undecided. What is not finite must make both false."""
    if bool(held) == bool(refuted):
        return UNDECIDED
    return HELD if bool(held) else DID_NOT_HOLD


def is_monotone(values: np.ndarray, sign: int) -> bool:
    """Whether the values, two or more, rise (sign = 1) or fall (-1) at every step."""
    return len(values) > 1 and bool((sign * np.diff(values) > 0).all())
