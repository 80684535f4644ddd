"""Gradient descent with Nesterov's momentum, in the form of Sutskever et al. 2013."""

from typing import final

import equinox as eqx
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, POSITIVE, scalar
from implicit_adam.rules.kernels import accumulation, delta
from implicit_adam.rules.opt_state import held
from implicit_adam.types import Scalar


@final
class Nesterov(AbstractRule):
    """Nesterov momentum: F^(n) = g_n + beta sum_k beta^(n-k) g_k, heavy ball that looks one step ahead.

    It is `optax.sgd(h, momentum=beta, nesterov=True)` and PyTorch's version: theta is the point at which the
    gradient is taken, that is the point after the look-ahead.
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)

    def features(self, g):
        return (g,)

    def kernels(self, n):
        return (delta(self.h) + self.beta * accumulation(self.beta),)

    def readout(self, s, theta, n):
        return s[0]

    def transformation(self):
        return optax.sgd(self.h, momentum=self.beta, nesterov=True)

    def sums(self, opt_state):
        return ((None, held(opt_state, "trace")),)
