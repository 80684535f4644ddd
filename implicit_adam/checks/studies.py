"""Checks of the horizon, the step counts and the precision of a convergence study."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from implicit_adam.checks.numbers import check_count, check_number


def check_step_counts(step_counts: Any) -> list[int]:
    """At least three increasing step counts: enough to fit a slope and to see whether it has settled."""
    given = step_counts if np.iterable(step_counts) else [step_counts]
    counts = [check_count("step_counts", count) for count in given]
    if len(counts) < 3 or sorted(set(counts)) != counts:
        msg = (
            f"step_counts must be at least three increasing integers, got {counts}; "
            "for example (50, 100, 200, 400)"
        )
        raise ValueError(msg)
    return counts


def check_horizon(horizon: Any) -> None:
    """The time T over which errors are measured."""
    check_number("horizon", horizon)
    if not 0 < horizon < math.inf:
        msg = f"horizon, the time T = steps * h, must be a finite number > 0, got {horizon!r}"
        raise ValueError(msg)


def check_wide_dtype(dtype: jnp.dtype) -> None:
    """Float64 is needed: in narrower dtypes rounding hides errors of O(h^2), or both sides round alike."""
    if dtype != jnp.float64:
        msg = (
            f"convergence needs float64 parameters, got {dtype}: its rounding would fake or hide the order. "
            "Call jax.config.update('jax_enable_x64', True) before creating arrays (or set "
            "JAX_ENABLE_X64=1) and cast the parameters: jax.tree.map(lambda x: x.astype('float64'), params)"
        )
        raise ValueError(msg)
