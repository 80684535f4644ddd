"""Hyperparameters of a rule: array leaves, so that no sweep recompiles, with an interval of allowed values.

    class MyRule(AbstractRule):
        h: Array = eqx.field(converter=scalar, metadata=POSITIVE)
        beta: Array = eqx.field(converter=scalar, metadata=DECAY, default=0.9)

A value out of range raises `ValueError` on construction; a traced one becomes NaN, and so does the result.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike

from implicit_adam.checks.numbers import check_switch, is_traced

ALLOWED = "allowed"

# The relative error in 1 - x allowed when x is rounded: a memory of decay x has the length 1 / (1 - x).
CLOSE_TO_ONE = 0.01


class Interval(NamedTuple):
    """The allowed values of a hyperparameter: from 0, included if `with_zero`, to `end`, not included."""

    words: str
    with_zero: bool
    end: float

    def contains(self, x: Any) -> Any:
        """Whether x is in the interval; traced if x is."""
        return ((x >= 0) if self.with_zero else (x > 0)) & (x < self.end)


POSITIVE = {ALLOWED: Interval("a finite number > 0", with_zero=False, end=math.inf)}
NON_NEGATIVE = {ALLOWED: Interval("a finite number >= 0", with_zero=True, end=math.inf)}
DECAY = {ALLOWED: Interval("a number in [0, 1)", with_zero=True, end=1.0)}
POSITIVE_DECAY = {ALLOWED: Interval("a number in (0, 1)", with_zero=False, end=1.0)}


def scalar(x: Any) -> Array:
    """A hyperparameter as an array leaf, so that sweeping it never recompiles.

    It has a function of its own, since `jnp.asarray` as the converter would disable jaxtyping's check. Raises
    `ValueError` for anything but a real number.
    """
    if callable(x):
        msg = (
            f"a hyperparameter must be a number, got the function {x!r}; for a learning-rate schedule wrap "
            "the rule: ia.Scheduled(ia.Adam(1.0), schedule)"
        )
        raise ValueError(msg)  # noqa: TRY004
    array = None if isinstance(x, str | None) else jnp.asarray(x)
    if array is None or array.dtype == bool or not jnp.isrealobj(array):
        msg = f"a hyperparameter must be a real number, got {x!r}"
        raise ValueError(msg)
    array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
    if isinstance(x, float | np.floating):
        check_close_to_one("a hyperparameter", x, array.dtype)
    return array


def made_up(leaves: Iterable[tuple[tuple[int, ...], Any]]) -> list[np.ndarray]:
    """Hyperparameters of these shapes and dtypes for testing a rule whose own values may be traced.

    Numbers in (.3, .7), no two alike, so that none of their differences vanishes.
    """
    return [
        np.full(shape, 0.3 + 0.4 * ((i + 1) * 0.6180339887 % 1), dtype)
        for i, (shape, dtype) in enumerate(leaves)
    ]


def flag(x: Any) -> bool:
    """Converter for a switch of a rule; `ValueError` unless it is True or False."""
    return check_switch("a switch of a rule, such as eps_in_sqrt,", x)


def check_hyperparameter(owner: str, name: str, value: Array | np.ndarray, allowed: Interval) -> None:
    """A hyperparameter must be one real number inside its interval."""
    if jnp.shape(value) != ():
        msg = (
            f"{owner}: {name} must be a scalar, got shape {jnp.shape(value)}; for many values build the "
            f"rule under vmap: jax.vmap(lambda {name}: {owner}(.., {name}=.., ..))(values)"
        )
        raise ValueError(msg)
    if not is_traced(value) and not allowed.contains(float(value)):
        hint = ""
        if float(value) == 0 and not allowed.contains(0.0):
            hint = f" (a value below the smallest {value.dtype} number becomes 0)"
        if float(value) == 1:
            hint = f" (a {value.dtype} number this close to 1 becomes 1)"
        msg = f"{owner}: {name} = {float(value):g} is not allowed; it must be {allowed.words}{hint}"
        raise ValueError(msg)


def check_close_to_one(owner: str, value: Any, dtype: DTypeLike) -> None:
    """A decay acts through 1 - x, which rounding x to a narrower dtype must not change."""
    given, rounded = float(value), float(np.asarray(value).astype(dtype))
    if 0.5 < given < 1 and abs(rounded - given) > CLOSE_TO_ONE * (1 - given):
        msg = (
            f"{owner} = {given!r} is too close to 1 for {jnp.dtype(dtype)}, which holds {rounded!r} in its "
            f"place and so makes 1 - x {1 - rounded:g} instead of {1 - given:g}; use float64: "
            "jax.config.update('jax_enable_x64', True), with float64 parameters"
        )
        raise ValueError(msg)


def nan_outside(value: Array, allowed: Interval) -> Array:
    """A traced hyperparameter, or NaN if it is outside its interval, since it cannot be refused."""
    return jnp.where(allowed.contains(value), value, jnp.full_like(value, jnp.nan))


def check_positive_in(dtype: DTypeLike, owner: str, name: str, value: Array) -> None:
    """A small constant that keeps a denominator away from zero must not underflow in the dtype."""
    if is_traced(value):
        return
    tiny = float(jnp.finfo(dtype).tiny)
    if float(np.asarray(value, np.float64)) < tiny:
        msg = (
            f"{owner}: {name} = {float(value):g} underflows in the parameters' dtype {jnp.dtype(dtype)}, "
            f"whose smallest normal number is {tiny:g}; use a larger {name} or float64 parameters"
        )
        raise ValueError(msg)


def cast(owner: str, name: str, value: Array, allowed: Interval | None, dtype: DTypeLike) -> Array:
    """The value in the dtype of the computation; `ValueError` if its meaning changes there."""
    if allowed in (None, POSITIVE[ALLOWED]):
        check_positive_in(dtype, owner, name, value)
    if allowed is None:
        return value.astype(dtype)
    if is_traced(value):
        return nan_outside(value.astype(dtype), allowed)
    check_hyperparameter(owner, name, np.asarray(value).astype(dtype), allowed)
    check_close_to_one(f"{owner}: {name}", value, dtype)
    return value.astype(dtype)
