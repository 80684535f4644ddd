"""A loss over more data than fits in memory at once: the mean over micro-batches, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.checks.batches import check_batches
from implicit_adam.loops import scanned_sum
from implicit_adam.types import Batches, Loss, Params, Scalar


def accumulated_loss(loss: Loss, batches: Batches) -> Callable[[Params], Scalar]:
    """theta -> (1/m) sum_b loss(theta, batch_b); its derivatives hold one micro-batch in memory at a time.

    - `loss`: `loss(params, batch) -> scalar`.
    - `batches`: a pytree of arrays with leading axis m, the micro-batches. Micro-batches of equal size make
      it the exact mean over the data.

    Returns a loss of the parameters alone for full-batch training, differentiable in the parameters in any
    mode and to any order. Gradients and Hessian-vector products are exact sums over a scan that recomputes
    each micro-batch instead of storing its intermediate results, so a product costs 8/3 gradients instead of
    2. The data are leaves of the returned pytree, so that runs compile with them as arguments and not as
    constants. Raises `ValueError` if the arrays of `batches` have different leading axes.
    """
    check_batches(batches)
    return jax.tree_util.Partial(_value, loss, batches)


def _value(loss: Loss, batches: Batches, params: Params) -> Scalar:
    @jax.custom_jvp
    def value(params: Params) -> Scalar:
        return _mean(loss, params, batches)

    # By default reverse mode over the scan stores the intermediate results of every micro-batch, and a
    # product linearised from it does, too. So the gradient is a scan of its own, under a checkpoint.
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
