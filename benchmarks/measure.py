"""One measurement: a ratio of two things done side by side in one run, and what it should be."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.timing import Timing


class Measure(NamedTuple):
    """A ratio with its target: at least (`>=`) or at most (`<=`) so much; `facts` are what else was found."""

    what: str
    ratio: float
    relation: str
    target: float
    timings: dict[str, Timing]
    facts: dict[str, float]

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.ratio >= self.target if self.relation == ">=" else self.ratio <= self.target


class Missing(NamedTuple):
    """What this machine lacks for a measurement."""

    what: str


def ratio(
    what: str,
    timings: dict[str, Timing],
    above: str,
    below: str,
    relation: str,
    target: float,
    facts: dict[str, float] | None = None,
) -> Measure:
    """The time of `above` in units of the time of `below`."""
    value = timings[above].median / timings[below].median
    return Measure(f"{what}: {above} / {below}", value, relation, target, timings, facts or {})


Measures = dict[str, Callable[[], Measure | Missing]]
