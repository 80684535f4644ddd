"""How a transformation forgets: the influence of old gradients, early in a run and late.

The gradients of the first steps are perturbed, and the tangent of each leaf of the state is followed over the
last stretch of the run. A memory with a fixed decay loses the same share of it early and late in training; a
sum keeps all of it; an average over all steps so far loses less and less.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from implicit_adam.rules.from_optax.trial import EARLY_ONES, Record, Trial

# The last steps of a run, over which a fading memory must lose something.
STRETCH = 36
# A decay within 3e-7 of 1 counts as none: float32 cannot tell them apart over the stretch.
UNCHANGED = 1e-5
# How many leaves are tested alone: those whose tangents fade least.
TRIED = 6


class Forgetting(NamedTuple):
    """Leaves that never forget an old gradient, leaves whose memory grows with n, and the slowest decay."""

    kept: tuple[str, ...]
    growing: tuple[str, ...]
    decay: float


def forgetting(trial: Trial, first: Record, jumps: list[Any], late: list[Record]) -> Forgetting:
    """How a transformation forgets. Slow leaves are tested alone: a fast memory fed by a slow one is slow.

    `late` are the runs that start with the state set forward by `jumps`, the smaller jump first.
    """
    kept, growing, decay = [], [], 0.0
    slowest = {i for run in (first, late[-1]) for i in _slowest(run)}
    for i in slowest:
        alone = np.zeros(len(trial.moving))
        alone[i] = 1.0
        run = trial.run(kept=alone)
        if not run.response[-STRETCH:, EARLY_ONES].any():
            continue
        ratio = _ratio(run, i)
        if ratio >= 1 - UNCHANGED:
            kept.append(trial.names[trial.moving[i]])
            continue
        decay = max(decay, ratio ** (1 / STRETCH))
        sooner, later = (-math.log(max(_ratio(trial.run(jump=j, kept=alone), i), 1e-300)) for j in jumps)
        if 0 < later + UNCHANGED < sooner / 2:
            growing.append(trial.names[trial.moving[i]])
    return Forgetting(tuple(kept), tuple(growing), decay)


def _ratio(run: Record, i: int) -> float:
    """The share of the early gradients' influence on a leaf that the last stretch leaves; 0 without any."""
    before, after = run.memory[-1 - STRETCH, EARLY_ONES, i], run.memory[-1, EARLY_ONES, i]
    return float(after / before) if before > 0 and np.isfinite(before) else 0.0


def _slowest(run: Record) -> list[int]:
    ratios = np.array([_ratio(run, i) for i in range(run.memory.shape[2])])
    with np.errstate(divide="ignore"):
        distance = np.where(ratios > 0, np.abs(np.log(ratios)), np.inf)
    return [int(i) for i in np.argsort(distance)[:TRIED] if np.isfinite(distance[i])]
