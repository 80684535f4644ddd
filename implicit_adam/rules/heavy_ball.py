"""Gradient descent with Polyak's heavy-ball momentum, in the classical form of eq. (1)."""

from typing import final

import equinox as eqx
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, POSITIVE, scalar
from implicit_adam.rules.kernels import accumulation
from implicit_adam.rules.opt_state import held
from implicit_adam.types import Scalar


@final
class HeavyBall(AbstractRule):
    """Heavy ball: theta^(n+1) = theta^(n) - h g_n + beta (theta^(n) - theta^(n-1)).

    In other words F^(n) = sum_k beta^(n-k) g_k, as in `optax.sgd(h, momentum=beta)` and PyTorch's SGD with
    momentum and no dampening. The new gradient has weight 1, not 1-beta, so that late in a run h acts like
    h / (1-beta). For large n it follows eq. (1) (Ghosh et al. 2023; the paper omits a minus sign).
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)

    def features(self, g):
        return (g,)

    def kernels(self, n):
        return (accumulation(self.beta),)

    def readout(self, s, theta, n):
        return s[0]

    def transformation(self):
        return optax.sgd(self.h, momentum=self.beta)

    def sums(self, opt_state):
        return ((held(opt_state, "trace"),),)
