"""Adam (Kingma & Ba 2015), Definition 1.1 of the paper."""

from typing import final

import equinox as eqx
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, POSITIVE, flag, scalar
from implicit_adam.rules.kernels import average
from implicit_adam.rules.opt_state import held
from implicit_adam.rules.root import root
from implicit_adam.types import Scalar


@final
class Adam(AbstractRule):
    """Adam, with eps outside the square root (the original, optax, PyTorch) or inside (Definition 1.1).

        F^(n) = M / (sqrt(R2) + eps),       with `eps_in_sqrt`       M / sqrt(R2 + eps)
        M  = sum_k (1-beta) beta^(n-k) g_k / (1 - beta^(n+1))
        R2 = sum_k (1-rho) rho^(n-k) g_k^2 / (1 - rho^(n+1))

    - `h`: the step size.
    - `beta`, `rho`: the decays of the two averages, in [0, 1); b1 and b2 in optax.
    - `eps`: the numerical stability constant, > 0. Outside the root it is compared with |g|, inside with g^2,
      so 1e-8 inside corresponds to 1e-4 outside.
    - `eps_in_sqrt`: whether eps is inside the root. `ia.Adam(h, eps_in_sqrt=True)` is the paper's Definition
      1.1, `ia.Adam(h)` is `optax.adam(h)`.
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)
    rho: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.999)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, default=1e-8)
    eps_in_sqrt: bool = eqx.field(converter=flag, static=True, kw_only=True, default=False)

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

    def sums(self, opt_state):
        mu, nu = held(opt_state, "mu"), held(opt_state, "nu")
        return (mu / (1 - self.beta),), (nu / (1 - self.rho),)
