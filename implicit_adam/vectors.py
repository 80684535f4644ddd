"""Pytrees of parameters as flat vectors, in which formulas read as in the paper.

On a CPU, XLA finds each element of a concatenation again wherever it is read, which for a gradient of 10^7
entries takes longer than computing it. So `ravel` writes the leaves into one vector, once. Only where a
formula is evaluated leaf by leaf are they concatenated (as in `Objective.by_leaves`): there the compiler
takes the concatenation apart again, and no vector is made.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.flatten_util import ravel_pytree
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from implicit_adam.types import Params, Vector, working_dtype

# Sizes along the last axis differ.
Rows = Float[Array, "*batch _"]


def ravel(params: Params) -> Vector:
    """The parameters as one flat vector, in float32 or wider."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    dtype = working_dtype(jnp.result_type(*leaves))
    return joined([leaf.ravel().astype(dtype) for leaf in leaves])


def concatenated(params: Params) -> Vector:
    """As `ravel`, for formulas that read the vector leaf by leaf."""
    theta = ravel_pytree(params)[0]
    return theta.astype(working_dtype(theta.dtype))


def unravel_like(params: Params) -> Callable[[Vector], Params]:
    """The inverse of `ravel`: vector -> pytree with the shapes of `params`, in the vector's dtype."""
    return ravel_pytree(params)[1]


def joined(pieces: Sequence[Rows]) -> Rows:
    """The pieces one after the other along the last axis, of one dtype."""
    return pieces[0] if len(pieces) == 1 else _join.bind(*pieces)


def _written(*pieces: Rows) -> Rows:
    total = jnp.zeros(_shape(pieces), pieces[0].dtype)
    ends = accumulate(piece.shape[-1] for piece in pieces)
    for piece, end in zip(pieces, ends, strict=True):
        total = jax.lax.dynamic_update_slice_in_dim(total, piece, end - piece.shape[-1], axis=-1)
    return total


def _concatenated(*pieces: Rows) -> Rows:
    return jnp.concatenate(pieces, axis=-1)


def _shape(pieces: Sequence[Any]) -> tuple[int, ...]:
    return *pieces[0].shape[:-1], sum(piece.shape[-1] for piece in pieces)


def _cut(cotangent: Rows, *pieces: Any) -> Sequence[Rows]:
    return jax.lax.split(cotangent, [piece.aval.shape[-1] for piece in pieces], axis=cotangent.ndim - 1)


def _mapped(pieces: Sequence[Array], axes: Sequence[int | None]) -> tuple[Array, int]:
    (count,) = {x.shape[axis] for x, axis in zip(pieces, axes, strict=True) if axis is not None}

    def leading(x: Array, axis: int | None) -> Array:
        return jnp.broadcast_to(x, (count, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)

    return _join.bind(*map(leading, pieces, axes)), 0


# A primitive: vmap would make a scatter of each piece that is written, and reverse mode a copy of the vector.
_join = Primitive("join")
_join.def_impl(jax.jit(_written))
_join.def_abstract_eval(lambda *pieces: ShapedArray(_shape(pieces), pieces[0].dtype))
ad.deflinear2(_join, _cut)
batching.primitive_batchers[_join] = _mapped
mlir.register_lowering(_join, mlir.lower_fun(_concatenated, multiple_results=False))
mlir.register_lowering(_join, mlir.lower_fun(_written, multiple_results=False), platform="cpu")
