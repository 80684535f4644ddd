"""Gradient descent, full-batch or stochastic."""

from typing import final

import equinox as eqx
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import POSITIVE, scalar
from implicit_adam.rules.kernels import delta
from implicit_adam.types import Scalar


@final
class GradientDescent(AbstractRule):
    """Gradient descent: F^(n) = g_n.

    In full batch its modified loss is E + (h/4) ||grad E||^2 (Barrett & Dherin 2021).
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)

    def features(self, g):
        return (g,)

    def kernels(self, n):
        return (delta(self.h),)

    def readout(self, s, theta, n):
        return s[0]

    def transformation(self):
        return optax.sgd(self.h)

    def sums(self, opt_state):
        return ((None,),)
