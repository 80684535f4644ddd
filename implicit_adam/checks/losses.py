"""Checks of the loss: a function of parameters, or of parameters and a batch, to one real number."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from implicit_adam.checks.batches import STACK


def check_loss(loss: Callable[..., Any], params: PyTree, batches: PyTree) -> None:
    """The loss must return one real number, found from shapes without computing it."""
    check_takes(loss, "params" if batches is None else "params and batch")

    def first(params: PyTree, batches: PyTree) -> Any:
        return loss(params) if batches is None else loss(params, jax.tree.map(lambda x: x[0], batches))

    try:
        value = jax.eval_shape(first, params, batches)
    except TypeError as error:
        if not isinstance(batches, list) or "list" not in str(error):
            raise
        msg = (
            f"the loss fails on its first mini-batch, a list of {len(batches)} arrays ({error}). If "
            f"`batches` is a list of mini-batches, stack them: {STACK}"
        )
        raise ValueError(msg) from error
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = f"shape {shape}, dtype {dtype}" if dtype is not None else type(value).__name__
        msg = f"loss must return one real number (shape (), floating dtype), got {got}; take a mean?"
        raise ValueError(msg)


def check_takes(loss: Any, what: str) -> None:
    """The loss must be callable with params alone, or with params and a batch."""
    if not callable(loss):
        msg = f"loss must be a function, loss(params) or loss(params, batch), got a {type(loss).__name__}"
        raise ValueError(msg)  # noqa: TRY004
    try:
        inspect.signature(loss).bind(*what.split(" and "))
    except TypeError as error:
        fix = (
            "it is called as loss(params), without batches. Pass `batches` where they are taken; elsewhere "
            "close over the data, lambda params: loss(params, data), or take the mean over mini-batches, "
            "lambda params: jnp.mean(jax.vmap(loss, (None, 0))(params, batches))"
            if what == "params"
            else "with `batches` it is called as loss(params, batch); give it that second argument, or leave "
            "`batches` out"
        )
        msg = f"the loss does not fit how it is called ({error}): {fix}"
        raise ValueError(msg) from error
    except ValueError:
        # Some builtins have no signature.
        return
