"""Which extreme of eq. (4), and so which cell of Table 1, describes the bias at a point."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from implicit_adam.checks.optimizers import check_kind
from implicit_adam.fields.full_batch.closed_form import closed_form_terms
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.reprs import fields_of, named
from implicit_adam.rules.adam import Adam
from implicit_adam.rules.rmsprop import RMSProp
from implicit_adam.types import Flag, Loss, Params, Scalar, Vector

# The factor between g^2 and eps (|g| and eps outside) that makes eps "small" or "large" in Table 1.
FACTOR = 100.0

# The cells of Table 1, by the index in `Regimes.cell`.
CELLS = (
    "beta >= rho, eps small: the one-norm of the gradient is penalised",
    "beta >= rho, eps large: the squared two-norm of the gradient is penalised",
    "rho > beta, eps small: the decrease of the one-norm is hindered",
    "rho > beta, eps large: the squared two-norm of the gradient is penalised",
    "in between: most coordinates are in neither extreme",
    "unknown: the gradient is not finite",
)


class Regimes(NamedTuple):
    """Eq. (4) at one point: the sign of the bias, the cell of Table 1, and the size of the correction.

    - `brace`: the factor in braces for each coordinate, a pytree like params; positive penalises the norm.
    - `positive`: the share of coordinates where the brace is positive.
    - `alignment`: cosine of the bias and the gradient of the norm; at -1 its decrease is only hindered.
    - `eps_small`, `eps_between`, `eps_large`: shares of coordinates: g^2 > 100 eps, between, g^2 < eps/100;
      with eps outside the root |g| > 100 eps, between, |g| < eps/100.
    - `cell`: index into `CELLS`: the cell that over half of the coordinates are in, with the sign it states.
    - `validity`: ||h DF[v]|| / ||F||, the size of the first correction relative to the leading flow. It grows
      as h times memory times curvature, and the next term is about its square: trust the expansion below
      about 0.1; above 1 it says nothing.
    """

    brace: Params
    positive: Scalar
    alignment: Scalar
    eps_small: Scalar
    eps_between: Scalar
    eps_large: Scalar
    cell: Int[Array, ""]
    validity: Scalar

    def __repr__(self) -> str:
        return fields_of(self, cell=named(self.cell, CELLS))


def regimes(rule: Adam | RMSProp, loss: Loss, params: Params) -> Regimes:
    """The factor in braces of eq. (4) for each coordinate, and the cell of Table 1 that it amounts to.

        eps inside:   (1+b)/(1-b) - (1+r)/(1-r) + (1+r)/(1-r) eps / (g^2 + eps)
        eps outside:  (1+b)/(1-b) - (1+r)/(1-r) |g| / (|g| + eps)

    with b = beta (0 for RMSProp), r = rho, full batch and n to infinity. With eps outside, |g| is compared
    with eps. Can be jitted and vmapped. Raises `ValueError` for other optimizers and for bad arguments.
    """
    check_kind("regimes", rule, Adam, RMSProp)
    return _regimes(identified(checked_inputs(rule, loss, params)))


@eqx.filter_jit
def _regimes(inputs: Inputs) -> Regimes:
    rule, theta = inputs.rule, inputs.theta
    (g,) = inputs.objective.gradients(theta)
    memories = [kernel.decay[0] for kernel in rule.kernels(jnp.inf)]
    cb, cr = ((1 + decay) / (1 - decay) for decay in memories)
    share_of_rho = g**2 / (g**2 + rule.eps) if rule.eps_in_sqrt else jnp.abs(g) / (jnp.abs(g) + rule.eps)
    brace = cb - cr * share_of_rho

    F, DF = closed_form_terms(rule, inputs.objective, 1, flow=True)(jnp.inf)(theta)
    _, products = inputs.objective.linearize(theta)
    (norm_gradient,) = products(F[None])
    # The bias is (h/2) brace * grad of the norm; h/2 does not turn it.
    alignment = cosine(brace * norm_gradient, norm_gradient)

    ratio = g**2 / rule.eps if rule.eps_in_sqrt else jnp.abs(g) / rule.eps
    is_small, is_large = ratio > FACTOR, ratio < 1 / FACTOR
    small, large = (jnp.mean(here).astype(theta.dtype) for here in (is_small, is_large))
    return Regimes(
        brace=inputs.unraveled(brace),
        positive=jnp.mean(brace > 0).astype(theta.dtype),
        alignment=alignment,
        eps_small=small,
        eps_between=1 - small - large,
        eps_large=large,
        cell=_cell(memories[0] >= memories[1], is_small, is_large, brace),
        validity=rule.h * jnp.linalg.norm(DF) / jnp.linalg.norm(F),
    )


def cosine(x: Vector, y: Vector) -> Scalar:
    """The cosine of the angle between two vectors."""
    return x @ y / (jnp.linalg.norm(x) * jnp.linalg.norm(y))


def _cell(beta_at_least_rho: Flag, is_small: Any, is_large: Any, brace: Vector) -> Int[Array, ""]:
    # With cr >> cb the brace can be negative well into "large eps": such a coordinate belongs to no cell.
    row = jnp.where(beta_at_least_rho, 0, 2)
    small = jnp.mean(is_small & jnp.where(beta_at_least_rho, brace >= 0, brace < 0))
    large = jnp.mean(is_large & (brace > 0))
    known = jnp.where(small > 1 / 2, row, jnp.where(large > 1 / 2, row + 1, 4))
    return jnp.where(jnp.all(jnp.isfinite(brace)), known, 5)
