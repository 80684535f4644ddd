"""Fewer parameters on which an optax transformation does the same, so that trying it costs little."""

from functools import partial
from typing import Any

import jax
import optax

from implicit_adam.types import Params

# Axes are cut to this length; adafactor and others treat axes of 128 and more in another way.
LENGTHS = (16, 128)


def smaller(tx: optax.GradientTransformation, params: Params) -> Params:
    """The shapes of the parameters with long axes cut, or uncut if `tx` then works differently.

    It works the same if its state has the same structure, and each leaf of it as many axes.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    seen = _seen(tx, shapes)
    for longest in LENGTHS:
        fewer = jax.tree.map(partial(_cut, longest), shapes)
        if fewer == shapes or _seen(tx, fewer) == seen:
            return fewer
    return shapes


def _cut(longest: int, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(min(n, longest) for n in x.shape), x.dtype)


def _seen(tx: optax.GradientTransformation, shapes: Params) -> Any:
    """The structure of updates and states, and axes and dtypes of their leaves; None if they cannot be."""

    def once(params: Params) -> Any:
        state = tx.init(params)
        return state, tx.update(params, state, params)

    try:
        with jax.numpy_dtype_promotion("standard"):
            leaves, structure = jax.tree.flatten(jax.eval_shape(once, shapes))
    except Exception:  # an array of another shape inside the transformation
        return None
    return structure, [(x.ndim, x.dtype) for x in leaves]
