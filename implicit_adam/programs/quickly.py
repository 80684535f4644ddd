"""Compiling small programs that run once or a few times: quickly, in place of well.

Most of the time of a first call goes into compiling the programs that look at an optimizer or a loss, and
most of that into optimizing them.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from implicit_adam.checks.numbers import is_traced
from implicit_adam.programs.captured import trace

OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


class TracedError(Exception):
    """A function holds traced values."""


def compiled_quickly(f: Callable[..., Any], *like: Any) -> Callable[..., Any]:
    """f for arrays like these, compiled sooner than by `jax.jit`, to values that run slower.

    It can be called inside of a trace, with values. Raises `TracedError` if f holds values that are traced.
    """
    program, results = trace(f, *like)
    if any(map(is_traced, program.consts)):
        raise TracedError
    leaves = [_placed(x, aval) for x, aval in zip(jax.tree.leaves(like), program.in_avals, strict=True)]
    compiled = jax.jit(jaxpr_as_fun(program)).lower(*leaves).compile(dict(_known()))
    structure = jax.tree.structure(results)
    return lambda *args: structure.unflatten(compiled(*jax.tree.leaves(args)))


def _placed(x: Any, aval: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an argument, and where it is, if it has been put there."""
    sharding = x.sharding if isinstance(x, jax.Array) and x.committed else None
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)


def canonical(x: np.ndarray) -> np.ndarray:
    """The array in the dtype in which JAX computes with it."""
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))


@cache
def _known() -> tuple[tuple[str, Any], ...]:
    """The options that this XLA has, on a CPU: with one that it does not know nothing is compiled."""
    if jax.default_backend() != "cpu":
        return ()
    if _compiles(OPTIONS):
        return tuple(OPTIONS.items())
    return tuple((name, value) for name, value in OPTIONS.items() if _compiles({name: value}))


def _compiles(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: 0).lower().compile(options)
    except Exception:
        return False
    return True
