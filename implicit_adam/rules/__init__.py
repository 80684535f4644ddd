"""One optimizer a file. A class listed in `RULES` is picked up by fields, tests and command line."""

from implicit_adam.rules.adagrad import Adagrad as Adagrad
from implicit_adam.rules.adam import Adam as Adam
from implicit_adam.rules.adamw import AdamW as AdamW
from implicit_adam.rules.ademamix import AdEMAMix as AdEMAMix
from implicit_adam.rules.base import AbstractOptimizer as AbstractOptimizer
from implicit_adam.rules.base import AbstractRule as AbstractRule
from implicit_adam.rules.gradient_descent import GradientDescent as GradientDescent
from implicit_adam.rules.heavy_ball import HeavyBall as HeavyBall
from implicit_adam.rules.lion import Lion as Lion
from implicit_adam.rules.nadam import NAdam as NAdam
from implicit_adam.rules.nesterov import Nesterov as Nesterov
from implicit_adam.rules.optax_rule import Optax as Optax
from implicit_adam.rules.rmsprop import RMSProp as RMSProp
from implicit_adam.rules.scheduled import Scheduled as Scheduled
from implicit_adam.rules.signum import Signum as Signum

RULES: dict[str, type[AbstractRule]] = {
    "adam": Adam,
    "rmsprop": RMSProp,
    "gradient-descent": GradientDescent,
    "heavy-ball": HeavyBall,
    "nesterov": Nesterov,
    "adamw": AdamW,
    "nadam": NAdam,
    "lion": Lion,
    "signum": Signum,
    "adagrad": Adagrad,
    "ademamix": AdEMAMix,
}
