"""`Measure`: the ratio of two costs measured side by side in one run, with its target."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.timing import Timing


class Measure(NamedTuple):
    """A ratio with its target, a least (`>=`) or largest (`<=`) value; `facts` are further numbers."""

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
    """A measurement that this machine cannot make, and what it lacks."""

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
    """The time of `above` over the time of `below`, as a `Measure`."""
    value = timings[above].median / timings[below].median
    return Measure(f"{what}: {above} / {below}", value, relation, target, timings, facts or {})


Measures = dict[str, Callable[[], Measure | Missing]]
