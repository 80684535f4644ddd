"""Fair timing: functions are compiled first, results awaited, and medians taken in one run."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Times in seconds: of the first call with its compilation, and the median of the later calls."""

    first: float
    median: float

    @property
    def compilation(self) -> float:
        """The time that the first call took more, for tracing and compilation."""
        return max(self.first - self.median, 0.0)


def alternate(
    calls: dict[str, Callable[[], Any]], *, repeats: int = 7, inner: dict[str, int] | None = None
) -> dict[str, Timing]:
    """Time several functions in turn, so that a slow moment of the machine affects all of them.

    `inner` says how many times a short function is called in each turn; the mean is counted.
    """
    inner = inner or {}
    first = {name: _seconds(call, 1) for name, call in calls.items()}
    rounds = [
        {name: _seconds(call, inner.get(name, 1)) for name, call in calls.items()} for _ in range(repeats)
    ]
    return {name: Timing(first[name], statistics.median(x[name] for x in rounds)) for name in calls}


def _seconds(call: Callable[[], Any], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / times
