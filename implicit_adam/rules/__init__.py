"""One optimizer a file. A class listed in `RULES` is picked up by fields, tests and command line."""

from implicit_adam.rules.adam import Adam as Adam
from implicit_adam.rules.base import AbstractRule as AbstractRule
from implicit_adam.rules.gradient_descent import GradientDescent as GradientDescent
from implicit_adam.rules.heavy_ball import HeavyBall as HeavyBall
from implicit_adam.rules.rmsprop import RMSProp as RMSProp

RULES: dict[str, type[AbstractRule]] = {
    "adam": Adam,
    "rmsprop": RMSProp,
    "gradient-descent": GradientDescent,
    "heavy-ball": HeavyBall,
}
