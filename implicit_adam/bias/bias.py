"""The implicit bias of full-batch training, and the perturbed one-norm that it penalises."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from implicit_adam.checks.numbers import check_positive
from implicit_adam.fields.full_batch.closed_form import check_has_limit, closed_form_terms
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import check_positive_in
from implicit_adam.rules.kernels import mass
from implicit_adam.rules.linear import check_linear, denominator
from implicit_adam.types import Loss, Params, Scalar, Vector
from implicit_adam.vectors import ravel


def perturbed_one_norm(gradient: Params, eps: Any, *, eps_in_sqrt: bool = True) -> Scalar:
    """The perturbed one-norm sum_i sqrt(v_i^2 + eps), which Adam's bias penalises or keeps from falling.

    With eps outside the square root, and then in units of |v|, the norm whose gradient appears instead is
    sum_i |v_i| - eps log(1 + |v_i| / eps). `gradient` is any pytree; eps > 0. The default, eps inside, is the
    norm of the paper, not that of `ia.Adam(h)`: for the norm of a rule pass `eps_in_sqrt=rule.eps_in_sqrt`.
    Raises `ValueError` for an eps that is not positive in the dtype of the gradient.
    """
    check_positive("eps", eps)
    v, dtype = ravel(gradient), jnp.result_type(*jax.tree.leaves(gradient))
    if not jnp.issubdtype(v.dtype, jnp.floating):
        msg = (
            f"gradient must have a real floating dtype, got {v.dtype}, which cannot hold eps; x.astype(float)"
        )
        raise ValueError(msg)
    eps = jnp.asarray(eps).astype(v.dtype)
    check_positive_in(v.dtype, "perturbed_one_norm", "eps", eps)
    terms = jnp.sqrt(v**2 + eps) if eps_in_sqrt else _norm_of_eps_outside(v, eps)
    return jnp.sum(terms).astype(dtype)


def _norm_of_eps_outside(v: Vector, eps: Scalar) -> Vector:
    """|v| - eps log(1 + x), x = |v| / eps, without the cancellation for |v| << eps.

    With y = x / (2 + x) and log(1 + x) = 2 artanh y it is v^2/eps times

        1/(2+x) - 2 x (1/3 + y^2/5 + y^4/7 + ..) / (2+x)^3,

    which is smooth at v = 0, where |v| is not.
    """
    small = jnp.abs(v) < eps
    near = jnp.where(small, v, jnp.zeros_like(v))
    x = jnp.abs(near) / eps
    y2 = (x / (2 + x)) ** 2
    # y < 1/3: the terms left out are below 1e-17 of the first.
    tail = jnp.zeros_like(x)
    for k in reversed(range(18)):
        tail = 1 / (2 * k + 3) + y2 * tail
    series = near * (near / eps) * (1 / (2 + x) - 2 * x * tail / (2 + x) ** 3)
    far = jnp.where(small, eps, jnp.abs(v))
    # |v| / eps itself may overflow.
    log = jnp.where(jnp.isfinite(far / eps), jnp.log1p(far / eps), jnp.log(far) - jnp.log(eps))
    return jnp.where(small, series, far - eps * log)


def bias(rule: AbstractRule, loss: Loss, params: Params) -> Params:
    """The implicit bias of full-batch training for n to infinity: d theta / dt = -F - bias / R.

    F is the update with all gradients taken at theta, and 1/R its derivative with respect to the remembered
    gradient, through all features that are linear in it (`rules.linear`). If F = grad E / R, as for Adam, the
    right side is -(grad E + bias) / R. For Adam and RMSProp with eps inside the square root,
    R = sqrt(g^2 + eps), this is eq. (4),

        bias = (h/2) { (1+beta)/(1-beta) - (1+rho)/(1-rho) + (1+rho)/(1-rho) eps/(g^2+eps) }
               grad ||grad E||_{1,eps}

    With eps outside, R = |g| + eps, the last term in braces is absent and the second is multiplied by
    |g|/(|g|+eps). For any rule, bias = R h DF[v]; R = 1 for gradient descent, 1 - beta for heavy ball.

    Returns a pytree like params, in units of gradients. It is not finite where the update no longer responds
    to the gradient, such as where the smooth sign of Lion saturates. Raises `ValueError` for rules without a
    limit or without a linear feature.
    """
    check_has_limit(rule)
    inputs = checked_inputs(rule, loss, params)
    check_linear(inputs.rule)
    return _bias(identified(inputs))


@eqx.filter_jit
def _bias(inputs: Inputs) -> Params:
    rule, theta = inputs.rule, inputs.theta
    R = late_denominator(rule, inputs.objective, theta)
    _, DF = closed_form_terms(rule, inputs.objective, 1, flow=True)(jnp.inf)(theta)
    return inputs.unraveled(R * rule.h * DF)


def late_denominator(rule: AbstractRule, objective: Objective, theta: Vector) -> Vector:
    """The R of `bias` for n to infinity, with all gradients taken at theta, on flat vectors."""
    (g,) = objective.gradients(theta)
    kernels = rule.kernels(jnp.inf)
    s = tuple(mass(kernel, jnp.inf) * psi for kernel, psi in zip(kernels, rule.features(g), strict=True))
    return denominator(rule, s, theta, jnp.inf)
