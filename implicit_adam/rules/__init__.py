"""The optimizers, one per file, and the parts from which to build a rule of your own.

    class Mine(AbstractRule):
        h: Array = eqx.field(converter=scalar, metadata=POSITIVE)
        rho: Array = eqx.field(converter=scalar, metadata=DECAY, default=0.9)

        def features(self, g):
            return g, g**4

        def kernels(self, n):
            return delta(self.h), average(self.rho, n)

        def readout(self, s, theta, n):
            g, fourth = s
            return g / (fourth + 1e-2) ** 0.25

See `AbstractRule` for the contract. A class listed in `RULES` has a name on the command line.
"""

from implicit_adam.rules.adagrad import Adagrad as Adagrad
from implicit_adam.rules.adam import Adam as Adam
from implicit_adam.rules.adamw import AdamW as AdamW
from implicit_adam.rules.ademamix import AdEMAMix as AdEMAMix
from implicit_adam.rules.base import AbstractOptimizer as AbstractOptimizer
from implicit_adam.rules.base import AbstractRule as AbstractRule
from implicit_adam.rules.from_optax.rule import Optax as Optax
from implicit_adam.rules.gradient_descent import GradientDescent as GradientDescent
from implicit_adam.rules.heavy_ball import HeavyBall as HeavyBall
from implicit_adam.rules.hyperparameters import DECAY as DECAY
from implicit_adam.rules.hyperparameters import NON_NEGATIVE as NON_NEGATIVE
from implicit_adam.rules.hyperparameters import POSITIVE as POSITIVE
from implicit_adam.rules.hyperparameters import POSITIVE_DECAY as POSITIVE_DECAY
from implicit_adam.rules.hyperparameters import flag as flag
from implicit_adam.rules.hyperparameters import scalar as scalar
from implicit_adam.rules.kernels import Kernel as Kernel
from implicit_adam.rules.kernels import accumulation as accumulation
from implicit_adam.rules.kernels import average as average
from implicit_adam.rules.kernels import delta as delta
from implicit_adam.rules.kernels import total as total
from implicit_adam.rules.lion import Lion as Lion
from implicit_adam.rules.nadam import NAdam as NAdam
from implicit_adam.rules.named import RULES as RULES
from implicit_adam.rules.named import rule_named as rule_named
from implicit_adam.rules.nesterov import Nesterov as Nesterov
from implicit_adam.rules.rmsprop import RMSProp as RMSProp
from implicit_adam.rules.root import root as root
from implicit_adam.rules.scheduled import Scheduled as Scheduled
from implicit_adam.rules.signum import Signum as Signum

__all__ = [
    "DECAY",
    "NON_NEGATIVE",
    "POSITIVE",
    "POSITIVE_DECAY",
    "RULES",
    "AbstractOptimizer",
    "AbstractRule",
    "AdEMAMix",
    "Adagrad",
    "Adam",
    "AdamW",
    "GradientDescent",
    "HeavyBall",
    "Kernel",
    "Lion",
    "NAdam",
    "Nesterov",
    "Optax",
    "RMSProp",
    "Scheduled",
    "Signum",
    "accumulation",
    "average",
    "delta",
    "flag",
    "root",
    "rule_named",
    "scalar",
    "total",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)
