"""Legal rules that no optimizer of the library resembles: other orders, two memories, a readout of n."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from implicit_adam.rules import AbstractRule
from implicit_adam.rules.hyperparameters import scalar
from implicit_adam.rules.kernels import average, delta


class OddRule(AbstractRule):
    h: Array = eqx.field(converter=scalar)
    beta: Array = eqx.field(converter=scalar, default=0.5)
    rho: Array = eqx.field(converter=scalar, default=0.6)

    def features(self, g):
        return g, g**2

    def kernels(self, n):
        return average(self.beta, n), average(self.rho, n)

    def readout(self, s, theta, n):
        M, R2 = s
        return M / jnp.sqrt(R2 + 0.1)


class SoftSigns(OddRule):
    """Features whose width is a hyperparameter."""

    def features(self, g):
        return jnp.tanh(g / self.rho), g**2 / self.rho


class SquareFirst(OddRule):
    """Adam with its features in the other order."""

    def features(self, g):
        return g**2, g

    def kernels(self, n):
        return average(self.rho, n), average(self.beta, n)

    def readout(self, s, theta, n):
        R2, M = s
        return M / jnp.sqrt(R2 + 0.1)


class TwoMemories(OddRule):
    """AdEMAMix with its two memories of the gradient as two features, one of them tripled."""

    def features(self, g):
        return g, g**2, 3 * g

    def kernels(self, n):
        return average(self.beta, n), average(self.rho, n), average(jnp.asarray(0.7), n)

    def readout(self, s, theta, n):
        fast, R2, slow = s
        return (fast + 0.8 * slow / 3) / jnp.sqrt(R2 + 0.1)


class OneKernel(TwoMemories):
    """The same with one kernel of two exponentials, whose mass is 1.8 at every step."""

    def features(self, g):
        return g, g**2

    def kernels(self, n):
        slow = jnp.asarray(0.8) * average(jnp.asarray(0.7), n)
        return average(self.beta, n) + slow, average(self.rho, n)

    def readout(self, s, theta, n):
        M, R2 = s
        return M / jnp.sqrt(R2 + 0.1)


class WarmingUp(OddRule):
    """A readout that depends on n, over kernels whose masses do not."""

    def readout(self, s, theta, n):
        M, R2 = s
        return (1 - 0.5 ** (jnp.asarray(n, float) + 1)) * M / jnp.sqrt(R2 + 0.1)


class Shifting(OddRule):
    """Two weights that change from step to step and sum to one at each."""

    def kernels(self, n):
        now = 1 / (jnp.asarray(n, float) + 2)
        return now * delta(self.h) + (1 - now) * average(self.beta, n), average(self.rho, n)


class Growing(OddRule):
    """A mass that is known and changes with n."""

    def kernels(self, n):
        return (2 - 0.5 ** jnp.asarray(n, float)) * average(self.beta, n), average(self.rho, n)


class Decaying(OddRule):
    """Weight decay inside the readout, two powers of the gradient, a constant feature."""

    def features(self, g):
        return jnp.ones_like(g), g**3 / 10, g

    def kernels(self, n):
        return delta(self.h), average(self.rho, n), average(self.beta, n, bias_correction=False)

    def readout(self, s, theta, n):
        one, cube, M = s
        return jnp.tanh(M + 0.1 * cube) + 0.2 * theta + 0.05 * one


LEGAL = (SquareFirst, TwoMemories, OneKernel, WarmingUp, Shifting, Growing, Decaying)


class MovingDecay(OddRule):
    def kernels(self, n):
        return average(1 - 1 / (jnp.asarray(n, float) + 2), n), average(self.rho, n)


class OneKernelShort(OddRule):
    def kernels(self, n):
        return (average(self.beta, n),)


class Normalised(OddRule):
    def readout(self, s, theta, n):
        return s[0] / jnp.linalg.norm(s[0])


class Sorted(OddRule):
    def features(self, g):
        return jnp.sort(g), g**2


class Averaged(OddRule):
    def readout(self, s, theta, n):
        return jnp.mean(s[0])


class PerCoordinate(OddRule):
    def readout(self, s, theta, n):
        return s[0] * jnp.arange(3.0)


class RootOutside(OddRule):
    """Finite at a dead coordinate, with an infinite derivative there."""

    def readout(self, s, theta, n):
        return s[0] / (s[1] ** 0.25 + 1e-3)


class NoTuple(OddRule):
    def features(self, g):
        return g

    def kernels(self, n):
        return (average(self.beta, n),)

    def readout(self, s, theta, n):
        return s[0]


class OneKernelBare(NoTuple):
    def features(self, g):
        return (g,)

    def kernels(self, n):
        return average(self.beta, n)


class PlainDecay(OneKernelBare):
    def kernels(self, n):
        return (average(0.9, n),)


class PlainNumber(PlainDecay):
    h: float

    def kernels(self, n):
        return (average(self.beta, n),)


ILLEGAL = {
    RootOutside: r"no finite derivative.*rules\.root",
    NoTuple: "must return tuples",
    OneKernelBare: "must return tuples",
    PlainDecay: r"jnp\.asarray\(0\.9\)",
    PlainNumber: "h must become an array",
    MovingDecay: "depend on n",
    OneKernelShort: "one Kernel for each of the 2 features",
    Normalised: "reduce_sum mixes coordinates",
    Sorted: "sort mixes coordinates",
    Averaged: "must be elementwise",
    PerCoordinate: "vectors of any length",
}
