"""Adagrad (Duchi et al. 2011), whose memory never forgets."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import NON_NEGATIVE, POSITIVE, scalar
from implicit_adam.rules.kernels import delta, total
from implicit_adam.rules.opt_state import held
from implicit_adam.types import Scalar


@final
class Adagrad(AbstractRule):
    """Adagrad: F^(n) = g_n / sqrt(initial_accumulator + sum_k g_k^2 + eps), without a limit n to infinity.

    `initial_accumulator` >= 0 and `eps` > 0 are in units of g^2, as in optax (in PyTorch the accumulator
    starts at 0 and eps stands outside the root).
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    initial_accumulator: Scalar = eqx.field(converter=scalar, metadata=NON_NEGATIVE, default=0.1)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, default=1e-7)

    def features(self, g):
        return g, g**2

    def kernels(self, n):
        return delta(self.h), total(self.h)

    def readout(self, s, theta, n):
        g, R2 = s
        return g / jnp.sqrt(self.initial_accumulator + R2 + self.eps)

    def transformation(self):
        return optax.adagrad(self.h, self.initial_accumulator, self.eps)

    def sums(self, opt_state):
        return (None,), (held(opt_state, "sum_of_squares") - self.initial_accumulator,)
