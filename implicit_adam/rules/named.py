"""Rules by name: those of the library, and your own as `module:Class`."""

from implicit_adam.checks.imported import imported
from implicit_adam.rules.adagrad import Adagrad
from implicit_adam.rules.adam import Adam
from implicit_adam.rules.adamw import AdamW
from implicit_adam.rules.ademamix import AdEMAMix
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.gradient_descent import GradientDescent
from implicit_adam.rules.heavy_ball import HeavyBall
from implicit_adam.rules.lion import Lion
from implicit_adam.rules.nadam import NAdam
from implicit_adam.rules.nesterov import Nesterov
from implicit_adam.rules.rmsprop import RMSProp
from implicit_adam.rules.signum import Signum

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


def rule_named(name: str) -> type[AbstractRule]:
    """The class `name` of `RULES`, or a class `module:Class`, also of a module in the current directory.

    Raises `ValueError` for names that are neither.
    """
    if name in RULES:
        return RULES[name]
    found = imported(
        name,
        f"unknown optimizer {name!r}; known are {', '.join(RULES)}, and your own rule as module:Class",
        "name a class as module:Class, for example myrules:MyRule of ./myrules.py",
    )
    if not (isinstance(found, type) and issubclass(found, AbstractRule)):
        msg = f"{name} is not a rule: it must be a class that inherits from implicit_adam.AbstractRule"
        raise ValueError(msg)  # noqa: TRY004
    return found
