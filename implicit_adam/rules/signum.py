"""Signum, the sign of the momentum (Bernstein et al. 2018), with a smooth sign."""

from collections.abc import Mapping
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, POSITIVE, scalar
from implicit_adam.rules.kernels import average
from implicit_adam.types import Scalar


@final
class Signum(AbstractRule):
    """Signum with a smooth sign: F^(n) = tanh(m / eps), m = (1-beta) sum_k beta^(n-k) g_k.

    `beta` = 0 is (smooth) sign descent. `eps` > 0, in units of a gradient, is the width of the sign; as it
    goes to 0, F^(n) becomes sign(m) and the iterates become those of `optax.signum(h, beta)`.
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, kw_only=True, default=1e-3)

    study: ClassVar[Mapping[str, float]] = {"eps": 1.0}

    def features(self, g):
        return (g,)

    def kernels(self, n):
        return (average(self.beta, n, bias_correction=False),)

    def readout(self, s, theta, n):
        return jnp.tanh(s[0] / self.eps)
