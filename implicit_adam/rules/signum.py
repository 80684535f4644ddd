"""Signum, the sign of the momentum (Bernstein et al. 2018), with a smooth sign."""

from collections.abc import Mapping
from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, POSITIVE, scalar
from implicit_adam.rules.kernels import average
from implicit_adam.rules.opt_state import held
from implicit_adam.types import Scalar


@final
class Signum(AbstractRule):
    """F^(n) = tanh(m / eps), which is sign(m) for eps to zero, m = (1-beta) sum_k beta^(n-k) g_k.

    `beta` = 0 is (smooth) sign descent. `eps` > 0, in units of a gradient, is the width of the sign; as it
    goes to 0 the iterates become those of `optax.signum(h, beta)`.
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

    def transformation(self):
        smooth_sign = optax.stateless(lambda m, _: jax.tree.map(lambda x: jnp.tanh(x / self.eps), m))
        return optax.chain(optax.ema(self.beta, debias=False), smooth_sign, optax.scale(-self.h))

    def sums(self, opt_state):
        return ((held(opt_state, "ema") / (1 - self.beta),),)
