"""Timing on equal terms: compiled first, blocked on the result, medians, and ratios from one run."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Seconds: the first call with its compilation, and the median of the later ones."""

    first: float
    median: float


def measure(call: Callable[[], Any], *, repeats: int = 7) -> Timing:
    """Run once to compile, then `repeats` times."""
    first = _seconds(call)
    return Timing(first, statistics.median(_seconds(call) for _ in range(repeats)))


def alternate(calls: dict[str, Callable[[], Any]], *, repeats: int = 7) -> dict[str, Timing]:
    """Several calls in turn, so that a slow moment of the machine meets them all."""
    first = {name: _seconds(call) for name, call in calls.items()}
    rounds = [{name: _seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    return {name: Timing(first[name], statistics.median(x[name] for x in rounds)) for name in calls}


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
