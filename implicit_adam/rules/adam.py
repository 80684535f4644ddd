"""Adam (Kingma & Ba 2015), Definition 1.1 of the paper."""

from typing import final

import equinox as eqx
import optax

from implicit_adam.checks import DECAY, POSITIVE
from implicit_adam.rules.base import AbstractRule, scalar
from implicit_adam.rules.kernels import average
from implicit_adam.rules.root import root
from implicit_adam.types import Scalar


@final
class Adam(AbstractRule):
    r"""Adam, with eps inside the square root (Definition 1.1) or outside (the original).

        F^(n) = M / sqrt(R2 + eps)          or          M / (sqrt(R2) + eps)
        M  = sum_k (1-beta) beta^(n-k) g_k / (1 - beta^(n+1))
        R2 = sum_k (1-rho) rho^(n-k) g_k^2 / (1 - rho^(n+1))

    `h` is the step size, `beta` and `rho` in [0, 1) the decay of the two averages, `eps` > 0 the numerical
    stability constant (in units of g^2 inside the root, of g outside).
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)
    rho: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.999)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, default=1e-8)
    eps_in_sqrt: bool = eqx.field(static=True, default=True)

    def features(self, g):
        return g, g**2

    def kernels(self, n):
        return average(self.beta, n), average(self.rho, n)

    def readout(self, s, theta, n):
        M, R2 = s
        return M / root(R2, self.eps, inside=self.eps_in_sqrt)

    def transformation(self):
        eps, eps_root = (0.0, self.eps) if self.eps_in_sqrt else (self.eps, 0.0)
        return optax.adam(self.h, b1=self.beta, b2=self.rho, eps=eps, eps_root=eps_root)
