"""AdEMAMix (Pagliardini et al. 2024): Adam with a second, slow memory of the gradient."""

from collections.abc import Mapping
from typing import ClassVar, final

import equinox as eqx
import optax.contrib

from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import DECAY, NON_NEGATIVE, POSITIVE, flag, scalar
from implicit_adam.rules.kernels import average
from implicit_adam.rules.opt_state import held
from implicit_adam.rules.root import root
from implicit_adam.types import Scalar


@final
class AdEMAMix(AbstractRule):
    """AdEMAMix: F^(n) = (M + alpha m_slow) / (sqrt(R2) + eps), or over sqrt(R2 + eps) with `eps_in_sqrt`.

        m_slow = (1-beta_slow) sum_k beta_slow^(n-k) g_k        (without bias correction)

    M, R2 and the other hyperparameters are those of `Adam`. `alpha` >= 0 is the weight of the slow memory. As
    in optax by default, `alpha` and `beta_slow` are constant (the authors increase both over the first steps)
    and there is no weight decay.
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    beta: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9)
    rho: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.999)
    beta_slow: Scalar = eqx.field(converter=scalar, metadata=DECAY, default=0.9999)
    alpha: Scalar = eqx.field(converter=scalar, metadata=NON_NEGATIVE, default=5.0)
    eps: Scalar = eqx.field(converter=scalar, metadata=POSITIVE, default=1e-8)
    eps_in_sqrt: bool = eqx.field(converter=flag, static=True, kw_only=True, default=False)

    study: ClassVar[Mapping[str, float]] = {"beta_slow": 0.7, "alpha": 0.5}

    def features(self, g):
        return g, g**2

    def kernels(self, n):
        slow = average(self.beta_slow, n, bias_correction=False)
        return average(self.beta, n) + self.alpha * slow, average(self.rho, n)

    def readout(self, s, theta, n):
        M, R2 = s
        return M / root(R2, self.eps, inside=self.eps_in_sqrt)

    def transformation(self):
        eps, eps_root = (0.0, self.eps) if self.eps_in_sqrt else (self.eps, 0.0)
        return optax.contrib.ademamix(
            self.h, self.beta, self.rho, self.beta_slow, self.alpha, eps=eps, eps_root=eps_root
        )

    def sums(self, opt_state):
        fast, slow = held(opt_state, "m1"), held(opt_state, "m2")
        sums_of_g = (fast / (1 - self.beta), slow / (1 - self.beta_slow))
        return sums_of_g, (held(opt_state, "nu") / (1 - self.rho),)
