"""Loops of traced length, which reverse mode cannot differentiate; sums and rows computed one at a time."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from implicit_adam.checks.numbers import is_traced
from implicit_adam.types import working_dtype

State = TypeVar("State")

FORWARD_ONLY = (
    "reverse mode (jax.grad, jax.vjp, jax.jacrev) cannot go back through a run or a memory whose number of "
    "steps is traced, nor through an adaptive solver. Use forward mode: jax.jvp(f, (x,), (v,)) along v, "
    "jax.jacfwd(f)(x) for a few hyperparameters; or, where only a field is differentiated, a Python integer n"
)


def loop(first: Any, last: Any, advance: Callable[[Any, State], State], start: State) -> State:
    """`jax.lax.fori_loop`; if a bound is traced, reverse mode raises a readable error."""
    end = jax.lax.fori_loop(first, last, advance, start)
    return forward_only(end) if is_traced(first) or is_traced(last) else end


def forward_only(tree: State) -> State:
    """The tree unchanged; differentiating it in reverse mode raises `RuntimeError`."""
    return eqxi.nondifferentiable_backward(tree, msg=FORWARD_ONLY)


def scanned_sum(f: Callable[[Any], PyTree], xs: PyTree) -> PyTree:
    """sum_i f(xs[i]) over the leading axis, one term at a time, in float32 or wider.

    In bfloat16 a sum of ones would stop at 256.
    """

    def add(total: PyTree, x: Any) -> tuple[PyTree, None]:
        return jax.tree.map(lambda total, term: total + term.astype(total.dtype), total, f(x)), None

    term = jax.eval_shape(f, jax.tree.map(lambda x: x[0], xs))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, working_dtype(x.dtype)), term)
    return jax.lax.scan(add, zero, xs)[0]


def in_rows(f: Callable[..., PyTree], *columns: PyTree) -> PyTree:
    """The rows f(*row) of each row of the columns, one after the other."""
    return scanned_rows(lambda _, row: (_, f(*row)), (), columns)


def in_turn(f: Callable[..., PyTree], *cases: tuple[Any, ...]) -> PyTree:
    """The rows f(*case): compiled once, where a call for each case is compiled for each."""
    return jax.lax.map(lambda case: f(*case), jax.tree.map(lambda *xs: jnp.stack(xs), *cases))


def scanned_rows(step: Callable[[State, Any], tuple[State, PyTree]], state: State, xs: PyTree) -> PyTree:
    """The stacked outputs of `jax.lax.scan(step, state, xs)`, collected in the carry.

    Inside `jax.ensure_compile_time_eval` JAX 0.7 cannot make the array in which a scan stacks its outputs.
    """
    count = len(jax.tree.leaves(xs)[0])
    shapes = jax.eval_shape(lambda state: step(state, jax.tree.map(lambda x: x[0], xs))[1], state)
    rows = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), shapes)

    def advance(i: Any, carry: Any) -> Any:
        state, rows = carry
        state, row = step(state, jax.tree.map(lambda x: x[i], xs))
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), rows, row)

    return jax.lax.fori_loop(0, count, advance, (state, rows))[1]
