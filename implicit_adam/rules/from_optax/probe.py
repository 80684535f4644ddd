"""How an optax transformation behaves, found by running it, since its state and its names say too little.

Trial runs (`from_optax.trial`) show whether the update responds to the gradient, whether it depends on
differences between points alone, and whether it overwrites parameters; which parts of the state depend on the
step number alone (`from_optax.clock`); and how old gradients are forgotten (`from_optax.memory`). Results
are cached.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.programs.quickly import TracedError
from implicit_adam.rules.from_optax.clock import Clock, found_clock
from implicit_adam.rules.from_optax.found_once import found_once
from implicit_adam.rules.from_optax.memory import forgetting
from implicit_adam.rules.from_optax.smaller import smaller
from implicit_adam.rules.from_optax.trial import ALL, APART, TOGETHER, Trial

ROUNDING = 100
LATE = (10_000, 1_000_000)


class Behaviour(NamedTuple):
    """What the trial runs show.

    - `finite`: whether all derivatives are finite; `responds`: whether any update has a nonzero one; `flat`:
      names of parameters whose update changes with the gradients although its derivative is zero.
    - `differences`: whether only differences between points matter; `projects`: whether parameters are
      overwritten.
    - `narrow`: state leaves that remember gradients in a narrower dtype than that of the parameters given.
    - `kept`: state leaves from which an old gradient never fades; `growing`: whose memory grows with n.
    - `decay`: the slowest decay per step.
    """

    finite: bool
    responds: bool
    flat: tuple[str, ...]
    differences: bool
    projects: bool
    narrow: tuple[str, ...]
    kept: tuple[str, ...]
    growing: tuple[str, ...]
    decay: float
    clock: Clock


@found_once
def behaviour(tx: optax.GradientTransformation, params: Any) -> Behaviour | None:
    """How `tx` behaves on parameters of these shapes and dtypes; None if that depends on traced values."""
    return _behaviour(tx, smaller(tx, params))


@found_once
def _behaviour(tx: optax.GradientTransformation, params: Any) -> Behaviour | None:
    try:
        return _seen(Trial(tx, params))
    except TracedError:
        return None


def _seen(trial: Trial) -> Behaviour:
    first = trial.run()
    second = trial.run(seed=1)
    clock = found_clock(trial, first, second)
    jumps = [np.asarray(clock.advance) * (n // clock.period) for n in LATE]
    late = [trial.run(jump=jump) for jump in jumps]
    runs = [first, second, *late]
    responses = np.sum([run.response[:, ALL] for run in runs], axis=(0, 1))
    # A trust ratio of a single number is a sign up to rounding.
    responds = responses > ROUNDING * trial.eps * np.sum([run.size for run in runs], axis=(0, 1))
    to_points = np.sum(first.response[:, (TOGETHER, APART)], axis=(0, 2))
    changed = np.any(first.update != second.update, axis=0)
    remembers = np.any(np.sum([run.memory[:, ALL] for run in runs], axis=0) > 0, axis=0)
    kept, growing, decay = forgetting(trial, first, jumps, late)
    return Behaviour(
        finite=all(np.isfinite(run.response).all() and np.isfinite(run.memory).all() for run in runs),
        responds=bool(np.any(responds) or not np.isfinite(responses).all()),
        flat=tuple(x for x, is_flat in zip(_names(trial.like), changed & ~responds, strict=True) if is_flat),
        differences=bool(to_points[0] < 1e-2 * to_points[1]),
        projects=bool(np.any(first.held != second.held)),
        narrow=tuple(
            f"{trial.names[i]} ({trial.leaves[i].dtype})"
            for i, is_memory in zip(trial.moving, remembers, strict=True)
            if is_memory and jnp.finfo(trial.leaves[i].dtype).eps > trial.eps
        ),
        kept=kept,
        growing=growing,
        decay=decay,
        clock=clock,
    )


def _names(like: Any) -> list[str]:
    paths = jax.tree_util.tree_leaves_with_path(like)
    return [f"params{jax.tree_util.keystr(path)}" for path, _ in paths]
