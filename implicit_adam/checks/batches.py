"""Checks of mini-batches, a pytree with a leading axis, and of the order in which they are visited."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from implicit_adam.checks.numbers import conversion, is_numeric, is_traced, plain_array

STACK = "jax.tree.map(lambda *x: jnp.stack(x), *batches)"


def check_batches(batches: PyTree) -> int:
    """The number m of mini-batches: the leading axis, which all leaves must share; 1 without batches."""
    if batches is None:
        return 1
    _check_no_list_of_batches(batches)
    leaves = jax.tree_util.tree_leaves_with_path(batches, is_leaf=lambda x: isinstance(x, Iterator))
    for path, leaf in leaves:
        if not is_numeric(leaf):
            fix = conversion(leaf) or f"collect and stack them: {STACK.replace('batches)', 'loader)')}"
            msg = f"batches{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, not an array; {fix}"
            raise ValueError(msg)
    if not leaves or any(jnp.ndim(leaf) == 0 for _, leaf in leaves):
        msg = "batches must be a pytree of arrays whose leading axis counts the mini-batches"
        raise ValueError(msg)
    sizes = {jnp.shape(leaf)[0] for _, leaf in leaves}
    if len(sizes) > 1 or sizes == {0}:
        msg = (
            f"batches has leaves with leading axes {sorted(sizes)}; all must have the same length m >= 1, "
            "one entry a mini-batch (reshape the data to (m, batch size, ...))"
        )
        raise ValueError(msg)
    return sizes.pop()


def _check_no_list_of_batches(batches: PyTree) -> None:
    """Refuse a list of mini-batches, told by entries of the same structure: [{'x': .., 'y': ..}, ..]."""
    if not isinstance(batches, list) or any(isinstance(x, jax.Array | np.ndarray) for x in batches):
        return
    alike = len({jax.tree.structure(batch) for batch in batches}) == 1
    if alike and jax.tree.leaves(batches[0]):
        msg = (
            f"batches is a Python list of {len(batches)} mini-batches; stack them into one pytree of arrays "
            f"whose leading axis counts them: {STACK}, all of one shape (drop or fill up a smaller last one)"
        )
        raise ValueError(msg)


def check_schedule(schedule: Any, m: int, steps: int) -> Array | None:
    """The schedule as an array: batch indices 0 .. m-1, at least one for each step."""
    if schedule is None:
        return None
    if callable(schedule):
        msg = (
            "schedule is the order of the mini-batches, a 1-D integer array of batch indices, one a step; a "
            "learning-rate schedule belongs to the optimizer: ia.Scheduled(ia.Adam(1.0), schedule)"
        )
        raise ValueError(msg)  # noqa: TRY004
    indices = schedule if is_traced(schedule) else plain_array("the entries of schedule", schedule)
    if not jnp.issubdtype(indices.dtype, jnp.integer) or indices.ndim != 1:
        msg = (
            "schedule must be a 1-D integer array of batch indices, one a step, "
            f"got dtype {indices.dtype} and shape {indices.shape}"
        )
        raise ValueError(msg)
    if len(indices) < steps:
        msg = f"schedule has {len(indices)} entries for {steps} steps; give one batch index for every step"
        raise ValueError(msg)
    if not is_traced(schedule) and indices.size and not (indices.min() >= 0 and indices.max() < m):
        msg = (
            f"schedule holds indices {indices.min()} .. {indices.max()}; "
            f"with m = {m} batches allowed are 0 .. {m - 1}"
        )
        raise ValueError(msg)
    # The index m marks an unknown mini-batch, and an int8 may not hold it.
    return jnp.asarray(indices).astype(int)
