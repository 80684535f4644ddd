"""`Claim` and `Experiment`: a claim of the paper, its measurement, and the verdict by a stated criterion."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

HELD, DID_NOT_HOLD, UNDECIDED = "held", "did not hold", "not decided here"

# Called with the share of an experiment's work that is done, from 0 to 1.
Advance = Callable[[float], None]


class Claim(NamedTuple):
    """A claim: its source, statement, criterion and measurement, in words, and the verdict."""

    source: str
    statement: str
    criterion: str
    measured: str
    verdict: str


class Table(NamedTuple):
    """A table in a report: its title, the heads of its columns, and its rows of cells."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Experiment(NamedTuple):
    """An experiment on a figure, table or statement of the paper, or beyond it.

    `run(config, advance)` returns arrays, `claims(config, found)` judges them, `picture(config, found)` draws
    them as a matplotlib Figure. `tables(config, found)` returns further tables for the report, and
    `more_pictures(config, found)` further pictures, by the suffix of their file names. `subject` is the
    problem it is measured on, `quick` the config of a run that takes seconds, `caveat` a limitation of the
    result.
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
    """The verdict: undecided if neither or both are true. Both must be false where numbers are not finite."""
    if bool(held) == bool(refuted):
        return UNDECIDED
    return HELD if bool(held) else DID_NOT_HOLD


def is_monotone(values: np.ndarray, sign: int) -> bool:
    """Whether the values, at least two, rise (sign = 1) or fall (-1) at every step."""
    return len(values) > 1 and bool((sign * np.diff(values) > 0).all())
