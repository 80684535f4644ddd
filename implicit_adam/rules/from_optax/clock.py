"""The parts of a transformation's state that depend on the step number alone: counters, periods, flags.

They are the same in two runs with different gradients. Each has a period P and an advance a,
v(n + P) = v(n) + a; together they repeat after the least common multiple of their periods.
"""

import math
from typing import NamedTuple

import numpy as np

from implicit_adam.rules.from_optax.state import is_number
from implicit_adam.rules.from_optax.trial import ALL, STEPS, Record, Trial

# Periods up to a third of a run are detected.
LONGEST = STEPS // 3


class Clock(NamedTuple):
    """The step counters of a state: each leaf grows by its `advance` every `period` steps.

    `advance` has one entry for each leaf of the state (0 for those that do not count). `unpredictable` names
    leaves that change in another way and matter, such as random keys.
    """

    period: int
    advance: tuple[float, ...]
    unpredictable: tuple[str, ...]


def found_clock(trial: Trial, first: Record, second: Record) -> Clock:
    """The clock, from two runs with different gradients: the period of each leaf, then of all together."""
    still = [i for i in range(len(trial.leaves)) if i not in trial.moving]
    scalars = [i for i in trial.moving if trial.leaves[i].ndim == 0]
    free = ~np.any(first.memory[:, ALL] > 0, axis=0)
    columns = dict(zip(still, zip(first.counts.T, second.counts.T, strict=True), strict=True))
    for i, pair in zip(scalars, zip(first.floats.T, second.floats.T, strict=True), strict=True):
        if free[trial.moving.index(i)]:
            columns[i] = pair
    found = {i: _period(*pair) for i, pair in columns.items()}
    periods = [pattern[0] for pattern in found.values() if pattern is not None]
    period = math.lcm(*periods)
    advance, unpredictable = [0.0] * len(trial.leaves), []
    for i, pattern in found.items():
        if pattern is not None and period <= LONGEST:
            advance[i] = pattern[1] * (period // pattern[0])
            # An array that counts cannot be set forward, since only its checksum is known.
            if pattern[1] == 0 or is_number(trial.leaves[i]):
                continue
        if _matters(trial, i, first):
            unpredictable.append(trial.names[i])
    if period > LONGEST:
        period, advance = 1, [0.0] * len(trial.leaves)
    return Clock(period, tuple(advance), tuple(unpredictable))


def _matters(trial: Trial, i: int, first: Record) -> bool:
    """Whether changing a number changes any update; yes for leaves that cannot be changed by a number."""
    leaf = trial.leaves[i]
    if not is_number(leaf):
        return True
    nudge = np.zeros(len(trial.leaves))
    nudge[i] = 1.0
    return not np.array_equal(trial.run(jump=nudge).update, first.update)


def _period(first: np.ndarray, second: np.ndarray) -> tuple[int, float] | None:
    """(P, a) with v(n + P) = v(n) + a for all n, the same in both runs; None if there is no such P.

    A flag that differs only at the very first step counts as constant: a window may start with it.
    """
    if not np.array_equal(first, second):
        return None
    if np.all(first[1:] == first[1]) and np.all(np.abs(first) <= 1):
        return 1, 0.0
    for period in range(1, LONGEST + 1):
        steps = first[period:] - first[:-period]
        if np.all(steps == steps[0]):
            return period, float(steps[0])
    return None
