"""The largest curvature at which an optimizer is stable on a quadratic, from the roots of its recursion.

On E = lambda theta^2 / 2, with all but the linear part of the update frozen (`rules.linear`), let chi =
lambda / R be the preconditioned sharpness and d the weight decay. The iterates are sums of powers z^n of the
roots of

    z - 1 + h (chi V(z) + d) = 0,       V(z) = sum_e scale_e z / (z - decay_e),     V(1) = 1

For small chi > 0 all roots lie inside the unit circle. As chi grows, the first one leaves it at
z = exp(i omega) with

    chi(omega) = -(z - 1 + h d) / (h V(z))      real and positive,

for the usual optimizers at z = -1: chi = (2 - h d) / (h V(-1)). All frequencies omega are searched.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.runs import check_step_number
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.linear import LinearPart, linear_part
from implicit_adam.rules.scheduled import unscheduled
from implicit_adam.types import Scalar, StepNumber

Frequencies = Float[Array, " omega"]

# A memory of decay d reacts at frequencies of about 1 - d, so small frequencies are searched finely, too.
SEARCHED = np.concatenate([np.geomspace(1e-9, 0.1, 2000), np.linspace(0.1, np.pi, 2000)[1:]])
BISECTIONS = 60


def stability_threshold(rule: AbstractRule, n: StepNumber | None = None) -> Scalar:
    """The `preconditioned_sharpness` above which the optimizer is unstable: growing oscillations.

    For Adam, heavy ball, and with beta = 0 RMSProp and gradient descent, d being the weight decay if any,

        (2 - h d) (1 + beta) / ((1 - beta) h)

    For other rules, the value at which the first root of their linear recursion on a quadratic leaves the
    unit circle: for Nesterov 2 (1 + beta) / ((1 - beta) (1 + 2 beta) h). Derived for a frozen preconditioner;
    for Lion and Signum, with the smooth sign linearised at its present argument.

    - `n`: the step at which the learning-rate schedule and the bias correction are taken; by default the
      limit n to infinity. A rule on a schedule needs it: its step size there is h schedule(n).

    Has the unit of 1/h. Infinite if no root ever leaves the circle, 0 if h d >= 2 makes the decay itself
    unstable. Can be jitted, vmapped and differentiated; NaN for traced hyperparameters that would be refused
    as known numbers. Raises `ValueError` for a rule without a linear part or with one that differs between
    points, and for a schedule without n.
    """
    check_rule(rule, AbstractRule)
    if n is not None:
        check_step_number(n, None)
    rule = cast(AbstractRule, unscheduled(rule, n).astype(rule.h.dtype))
    return first_crossing(linear_part(rule, jnp.inf if n is None else n), rule.h)


@jax.jit
def first_crossing(part: LinearPart, h: Scalar) -> Scalar:
    dtype = part.scale.dtype

    def numerator(omega: Frequencies) -> Complex[Array, " omega"]:
        return _z_minus(omega, 1 - h * part.weight_decay)

    def V(omega: Frequencies) -> Complex[Array, " omega"]:
        cos, sin = jnp.cos(omega), jnp.sin(omega)
        terms = zip(part.scale, part.decay, strict=True)
        each = [jax.lax.complex(c * cos, c * sin) / _z_minus(omega, d) for c, d in terms]
        return jnp.sum(jnp.stack(each), axis=0)

    def sideways(omega: Frequencies) -> Frequencies:
        """Im chi, up to positive factors."""
        return jnp.imag(numerator(omega) * jnp.conj(V(omega)))

    def chi(omega: Frequencies) -> Frequencies:
        return -jnp.real(numerator(omega) * jnp.conj(V(omega))) / (h * jnp.abs(V(omega)) ** 2)

    searched = jnp.asarray(SEARCHED, dtype)
    left, right = searched[:-1], searched[1:]
    crosses = sideways(left) * sideways(right) < 0

    def halve(_: StepNumber, ends: tuple[Frequencies, Frequencies]) -> tuple[Frequencies, Frequencies]:
        left, right = ends
        middle = (left + right) / 2
        here = sideways(left) * sideways(middle) > 0
        return jnp.where(here, middle, left), jnp.where(here, right, middle)

    found = jax.lax.stop_gradient(jax.lax.fori_loop(0, BISECTIONS, halve, (left, right))[0])
    # One step of Newton's method, which moves nothing, carries the derivatives in the hyperparameters.
    value, slope = jax.jvp(sideways, (found,), (jnp.ones_like(found),))
    found = found - value / jnp.where(slope == 0, jnp.ones_like(slope), slope)
    complex_ones = chi(found)
    complex_ones = jnp.where(crosses & (complex_ones > 0), complex_ones, jnp.inf)

    at_minus_one = (2 - h * part.weight_decay) / h / jnp.sum(part.scale / (1 + part.decay))
    at_minus_one = jnp.where(at_minus_one <= 0, jnp.inf, at_minus_one)
    first = jnp.minimum(jnp.min(complex_ones), at_minus_one)
    return jnp.where(h * part.weight_decay >= 2, jnp.zeros_like(first), first)


def _z_minus(omega: Frequencies, d: Any) -> Complex[Array, " omega"]:
    """exp(i omega) - d, without cancellation where both are close to 1."""
    return jax.lax.complex(1 - d - 2 * jnp.sin(omega / 2) ** 2, jnp.sin(omega))
