"""Lion (Chen et al. 2023) with a smooth sign."""

from collections.abc import Mapping
from typing import ClassVar, cast, final

import equinox as eqx
import jax.numpy as jnp
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, NON_NEGATIVE, POSITIVE, POSITIVE_DECAY, scalar
from implicit_adam.rules.kernels import average, delta
from implicit_adam.rules.opt_state import held
from implicit_adam.types import Scalar


@final
class Lion(AbstractRule):
    """Lion with a smooth sign: F^(n) = tanh(c / eps) + weight_decay theta^(n), where

        c = beta1 m^(n) + (1-beta1) g_n,        m^(n+1) = beta2 m^(n) + (1-beta2) g_n,

    so that m^(n) is the memory *before* this gradient. The sign itself has no derivative and therefore no
    modified equation; `eps` > 0, in units of a gradient, is the width of the smooth sign. As it goes to 0 the
    iterates become those of `optax.lion(h, beta1, beta2, weight_decay=weight_decay)`, whose default also has
    weight decay. In c a gradient of lag j >= 1 has the weight beta1 (1-beta2) beta2^(j-1), beta2 > 0.
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta1: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)
    beta2: Scalar = eqx.field(converter=scalar, metadata=POSITIVE_DECAY, default=0.99)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, kw_only=True, default=1e-3)
    weight_decay: Scalar = eqx.field(converter=scalar, metadata=NON_NEGATIVE, kw_only=True, default=1e-3)

    study: ClassVar[Mapping[str, float]] = {"beta1": 0.5, "beta2": 0.7, "eps": 1.0}

    def features(self, g):
        return (g,)

    def kernels(self, n):
        # The average starts at lag 0; its excess there is subtracted from the weight of the present gradient.
        past = (self.beta1 / self.beta2) * average(self.beta2, n, bias_correction=False)
        taken_back = self.beta1 * (1 - self.beta2) / self.beta2
        return (past + (1 - self.beta1 - taken_back) * delta(self.h),)

    def readout(self, s, theta, n):
        return jnp.tanh(s[0] / self.eps) + self.weight_decay * theta

    def transformation(self):
        return optax.chain(
            optax.scale_by_lion(self.beta1, self.beta2, mode="smooth", smooth_beta=cast(float, 1 / self.eps)),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale(-self.h),
        )

    def sums(self, opt_state):
        return ((held(opt_state, "mu") / (1 - self.beta2), None),)
