"""The first-order expansion of an optimizer's update, and the flow it turns into."""

from collections.abc import Callable
from typing import NamedTuple

from implicit_adam.fields.series import Series, value
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

# n -> theta -> the coefficients of a series in h: of the map without memory, G^(n), or of -f^(n).
Terms = Callable[[StepNumber], Callable[[Vector], Series]]


def first_terms(expansions: Expansions, order: int, *, flow: bool) -> Terms:
    """F^(n) at order 0, with DF^(n)[v] at order 1: v_k ends with half a step more in a flow."""

    def at(n: StepNumber) -> Callable[[Vector], Series]:
        expansion = expansions(n)

        def leading(theta: Vector) -> Series:
            return (expansion.update(theta),)

        def corrected(theta: Vector) -> Series:
            return expansion.derivative(theta, 1 / 2 if flow else 0.0)

        return (leading, corrected)[order]

    return at


def field_of(optimizer: AbstractOptimizer, terms: Terms) -> Field:
    """f^(n) = -(F^(n) + h DF^(n)[v] + ..)."""

    def at(n: StepNumber) -> Velocity:
        terms_n = terms(n)
        return lambda theta: -value(terms_n(theta), optimizer.h)

    return at


def modified_field(optimizer: AbstractOptimizer, expansions: Expansions, order: int) -> Field:
    """f^(n) = -F^(n) at order 0 and -(F^(n) + h DF^(n)[v]) at order 1."""
    return field_of(optimizer, first_terms(expansions, order, flow=True))
