"""The first-order expansion of an optimizer's update, and the flow it turns into."""

from collections.abc import Callable
from typing import NamedTuple

from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.types import Field, StepNumber, Vector, Velocity


class Expansion(NamedTuple):
    """The update of one step n frozen at theta, F^(n), and its derivative along the lagged displacements.

    - `update(theta)` -> F^(n)
    - `derivative(theta, present)` -> (F^(n), DF^(n)[v_0, .., v_n]) with
      v_k = sum_{l=k}^{n-1} F^(l) + present F^(n). The sum is the *memory* correction; alone (present = 0) it
      gives a map without memory. The half step, present = 1/2, is the *discreteness* correction to a flow.
    """

    update: Callable[[Vector], Vector]
    derivative: Callable[[Vector, float], tuple[Vector, Vector]]


# n -> the expansion of step n.
Expansions = Callable[[StepNumber], Expansion]


def modified_field(optimizer: AbstractOptimizer, expansions: Expansions, order: int) -> Field:
    """f^(n) = -F^(n) at order 0 and -(F^(n) + h DF^(n)[v]) at order 1."""

    def at(n: StepNumber) -> Velocity:
        expansion = expansions(n)

        def leading(theta: Vector) -> Vector:
            return -expansion.update(theta)

        def corrected(theta: Vector) -> Vector:
            F, DF = expansion.derivative(theta, 1 / 2)
            return -(F + optimizer.h * DF)

        return (leading, corrected)[order]

    return at
