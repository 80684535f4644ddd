"""Loops whose length is only known when they run: forward mode goes through them, reverse mode cannot."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox.internal as eqxi
import jax

from implicit_adam.checks.numbers import is_traced

State = TypeVar("State")

FORWARD_ONLY = (
    "reverse mode (jax.grad, jax.vjp, jax.jacrev) cannot go back through a run or a memory whose number of "
    "steps is traced, nor through an adaptive solver. Use forward mode: jax.jvp(f, (x,), (v,)) along v, "
    "jax.jacfwd(f)(x) for a few hyperparameters; or, where only a field is differentiated, a Python integer n"
)


def loop(first: Any, last: Any, advance: Callable[[Any, State], State], start: State) -> State:
    """`jax.lax.fori_loop`, which reverse mode refuses in words where a bound is traced."""
    end = jax.lax.fori_loop(first, last, advance, start)
    return forward_only(end) if is_traced(first) or is_traced(last) else end


def forward_only(tree: State) -> State:
    """The same; raises `RuntimeError` where reverse mode comes by."""
    return eqxi.nondifferentiable_backward(tree, msg=FORWARD_ONLY)
