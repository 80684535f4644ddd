"""Explicit gradient penalties: the implicit terms of modified equations, added to the loss.

Each function takes a loss, `loss(params)` or `loss(params, batch)`, and returns one of the same signature,

    E + weight * (a norm of grad E),

for each mini-batch if there are batches. `weight` may be traced and may have either sign (a negative one
hinders the decrease of the norm, as Adam with rho > beta does). The result is differentiable wherever the
loss is twice differentiable.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from implicit_adam.bias.bias import perturbed_one_norm
from implicit_adam.checks.losses import check_loss, check_takes
from implicit_adam.checks.numbers import check_finite, check_positive
from implicit_adam.types import Loss, Params, Scalar, Vector
from implicit_adam.vectors import ravel

__all__ = [
    "one_norm",
    "squared_two_norm",
    "two_norm",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)


def squared_two_norm(loss: Loss, weight: Any) -> Loss:
    """E + weight ||grad E||^2; gradient descent implicitly has weight h/4 (Barrett & Dherin 2021).

    `weight` is in units of params^2 / loss. Raises `ValueError` for a weight that is not a finite scalar; the
    returned loss raises it if the original loss does not return a real number.
    """
    return _penalised(loss, weight, lambda g: jnp.sum(g**2))


def two_norm(loss: Loss, weight: Any) -> Loss:
    """E + weight ||grad E|| (Zhao et al. 2022).

    Where grad E = 0 the norm has a kink; its derivative there is set to zero. `weight` is in units of params.
    Errors as in `squared_two_norm`.
    """
    # safe_norm guards the root's input and its output: with one guard the derivative at 0 would be NaN.
    return _penalised(loss, weight, lambda g: optax.safe_norm(g, 0.0))


def one_norm(loss: Loss, weight: Any, eps: Any) -> Loss:
    """E + weight ||grad E||_{1,eps} with ||v||_{1,eps} = sum_i sqrt(v_i^2 + eps), the norm of eq. (4).

    `weight` is in units of params, `eps` > 0 in units of squared gradients. Errors as in
    `squared_two_norm`, and for an eps that is not positive in the dtype of the gradient.
    """
    check_positive("eps", eps)
    eps = jnp.asarray(eps)

    def norm(g: Vector) -> Scalar:
        return perturbed_one_norm(g, eps, eps_in_sqrt=True)

    return _penalised(loss, weight, norm)


def _penalised(loss: Loss, weight: Any, norm: Callable[[Vector], Scalar]) -> Loss:
    check_finite("weight", weight)

    def penalised_loss(params: Params, *batch: Any) -> Scalar:
        check_takes(loss, "params and batch" if batch else "params")
        check_loss(lambda params: loss(params, *batch), params, None)
        E, gradient = jax.value_and_grad(loss)(params, *batch)
        return E + jnp.asarray(weight, E.dtype) * norm(ravel(gradient)).astype(E.dtype)

    return penalised_loss
