"""Reading an optax state by the names of its fields, which differ between optimizers."""

from typing import Any

import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from implicit_adam.checks.numbers import is_traced
from implicit_adam.types import StepNumber, Vector


def held(opt_state: Any, name: str) -> Vector:
    """The field of that name as a flat vector, wherever it is; `ValueError` if there is not exactly one."""
    found = optax.tree_utils.tree_get_all_with_path(opt_state, name)
    if len(found) != 1:
        msg = (
            f"opt_state holds {len(found)} fields named {name!r}, and one is needed; pass the state of the "
            "rule's own transformation, or of the optax function of that name"
        )
        raise ValueError(msg)
    return ravel_pytree(found[0][1])[0]


def last_step(opt_state: Any) -> StepNumber:
    """The number of the last step taken, counted from 0; infinity if the state has no counter."""
    counts = optax.tree_utils.tree_get_all_with_path(opt_state, "count")
    # If there are several counters, as for Adam with a schedule, they agree.
    return counts[0][1] - 1 if counts else jnp.inf


def check_seen(opt_state: Any) -> None:
    """A state that has taken a step, where its count is known."""
    n = last_step(opt_state)
    if not is_traced(n) and n < 0:
        msg = "opt_state has not seen a gradient yet; take a step first, or leave opt_state out"
        raise ValueError(msg)
