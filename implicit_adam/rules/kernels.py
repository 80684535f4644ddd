"""Memory kernels: the weight of every past gradient in the memory of an optimizer.

Every kernel here is a sum of exponentials in the lag j = n - k,

    w(n, k) = sum_e scale_e(n) * decay_e^(n-k),        k = 0 .. n,

so that all sums over the history have closed forms. `decay = 0` is the present gradient alone (0^0 = 1),
and `decay = 1` is a memory that never forgets.
"""

from functools import partial
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.reprs import call
from implicit_adam.types import Scalar, StepNumber, Vector


class Kernel(eqx.Module):
    """One memory kernel at one step n: w(n, k) = sum_e scale_e decay_e^(n-k).

    Kernels can be added, and multiplied by numbers, as functions of k.

    - `scale`, `decay`: (terms,) of the exponentials. The decays lie in [0, 1] and are the same at every step.
    - `masses`: (terms,) the sum of the weights of each exponential at this step, if it is known in advance:
      the weights of a bias-corrected average sum to one. Otherwise None. Masses add and scale with their
      kernels. If they are the same at every step, so is an update frozen at one point, and Remark 3.2's
      closed forms apply.
    - `forgets`: whether old gradients fade, so that the limit n to infinity exists.
    """

    scale: Float[Array, " terms"]
    decay: Float[Array, " terms"]
    masses: Float[Array, " terms"] | None = None
    forgets: bool = eqx.field(static=True, default=True)

    def __repr__(self) -> str:
        return call(self)

    def __add__(self, other: "Kernel") -> "Kernel":
        scale = jnp.concatenate([self.scale, other.scale])
        decay = jnp.concatenate([self.decay, other.decay])
        masses = None
        if self.masses is not None and other.masses is not None:
            masses = jnp.concatenate([self.masses, other.masses])
        return Kernel(scale, decay, masses, forgets=self.forgets and other.forgets)

    def __rmul__(self, factor: Scalar | float) -> "Kernel":
        masses = None if self.masses is None else factor * self.masses
        return Kernel(factor * self.scale, self.decay, masses, forgets=self.forgets)


@runtime_checkable
class HasKernels(Protocol):
    """What fields need to know of an optimizer.

        F^(n) = readout(s, theta, n),       s_i = sum_{k<=n} w_i(n, k) psi_i(g_k)

    A rule, whose features and readout are elementwise, or an optax transformation (`from_optax.kernel_form`).
    """

    @property
    def h(self) -> Scalar:
        """The step size."""
        ...

    def features(self, g: Float[Array, "*batch p"]) -> tuple[Float[Array, "*batch p"], ...]:
        """The features psi_i(g)."""
        ...

    def kernels(self, n: StepNumber) -> tuple[Kernel, ...]:
        """The kernel of each feature at step n."""
        ...

    def readout(self, s: tuple[Vector, ...], theta: Vector, n: StepNumber) -> Vector:
        """F^(n) from the remembered features."""
        ...


def delta(like: Scalar) -> Kernel:
    """The present gradient only: w(n, k) = [k = n], in the dtype of `like`."""
    one = jnp.ones((1,), like.dtype)
    return Kernel(one, jnp.zeros_like(one), one)


def accumulation(decay: Scalar) -> Kernel:
    """Classical momentum: w(n, k) = decay^(n-k), decay < 1."""
    return Kernel(jnp.ones_like(decay)[None], decay[None])


def total(like: Scalar) -> Kernel:
    """The plain sum of all gradients so far: w(n, k) = 1, never forgotten."""
    one = jnp.ones((1,), like.dtype)
    return Kernel(one, one, forgets=False)


def average(decay: Scalar, n: StepNumber, *, bias_correction: bool = True) -> Kernel:
    """The exponential moving average of Definition 1.1, (1-decay) decay^(n-k) / (1 - decay^(n+1)).

    Without bias correction the denominator is absent. `n` may be `jnp.inf`.
    """
    scale = 1 - decay
    if not bias_correction:
        return Kernel(scale[None], decay[None])
    scale = scale / one_minus_power(decay, n + 1)
    return Kernel(scale[None], decay[None], jnp.ones_like(decay)[None])


def at_lag(kernel: Kernel, lag: StepNumber) -> Float[Array, " terms"]:
    """(terms,) The exponentials of w(n, n - lag)."""
    return kernel.scale * power(kernel.decay, lag)


def masses(kernel: Kernel, n: StepNumber) -> Float[Array, " terms"]:
    """(terms,) Each exponential of w(n, k) summed over k <= n; `n` may be `jnp.inf`."""
    return kernel.scale * geometric_sum(kernel.decay, n + 1) if kernel.masses is None else kernel.masses


def mass(kernel: Kernel, n: StepNumber) -> Scalar:
    """sum_{k<=n} w(n, k); `n` may be `jnp.inf`."""
    return jnp.sum(masses(kernel, n))


def lag_moment(kernel: Kernel, n: StepNumber) -> Scalar:
    """sum_{k<=n} w(n, k) (n-k); for `average` the bracket of Remark 3.2. `n` may be `jnp.inf`."""
    return jnp.sum(masses(kernel, n) * mean_lag(kernel.decay, n + 1))


def squared_lag_moment(kernel: Kernel, n: StepNumber) -> Scalar:
    """sum_{k<=n} w(n, k) (n-k)^2; `n` may be `jnp.inf`."""
    return jnp.sum(masses(kernel, n) * mean_squared_lag(kernel.decay, n + 1))


def owners(kernels: tuple[Kernel, ...]) -> np.ndarray:
    """(r, terms) 1 where a term belongs to the kernel of the row, else 0; terms of all kernels in order."""
    return np.repeat(np.eye(len(kernels)), [kernel.decay.size for kernel in kernels], axis=1)


def term_masses(kernels: tuple[Kernel, ...], n: StepNumber) -> Float[Array, "r terms"]:
    """The masses of all terms, each in the row of its own kernel, zeros elsewhere."""
    every = jnp.concatenate([masses(kernel, n) for kernel in kernels])
    return jnp.asarray(owners(kernels), every.dtype) * every[None]


@partial(jax.jit, inline=True)
def power(x: Float[Array, "*shape"], N: StepNumber) -> Float[Array, "*shape"]:
    """x^N for N >= 0, with 0^0 = 1 and the derivative 0 there (JAX gives NaN for floating exponents)."""
    N = jnp.asarray(N).astype(x.dtype)
    return jnp.where(N == 0, jnp.ones_like(x), x ** jnp.where(N == 0, jnp.ones_like(N), N))


@partial(jax.jit, inline=True)
def one_minus_power(x: Float[Array, "*shape"], N: StepNumber) -> Float[Array, "*shape"]:
    """1 - x^N for 0 <= x <= 1 without cancellation near x = 1; N >= 0 may be `jnp.inf`."""
    N = jnp.asarray(N).astype(x.dtype)
    N_finite = jnp.where(jnp.isfinite(N), N, jnp.ones_like(N))
    away = 1 - power(jnp.where(x > 0.5, jnp.zeros_like(x), x), N_finite)
    near = -jnp.expm1(N_finite * jnp.log(jnp.where(x > 0.5, x, jnp.ones_like(x))))
    # Selecting the inputs as well as the outputs keeps derivatives finite at x = 0 and N = infinity.
    value = jnp.where(x > 0.5, near, away)
    return jnp.where(jnp.isfinite(N), value, jnp.ones_like(value))


@partial(jax.jit, inline=True)
def geometric_sum(x: Float[Array, "*shape"], N: StepNumber) -> Float[Array, "*shape"]:
    """sum_{j<N} x^j for 0 <= x <= 1."""
    N = jnp.asarray(N).astype(x.dtype)
    ratio = one_minus_power(x, N) / (1 - jnp.where(x < 1, x, jnp.zeros_like(x)))
    return jnp.where(x < 1, ratio, N)


@partial(jax.jit, inline=True)
def mean_lag(x: Float[Array, "*shape"], N: StepNumber) -> Float[Array, "*shape"]:
    """sum_{j<N} j x^j / sum_{j<N} x^j  =  x/(1-x) - N x^N / (1 - x^N).

    The two terms nearly cancel when N (1-x) is small. With u = -log x they are 1/expm1(u) and
    N/expm1(N u), whose poles 1/u cancel exactly, so only the regular parts are subtracted.
    """
    N = jnp.asarray(N).astype(x.dtype)
    N_finite = jnp.where(jnp.isfinite(N), N, jnp.ones_like(N))
    x_away = jnp.where(x > 0.5, jnp.zeros_like(x), x)
    faded = power(x_away, N_finite)
    # N = 0, an empty sum, has no mean; the lag 0 is as good as any.
    away = x_away / (1 - x_away) - N_finite * faded / jnp.where(N_finite > 0, 1 - faded, jnp.ones_like(x))
    u = -jnp.log(jnp.where(x > 0.5, x, jnp.ones_like(x)))
    near = inverse_expm1_regular(u) - N_finite * inverse_expm1_regular(N_finite * u)
    x_below = jnp.where(x < 1, x, jnp.zeros_like(x))
    limit = jnp.where(x < 1, x_below / (1 - x_below), jnp.full_like(x, jnp.inf))
    return jnp.where(jnp.isfinite(N), jnp.where(x > 0.5, near, away), limit)


def mean_squared_lag(x: Float[Array, "*shape"], N: StepNumber) -> Float[Array, "*shape"]:
    """sum_{j<N} j^2 x^j / sum_{j<N} x^j; the variance of the lag is x d/dx of the mean lag."""
    mean, variance = jax.jvp(lambda x: mean_lag(x, N), (x,), (x,))
    return variance + mean**2


def inverse_expm1_regular(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """B(u) = 1/expm1(u) - 1/u, by its series (Bernoulli numbers) where the difference would cancel.

    For u < 0 it is B(u) = -1 - B(-u).
    """
    size = jnp.abs(u)
    series = -1 / 2 + u / 12 - u**3 / 720 + u**5 / 30240
    large = jnp.where(size > 0.05, size, jnp.ones_like(u))
    # exp(-u) in place of exp(u), which overflows, and whose derivative would be infinity by infinity.
    away = -jnp.exp(-large) / jnp.expm1(-large) - 1 / large
    return jnp.where(size > 0.05, jnp.where(u > 0, away, -1 - away), series)
