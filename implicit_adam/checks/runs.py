"""Checks of the order of an equation, of step numbers, and of the steps to save."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from implicit_adam.checks.numbers import check_count, check_switch, check_width, is_traced
from implicit_adam.types import StepNumber


def check_order(order: Any, highest: int) -> None:
    """The order of the modified equation: 0 the leading (sign-type) flow, 1 the paper's, 2 and up beyond."""
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order <= highest:
        msg = f"order must be an integer from 0 (leading flow) to {highest}, got {order!r}"
        raise ValueError(msg)


def check_orders(orders: Any, highest: int) -> tuple[int, ...]:
    """The orders of a study, at least one."""
    if not isinstance(orders, tuple | list) or len(orders) == 0:
        msg = f"orders must name the flows to study, for example (0, 1); got {orders!r}"
        raise ValueError(msg)
    for order in orders:
        check_order(order, highest)
    return tuple(orders)


def check_shifted_order(order: int, *, shifted: bool) -> None:
    """Order 1 at most with `shifted`: a product with an error of O(h) moves the field by O(h^2)."""
    if check_switch("shifted", shifted) and order > 1:
        msg = f"shifted=True moves the field by O(h^2), as much as order {order} adds; leave one of them out"
        raise ValueError(msg)


def check_step_number(n: Any, schedule: Any) -> StepNumber:
    """A step number 0, 1, 2, .. inside any schedule; returned in an integer type wide enough to add to."""
    is_static = isinstance(n, int) and not isinstance(n, bool)
    if not is_static and (jnp.shape(n) != () or not jnp.issubdtype(jnp.result_type(n), jnp.integer)):
        msg = f"n, the step number, must be one integer, got {n!r}"
        raise ValueError(msg)
    if is_traced(n):
        return jnp.asarray(n).astype(int)
    known = int(np.asarray(n))
    check_width("n, the step number,", known)
    if known < 0 or (schedule is not None and known >= len(schedule)):
        allowed = ">= 0" if schedule is None else f"in 0 .. {len(schedule) - 1}, the steps of the schedule"
        msg = f"n, the step number, must be {allowed}; got {n}"
        raise ValueError(msg)
    return n if is_static else jnp.asarray(n).astype(int)


def check_saves(steps: Any, save_every: Any) -> tuple[int, int]:
    """(steps, save_every): save_every must divide steps, so that the end is saved."""
    steps, save_every = check_count("steps", steps), check_count("save_every", save_every)
    if steps % save_every:
        msg = f"save_every = {save_every} must divide steps = {steps}, so that the end is saved"
        raise ValueError(msg)
    return steps, save_every


def check_saved(steps: int, save_every: int, save_at: Any) -> np.ndarray:
    """The step numbers to save, starting with 0: every `save_every` steps, or those in `save_at`."""
    if save_at is None:
        return np.arange(0, steps + 1, save_every)
    if save_every != 1:
        msg = f"give save_every = {save_every} or save_at, not both"
        raise ValueError(msg)
    save_at = save_at if np.iterable(save_at) else [save_at]
    saved = (0, *(check_count("save_at", n) for n in save_at))
    if len(saved) < 2 or list(saved) != sorted(set(saved)) or saved[-1] > steps:
        msg = f"save_at must be increasing integers in 1 .. {steps} = steps, got {list(save_at)}"
        raise ValueError(msg)
    return np.array(saved)
