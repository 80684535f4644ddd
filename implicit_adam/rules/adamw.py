"""Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

from collections.abc import Mapping
from typing import ClassVar, final

import equinox as eqx
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, NON_NEGATIVE, POSITIVE, flag, scalar
from implicit_adam.rules.kernels import average
from implicit_adam.rules.opt_state import held
from implicit_adam.rules.root import root
from implicit_adam.types import Scalar


@final
class AdamW(AbstractRule):
    """`Adam` with decoupled weight decay:

        F^(n) = M / (sqrt(R2) + eps) + weight_decay theta^(n),

    so that a step shrinks all parameters by the factor 1 - h weight_decay, as in optax, PyTorch and Keras
    (1 - weight_decay in Loshchilov & Hutter). For a mask use `ia.Optax(h, optax.adamw(1.0, mask=..))`.
    `weight_decay` >= 0 is in units of inverse time; its default is optax's (PyTorch's is 1e-2, Keras's
    4e-3). The other hyperparameters are those of `Adam`.
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)
    rho: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.999)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, default=1e-8)
    eps_in_sqrt: bool = eqx.field(converter=flag, static=True, kw_only=True, default=False)
    weight_decay: Scalar = eqx.field(converter=scalar, metadata=NON_NEGATIVE, kw_only=True, default=1e-4)

    study: ClassVar[Mapping[str, float]] = {"weight_decay": 0.1}

    def features(self, g):
        return g, g**2

    def kernels(self, n):
        return average(self.beta, n), average(self.rho, n)

    def readout(self, s, theta, n):
        M, R2 = s
        return M / root(R2, self.eps, inside=self.eps_in_sqrt) + self.weight_decay * theta

    def transformation(self):
        eps, eps_root = (0.0, self.eps) if self.eps_in_sqrt else (self.eps, 0.0)
        return optax.adamw(
            self.h, b1=self.beta, b2=self.rho, eps=eps, eps_root=eps_root, weight_decay=self.weight_decay
        )

    def sums(self, opt_state):
        mu, nu = held(opt_state, "mu"), held(opt_state, "nu")
        return (mu / (1 - self.beta),), (nu / (1 - self.rho),)
