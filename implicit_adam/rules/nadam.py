"""Adam with Nesterov's momentum (Dozat 2016), as optax implements it."""

from typing import final

import equinox as eqx
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, POSITIVE, flag, scalar
from implicit_adam.rules.kernels import average, delta, one_minus_power
from implicit_adam.rules.opt_state import held
from implicit_adam.rules.root import root
from implicit_adam.types import Scalar


@final
class NAdam(AbstractRule):
    """NAdam: F^(n) = s / (sqrt(R2) + eps), or s / sqrt(R2 + eps) with `eps_in_sqrt`; R2 as in `Adam` and

        s = beta m^(n+1) / (1 - beta^(n+2)) + (1-beta) g_n / (1 - beta^(n+1)),
        m^(n+1) = (1-beta) sum_k beta^(n-k) g_k.

    As in optax, beta is constant; PyTorch and Keras increase it over the first steps (`momentum_decay`).
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)
    rho: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.999)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, default=1e-8)
    eps_in_sqrt: bool = eqx.field(converter=flag, static=True, kw_only=True, default=False)

    def features(self, g):
        return g, g**2

    def kernels(self, n):
        ahead = self.beta / one_minus_power(self.beta, n + 2)
        now = (1 - self.beta) / one_minus_power(self.beta, n + 1)
        s = ahead * average(self.beta, n, bias_correction=False) + now * delta(self.h)
        return s, average(self.rho, n)

    def readout(self, s, theta, n):
        M, R2 = s
        return M / root(R2, self.eps, inside=self.eps_in_sqrt)

    def transformation(self):
        eps, eps_root = (0.0, self.eps) if self.eps_in_sqrt else (self.eps, 0.0)
        return optax.nadam(self.h, b1=self.beta, b2=self.rho, eps=eps, eps_root=eps_root)

    def sums(self, opt_state):
        mu, nu = held(opt_state, "mu"), held(opt_state, "nu")
        return (mu / (1 - self.beta), None), (nu / (1 - self.rho),)
