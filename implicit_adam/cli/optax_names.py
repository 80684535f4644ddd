"""Parses optax optimizers on the command line, such as `optax:adabelief(b1=0.5)`."""

import ast
import inspect
from typing import Any

import jax.numpy as jnp
import optax
import optax.contrib

from implicit_adam.rules.from_optax.checks import check_equation, check_rate, check_runs
from implicit_adam.rules.from_optax.rule import Optax

PREFIX = "optax:"


def parse_optax(text: str) -> optax.GradientTransformation:
    """Parse `optax:NAME(argument=value, ..)` into a transformation with learning rate 1.

    Values are Python literals.
    """
    name, arguments = _name_and_arguments(text)
    factory = _find(name)
    has_rate = "learning_rate" in inspect.signature(factory).parameters
    try:
        tx = factory(**({"learning_rate": 1.0} if has_rate else {}), **arguments)
    except TypeError as error:
        msg = f"{text}: {error}"
        raise ValueError(msg) from error
    if not isinstance(tx, optax.GradientTransformation):
        msg = f"{text} makes no optax transformation"
        raise ValueError(msg)  # noqa: TRY004
    # A scale_by_.. transformation maps gradients to directions of ascent.
    tx = tx if has_rate else optax.chain(tx, optax.scale(-1.0))
    check_runs(tx, jnp.ones(3))
    if has_rate:
        check_rate(lambda rate: factory(learning_rate=rate, **arguments), jnp.ones(3))
    check_equation(Optax(1.0, tx), jnp.ones(3))
    return tx


def _name_and_arguments(text: str) -> tuple[str, dict[str, Any]]:
    try:
        match ast.parse(text.removeprefix(PREFIX), mode="eval").body:
            case ast.Call(func=function, args=[], keywords=keywords):
                values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
                return ast.unparse(function), values
            case ast.Name() | ast.Attribute() as function:
                return ast.unparse(function), {}
    except (SyntaxError, ValueError):
        pass
    msg = f"{text!r} is not of the form {PREFIX}NAME(argument=value, ..), e.g. optax:adabelief(b1=0.5)"
    raise ValueError(msg)


def _find(path: str) -> Any:
    found: Any = optax
    for name in path.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        msg = (
            f"optax has no optimizer {path!r}; its optimizers are listed in its documentation, e.g. adabelief"
        )
        raise ValueError(msg)  # noqa: TRY004
    return found
