"""The rates at which the velocity, and memory and step in it, change norms of the gradient.

With N a norm of g = grad E and w = grad N(theta) = Hess E dN/dg, a part u of the velocity changes N at the
rate w . u = dN/dg . (Hess E u). One product with the Hessian for each part gives the rates of all norms:

    dN/dg = sign(g) for the one-norm, g / ||g|| for the two-norm, g / sqrt(g^2 + eps) for the perturbed one
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from implicit_adam.diagnosis.moment import Moment
from implicit_adam.diagnosis.split import Parts
from implicit_adam.rules.scheduled import below_schedules
from implicit_adam.types import Scalar, Vector


class NormRate(NamedTuple):
    """A norm of the gradient: its value, and the rates per unit of time at which the run changes it.

    `velocity` is the rate of the whole velocity, and `bias` the part due to memory and step: below zero the
    norm is penalised, above zero its decrease is hindered.
    """

    value: Scalar
    velocity: Scalar
    bias: Scalar


def norm_rates(now: Moment, parts: Parts) -> dict[str, NormRate]:
    """The `NormRate` of each norm of the full-batch gradient; the perturbed one-norm only with an eps."""
    inputs = now.inputs
    gradient = jax.grad(inputs.objective.full_batch().loss)
    g, along = jax.linearize(lambda theta: gradient(theta, None), inputs.theta)
    velocity, bias = along(parts.velocity), along(parts.bias)

    def rate(value: Scalar, slope: Vector) -> NormRate:
        return NormRate(value, slope @ velocity, slope @ bias)

    two = jnp.linalg.norm(g)
    rates = {
        "one_norm": rate(jnp.sum(jnp.abs(g)), jnp.sign(g)),
        "two_norm": rate(two, g / jnp.where(two > 0, two, jnp.ones_like(two))),
    }
    eps = _eps(inputs.rule)
    if eps is not None:
        root = jnp.sqrt(g**2 + eps)
        rates["perturbed_one_norm"] = rate(jnp.sum(root), g / root)
    return rates


def _eps(rule: Any) -> Scalar | None:
    """The optimizer's eps; if it is outside the root, its square, which has the same width in g."""
    rule = below_schedules(rule)
    eps = getattr(rule, "eps", None)
    if eps is None or getattr(rule, "eps_in_sqrt", None) is None:
        return None
    return eps if rule.eps_in_sqrt else eps**2
