"""Fewer parameters on which an optax transformation does the same, so that trying it costs little."""

import itertools
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.programs.captured import equations, trace

# Axes are cut to this length; adafactor and others treat axes of 128 and more in another way.
LENGTHS = (16, 128)


class Seen(NamedTuple):
    """A transformation on some parameters: structure of states and updates, operations, numbers in them."""

    structure: Any
    leaves: list[tuple[int, Any]]
    operations: list[str]
    numbers: list[float]


def smaller(tx: optax.GradientTransformation, params: Any) -> Any:
    """The shapes of the parameters with long axes cut, or uncut if `tx` then works differently.

    It works the same if its state has the same structure, each leaf of it as many axes, and if init and
    update are programs of the same operations with the same numbers in them, but for the lengths of axes.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    seen = _seen(tx, shapes)
    for longest in LENGTHS:
        fewer = jax.tree.map(partial(_cut, longest), shapes)
        if _lengths(fewer) == _lengths(shapes) or _alike(_seen(tx, fewer), seen, fewer, shapes):
            return fewer
    return shapes


def _cut(longest: int, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(min(n, longest) for n in x.shape), x.dtype)


def _lengths(shapes: Any) -> list[tuple[int, ...]]:
    return [x.shape for x in jax.tree.leaves(shapes)]


def _seen(tx: optax.GradientTransformation, shapes: Any) -> Seen | None:
    """None if the transformation cannot be run, as with an array of another shape inside."""

    def once(params: Any) -> Any:
        state = tx.init(params)
        return state, tx.update(params, state, params)

    try:
        with jax.numpy_dtype_promotion("standard"):
            program, results = trace(once, shapes)
    except Exception:
        return None
    leaves, structure = jax.tree.flatten(results)
    done = list(equations(program.jaxpr))
    written = [
        x.val for equation in done for x in equation.invars if hasattr(x, "val") and jnp.ndim(x.val) == 0
    ]
    numbers = [float(np.real(x)) for x in written]
    return Seen(structure, [(x.ndim, x.dtype) for x in leaves], [x.primitive.name for x in done], numbers)


def _alike(one: Seen | None, other: Seen | None, *shapes: Any) -> bool:
    if one is None or other is None or one[:-1] != other[:-1] or len(one.numbers) != len(other.numbers):
        return False
    sizes = [_sizes(x) for x in shapes]
    return all(
        a == b or (_near(a, sizes[0]) and _near(b, sizes[1]))
        for a, b in zip(one.numbers, other.numbers, strict=True)
    )


def _sizes(shapes: Any) -> np.ndarray:
    """Products of the lengths of cut axes, as in a mean, and their inverses."""
    axes = [[n for n in x.shape if n >= min(LENGTHS)] for x in jax.tree.leaves(shapes)]
    chosen = (some for x in axes for r in range(1, len(x) + 1) for some in itertools.combinations(x, r))
    products = np.unique([float(math.prod(some)) for some in chosen])
    return np.concatenate([products, 1 / products])


def _near(number: float, sizes: np.ndarray) -> bool:
    return bool(np.any(np.abs(sizes - number) <= 1e-6 * sizes))
