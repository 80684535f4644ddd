"""What is found out about an optax transformation, remembered for its program and the parameters' shapes."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from implicit_adam.programs.captured import digest, trace

Found = TypeVar("Found")
# How many findings of a kind are kept.
MOST = 256


def found_once(
    find: Callable[[optax.GradientTransformation, Any], Found],
) -> Callable[[optax.GradientTransformation, Any], Found]:
    """`find(tx, params)`, called once for each program of `tx` and shapes and dtypes of the parameters.

    The program is looked at each time: numbers that `tx` reads when it is called may have changed.
    """
    known: dict[Any, Found] = {}

    @wraps(find)
    def found(tx: optax.GradientTransformation, params: Any) -> Found:
        program = _program(tx, params)
        if not isinstance(program, str):
            return find(tx, params)
        key = (tx, *_like(params), program)
        if key not in known:
            if len(known) >= MOST:
                known.pop(next(iter(known)))
            known[key] = find(tx, params)
        return known[key]

    return found


def _like(params: Any) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(params)
    return structure, tuple((x.shape, jnp.dtype(x.dtype)) for x in leaves)


def _program(tx: optax.GradientTransformation, params: Any) -> Any:
    """A digest of the first step and of all the arrays in it; no string if one of them is traced."""

    def once(params: Any) -> Any:
        state = tx.init(params)
        return state, tx.update(params, state, params)

    with jax.numpy_dtype_promotion("standard"):
        return digest(trace(once, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params))[0])
