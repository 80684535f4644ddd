"""A loss over more data than fits at once: the mean over micro-batches, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.checks.batches import check_batches
from implicit_adam.loops import scanned_sum
from implicit_adam.types import Batches, Loss, Params, Scalar


def accumulated_loss(loss: Loss, batches: Batches) -> Callable[[Params], Scalar]:
    """theta -> (1/m) sum_b loss(theta, batch_b), whose derivatives hold one micro-batch in memory at a time.

    - `loss`: `loss(params, batch) -> scalar`.
    - `batches`: a pytree of arrays with leading axis m, the micro-batches; equal sizes make the mean exact.

    Returns a loss of the parameters alone (and differentiable in them alone, in any mode and to any order),
    for full-batch training with everything that takes one. Gradient and Hessian-vector product are exact sums
    over a scan that stores nothing of a micro-batch but recomputes it, so that a product costs 8/3 gradients
    instead of 2. The data are leaves of what is returned (a pytree), so that our runs compile with them as
    arguments and not as constants. Raises `ValueError` for batches of unequal numbers.
    """
    check_batches(batches)
    return jax.tree_util.Partial(_value, loss, batches)


def _value(loss: Loss, batches: Batches, params: Params) -> Scalar:
    @jax.custom_jvp
    def value(params: Params) -> Scalar:
        return _mean(loss, params, batches)

    # Left to itself, reverse mode over the scan would store every micro-batch's intermediate results, and a
    # product linearised from it would again: the gradient is given as a scan of its own, under a checkpoint.
    @value.defjvp
    def along(primals: Any, tangents: Any) -> tuple[Scalar, Scalar]:
        (params,), (v,) = primals, tangents
        gradient = jax.checkpoint(lambda params: _mean(jax.grad(loss), params, batches))
        products = jax.tree.map(jnp.vdot, gradient(params), v)
        return value(params), sum(jax.tree.leaves(products), start=jnp.zeros_like(value(params)))

    return value(params)


def _mean(f: Callable[[Params, Any], Any], params: Params, batches: Batches) -> Any:
    """(1/m) sum_b f(params, batch_b), recomputed rather than stored when differentiated."""
    recomputed = jax.checkpoint(f)

    m = check_batches(batches)
    value = jax.eval_shape(f, params, jax.tree.map(lambda x: x[0], batches))
    total = scanned_sum(lambda batch: recomputed(params, batch), batches)
    return jax.tree.map(lambda x, like: (x / m).astype(like.dtype), total, value)
