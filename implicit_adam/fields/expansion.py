"""The first-order expansion of an optimizer's update, and the flow it turns into."""

from collections.abc import Callable
from typing import NamedTuple

from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.types import Field, StepNumber, Vector


class Expansion(NamedTuple):
    """The update of step n frozen at theta, F^(n), and its derivative along the lagged displacements.

    - `update(n, theta)` -> F^(n)
    - `derivative(n, theta, present)` -> (F^(n), DF^(n)[v_0, .., v_n]) with
      v_k = sum_{l=k}^{n-1} F^(l) + present F^(n). The sum is the *memory* correction; alone (present = 0) it
      gives a map without memory. The half step, present = 1/2, is the *discreteness* correction to a flow.
    """

    update: Callable[[StepNumber, Vector], Vector]
    derivative: Callable[[StepNumber, Vector, float], tuple[Vector, Vector]]


def modified_field(optimizer: AbstractOptimizer, expansion: Expansion, order: int) -> Field:
    """f^(n) = -F^(n) at order 0 and -(F^(n) + h DF^(n)[v]) at order 1."""

    def leading(n: StepNumber, theta: Vector) -> Vector:
        return -expansion.update(n, theta)

    def corrected(n: StepNumber, theta: Vector) -> Vector:
        F, DF = expansion.derivative(n, theta, 1 / 2)
        return -(F + optimizer.h * DF)

    return (leading, corrected)[order]
