"""Truncated Taylor series in the step size: (x_0, x_1, .., x_q) stands for x_0 + h x_1 + .. + h^q x_q."""

import math
from collections.abc import Callable
from typing import Any

import jax

from implicit_adam.types import Scalar, Vector

# Coefficients, the leading one first; each may be a pytree.
Series = tuple[Any, ...]


def compose(f: Callable[[Any], Any], x: Series) -> Series:
    """The series of f(x(h)), to the order of x.

    Each further derivative of f(x(h)) is one more jvp, along d/dh (x, x', x'', ..) = (x', x'', x''', ..),
    where the i-th derivative of x is i! x_i.
    """
    derivatives = [_scaled(float(math.factorial(i)), x_i) for i, x_i in enumerate(x)]
    return tuple(
        _scaled(1 / math.factorial(i), y_i) for i, y_i in enumerate(_derivatives(f, len(x) - 1)(*derivatives))
    )


def _derivatives(f: Callable[[Any], Any], order: int) -> Callable[..., Series]:
    if order == 0:
        return lambda x: (f(x),)
    lower = _derivatives(f, order - 1)

    def higher(*d: Any) -> Series:
        values, dots = jax.jvp(lower, d[:-1], d[1:])
        return (*values, dots[-1])

    return higher


def value(x: Series, h: Scalar) -> Vector:
    """x_0 + h x_1 + .. + h^q x_q."""
    total = x[-1]
    for x_i in x[-2::-1]:
        total = x_i + h * total
    return total


def _scaled(factor: float, x: Any) -> Any:
    return x if factor == 1 else jax.tree.map(lambda leaf: factor * leaf, x)
