"""Modified losses: the loss E~ that an optimizer implicitly descends, if its modified field is a gradient.

For n large, with b and r the decays of the averages of g and g^2, the iterates follow

    gradient descent         d theta / dt = -grad E~,    E~ = E + (h/4) ||grad E||^2
    shuffled mini-batches    d theta / dt = -grad E~,    E~ = E + h/(4m) sum_k ||grad E_k||^2
    heavy ball               d theta / dt = -grad E~,    E~ = E/(1-b) + h (1+b) (1-b)^-3 ||grad E||^2 / 4
    Adam, eps small          d theta_j / dt = -grad_j E~ / |grad_j E|,
                             E~ = E + (h/2) { (1+b)/(1-b) - (1+r)/(1-r) } ||grad E||_1
    Adam, eps large          d theta / dt = -grad E~,
                             E~ = ( E + h/(4 sqrt(eps)) (1+b)/(1-b) ||grad E||^2 ) / sqrt(eps)

Each function takes the optimizer and the loss and returns E~ as a function of the parameters alone, which
can be differentiated, plotted or minimised like any loss.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from implicit_adam.checks.optimizers import check_kind
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.rules.adam import Adam
from implicit_adam.rules.gradient_descent import GradientDescent
from implicit_adam.rules.heavy_ball import HeavyBall
from implicit_adam.rules.rmsprop import RMSProp
from implicit_adam.types import Batches, Loss, Params, Scalar, Vector

__all__ = [
    "adam_large_eps",
    "adam_small_eps",
    "gradient_descent",
    "heavy_ball",
    "shuffled_gradient_descent",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)


ModifiedLoss = Callable[[Params], Scalar]


def gradient_descent(rule: GradientDescent, loss: Loss) -> ModifiedLoss:
    """E~ = E + (h/4) ||grad E||^2 of full-batch gradient descent, whose field is -grad E~ at every step.

    Barrett & Dherin (2021). `loss(params) -> scalar`; E~ is in units of the loss. Raises `ValueError` for
    another optimizer; the returned function raises it for bad parameters or losses, as `vector_field` does.
    """
    check_kind("modified_losses.gradient_descent", rule, GradientDescent)

    return _modified(_gradient_descent, rule, loss)


def shuffled_gradient_descent(rule: GradientDescent, loss: Loss, batches: Batches) -> ModifiedLoss:
    """E~ = E + h/(4m) sum_k ||grad E_k||^2 of gradient descent on m shuffled mini-batches, E their mean loss.

    Smith et al. (2021): after one epoch, the iterate averaged over all shuffles is O((mh)^3)-close to the
    solution of d theta / dt = -grad E~ at time mh. `loss(params, batch) -> scalar`; `batches` is a pytree of
    arrays with leading axis m; E~ is in units of the loss. Errors as in `gradient_descent`, and for bad
    batches.
    """
    check_kind("modified_losses.shuffled_gradient_descent", rule, GradientDescent)

    def modified_loss(params: Params) -> Scalar:
        return _shuffled(identified(checked_inputs(rule, loss, params, batches)))

    return modified_loss


def heavy_ball(rule: HeavyBall, loss: Loss) -> ModifiedLoss:
    """E~ = E/(1-b) + h (1+b) (1-b)^-3 ||grad E||^2 / 4 of heavy ball, b = beta, full batch and n large.

    Ghosh et al. (2023), eq. (1), which the paper prints without its minus sign: the field is -grad E~. E~ is
    in units of the loss. Arguments and errors as in `gradient_descent`.
    """
    check_kind("modified_losses.heavy_ball", rule, HeavyBall)

    return _modified(_heavy_ball, rule, loss)


def adam_small_eps(rule: Adam | RMSProp, loss: Loss) -> ModifiedLoss:
    """E~ = E + (h/2) { (1+b)/(1-b) - (1+r)/(1-r) } ||grad E||_1, eq. (6), b = beta (0 for RMSProp), r = rho.

    For n large and eps small, min_j |grad_j E| >> sqrt(eps) (or eps, if it stands outside the root), the
    field of full-batch Adam is -grad_j E~ / |grad_j E| in component j. With b < r, the usual setting, the
    decrease of the one-norm is hindered. E~ is in units of the loss and does not depend on eps. Arguments and
    errors as in `gradient_descent`.
    """
    check_kind("modified_losses.adam_small_eps", rule, Adam, RMSProp)

    return _modified(_adam_small_eps, rule, loss)


def adam_large_eps(rule: Adam | RMSProp, loss: Loss) -> ModifiedLoss:
    """E~ = ( E + h/(4 sqrt(eps)) (1+b)/(1-b) ||grad E||^2 ) / sqrt(eps), eq. (8), b = beta (0 for RMSProp).

    For n large and eps large, max_j |grad_j E| << sqrt(eps), the field of full-batch Adam is -grad E~. Up to
    a linear change of step and time this is `heavy_ball` (Example 2.1). E~ is in units of the loss /
    sqrt(eps) and does not depend on rho. Arguments and errors as in `gradient_descent`. Also refused is an
    eps outside the square root: there the field differs from -grad E / eps by a relative amount of |grad_j E|
    / eps, which no large eps makes small compared with the correction, of relative size h / eps.
    """
    check_kind("modified_losses.adam_large_eps", rule, Adam, RMSProp)
    if not rule.eps_in_sqrt:
        msg = "modified_losses.adam_large_eps: eq. (8) holds for eps inside the square root, eps_in_sqrt=True"
        raise ValueError(msg)

    return _modified(_adam_large_eps, rule, loss)


@eqx.filter_jit
def _shuffled(inputs: Inputs) -> Scalar:
    h, m = inputs.rule.h, inputs.objective.m
    values_and_gradients = jax.vmap(jax.value_and_grad(inputs.objective.loss), (None, 0), axis_size=m)
    E_k, g_k = values_and_gradients(inputs.theta, inputs.batches)
    return jnp.mean(E_k) + h / (4 * m) * jnp.sum(g_k**2)


def _gradient_descent(rule: GradientDescent, E: Scalar, g: Vector) -> Scalar:
    return E + rule.h / 4 * jnp.sum(g**2)


def _heavy_ball(rule: HeavyBall, E: Scalar, g: Vector) -> Scalar:
    h, b = rule.h, rule.beta
    return E / (1 - b) + h * (1 + b) * (1 - b) ** -3 * jnp.sum(g**2) / 4


def _adam_small_eps(rule: Adam | RMSProp, E: Scalar, g: Vector) -> Scalar:
    b, r = _decays(rule)
    return E + rule.h / 2 * ((1 + b) / (1 - b) - (1 + r) / (1 - r)) * jnp.sum(jnp.abs(g))


def _adam_large_eps(rule: Adam | RMSProp, E: Scalar, g: Vector) -> Scalar:
    (b, _), root = _decays(rule), jnp.sqrt(rule.eps)
    return (E + rule.h / (4 * root) * (1 + b) / (1 - b) * jnp.sum(g**2)) / root


def _modified(formula: Callable[[Any, Scalar, Vector], Scalar], rule: Any, loss: Loss) -> ModifiedLoss:
    """params -> formula(rule, E, grad E), with the hyperparameters in the dtype of the parameters."""

    def modified_loss(params: Params) -> Scalar:
        return _value(formula, identified(checked_inputs(rule, loss, params)))

    return modified_loss


@eqx.filter_jit
def _value(formula: Callable[[Any, Scalar, Vector], Scalar], inputs: Inputs) -> Scalar:
    E, g = jax.value_and_grad(inputs.objective.loss)(inputs.theta, None)
    return formula(inputs.rule, E, g)


def _decays(rule: Adam | RMSProp) -> tuple[Scalar, Scalar]:
    """beta and rho; beta = 0 for RMSProp, which does not average gradients."""
    beta = rule.beta if isinstance(rule, Adam) else jnp.zeros_like(rule.rho)
    return beta, rule.rho
