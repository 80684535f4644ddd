"""Checks of the parameters: a pytree of real floating arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from implicit_adam.checks.numbers import conversion, is_numeric, is_traced

SPLIT = (
    "Leave out what is not trained and give it back inside the loss. In equinox: params, rest = "
    "eqx.partition(model, eqx.is_inexact_array) and loss = lambda params: f(eqx.combine(params, rest)); "
    "in flax: graph, params, rest = nnx.split(model, nnx.Param, ...) and f(nnx.merge(graph, params, rest)); "
    "in a dict: pass only the entries that are trained"
)


def check_params(params: PyTree) -> PyTree:
    """The parameters as arrays: a non-empty pytree of finite real floating numbers of one dtype."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        _check_leaf("params" + jax.tree_util.keystr(path), leaf)
    if sum(np.size(leaf) for _, leaf in leaves) == 0:
        msg = "params holds no numbers; pass a pytree with at least one floating-point array"
        raise ValueError(msg)
    dtypes = {jnp.result_type(leaf) for _, leaf in leaves}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        msg = (
            f"params mixes the dtypes {names}; cast all leaves to one of them: "
            f"jax.tree.map(lambda x: jnp.asarray(x, '{max(dtypes, key=lambda x: x.itemsize)}'), params)"
        )
        raise ValueError(msg)
    for path, leaf in leaves:
        if not is_traced(leaf) and not np.isfinite(np.asarray(leaf, np.float64)).all():
            msg = (
                f"params{jax.tree_util.keystr(path)} holds NaN or infinite numbers; start from a finite point"
            )
            raise ValueError(msg)
    (dtype,) = dtypes
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def _check_leaf(name: str, leaf: Any) -> None:
    """A leaf must be a real floating array; the error says how to convert what it is instead."""
    if not is_numeric(leaf):
        swapped = "are loss and params swapped?" if callable(leaf) and name == "params" else None
        fix = conversion(leaf) or swapped or SPLIT
        msg = f"{name} is a {type(leaf).__name__}, not an array of numbers. {fix[0].upper()}{fix[1:]}"
        raise ValueError(msg)
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.floating):
        return
    if jnp.issubdtype(dtype, jnp.complexfloating):
        fix = (
            "Parameters are real: train the real and the imaginary part, {'re': x.real, 'im': x.imag}, and "
            "put them together inside the loss, x = jax.lax.complex(re, im)"
        )
    elif jnp.issubdtype(dtype, jax.dtypes.prng_key):
        fix = f"A random key is not trained. {SPLIT}"
    else:
        fix = f"Convert what is to be trained: x.astype(float). Of what is not, a counter or flag: {SPLIT}"
    msg = f"{name} has the dtype {dtype}; only real floating dtypes are allowed. {fix}"
    raise ValueError(msg)
