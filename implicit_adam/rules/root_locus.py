"""Where a linear recursion becomes unstable: the root locus of an optimizer's memory of the gradient.

On E = lambda theta^2 / 2, with all but the linear part of the update frozen (`rules.linear`), let chi =
lambda / R be the preconditioned sharpness and d the weight decay. The iterates are sums of powers z^n of the
roots of

    z - 1 + h (chi V(z) + d) = 0,       V(z) = sum_e scale_e z / (z - decay_e),     V(1) = 1

For small chi > 0 all roots lie inside the unit circle. As chi grows, the first one leaves it at
z = exp(i omega) with

    chi(omega) = -(z - 1 + h d) / (h V(z))      real and positive,

for the usual optimizers at z = -1: chi = (2 - h d) / (h V(-1)). All frequencies omega are searched.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from implicit_adam.rules.linear import LinearPart
from implicit_adam.types import Scalar, StepNumber

Frequencies = Float[Array, " omega"]

# A memory of decay d reacts at frequencies of about 1 - d, so small frequencies are searched finely, too.
SEARCHED = np.concatenate([np.geomspace(1e-9, 0.1, 2000), np.linspace(0.1, np.pi, 2000)[1:]])
BISECTIONS = 60


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
        """Im chi, but for positive factors."""
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

    first = jnp.minimum(jnp.min(complex_ones), crossing_at_minus_one(part, h))
    return jnp.where(h * part.weight_decay >= 2, jnp.zeros_like(first), first)


def crossing_at_minus_one(part: LinearPart, h: Scalar) -> Scalar:
    """The chi at which iterates that alternate neither grow nor shrink."""
    chi = (2 - h * part.weight_decay) / h / jnp.sum(part.scale / (1 + part.decay))
    return jnp.where(chi <= 0, jnp.inf, chi)


def _z_minus(omega: Frequencies, d: Any) -> Complex[Array, " omega"]:
    """exp(i omega) - d, exact where both are close to 1."""
    return jax.lax.complex(1 - d - 2 * jnp.sin(omega / 2) ** 2, jnp.sin(omega))
