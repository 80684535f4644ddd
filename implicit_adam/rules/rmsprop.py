"""RMSProp (Tieleman & Hinton 2012)."""

from typing import final

import equinox as eqx
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, POSITIVE, flag, scalar
from implicit_adam.rules.kernels import average, delta
from implicit_adam.rules.opt_state import held
from implicit_adam.rules.root import root
from implicit_adam.types import Scalar


@final
class RMSProp(AbstractRule):
    """RMSProp, as commonly used (no bias correction) or as Adam with beta = 0 (`bias_correction=True`).

        F^(n) = g_n / sqrt(R2 + eps),       without `eps_in_sqrt`       g_n / (sqrt(R2) + eps)
        R2 = sum_k (1-rho) rho^(n-k) g_k^2  [ / (1 - rho^(n+1)) with bias correction ]

    `h` is the step size, `rho` in [0, 1) the decay of the average, `eps` > 0 the numerical stability
    constant. `ia.RMSProp(h)` is `optax.rmsprop(h)`: eps is inside the root, unlike in `ia.Adam(h)`. PyTorch
    has eps outside and rho .99 (`eps_in_sqrt=False, rho=0.99`). Momentum after the division is another
    algorithm: `ia.Optax(h, optax.rmsprop(1.0, momentum=..))`.
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    rho: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, default=1e-8)
    eps_in_sqrt: bool = eqx.field(converter=flag, static=True, kw_only=True, default=True)
    bias_correction: bool = eqx.field(converter=flag, static=True, kw_only=True, default=False)

    def features(self, g):
        return g, g**2

    def kernels(self, n):
        return delta(self.h), average(self.rho, n, bias_correction=self.bias_correction)

    def readout(self, s, theta, n):
        g, R2 = s
        return g / root(R2, self.eps, inside=self.eps_in_sqrt)

    def transformation(self):
        return optax.rmsprop(
            self.h,
            decay=self.rho,
            eps=self.eps,
            eps_in_sqrt=self.eps_in_sqrt,
            bias_correction=self.bias_correction,
        )

    def sums(self, opt_state):
        return (None,), (held(opt_state, "nu") / (1 - self.rho),)
