"""The modified equation as a series in the step size: the form in which every method returns it.

    -f^(n) = F^(n) + h DF^(n)[v_0, .., v_n] + h^2 (..) + ..,      v_k = sum_{l=k}^{n-1} F^(l) + c F^(n)

F^(n) is the update of step n with all gradients taken at one point. The sum in v_k is the *memory*
correction; alone (c = 0) it gives the series of the memoryless map, G^(n). The half step, c = 1/2, is the
*discreteness* correction that turns the map into a flow.

Every method is a function `method(rule, objective, order, *, flow) -> Terms`:

- `full_batch.closed_form`: one loss, and an update that, frozen at a point, is the same at every step;
- `mini_batch.any_schedule`: any number of losses, in any order, to order 1;
- `any_order.fixed_point`: any optimizer and any order, by re-running the optimizer.

`vector_field.exact_terms` takes the cheapest of them.
"""

from collections.abc import Callable
from typing import Any

import jax

from implicit_adam.fields.series import Series, value
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer, AbstractRule
from implicit_adam.rules.kernels import HasKernels
from implicit_adam.types import Field, StepNumber, Vector, Velocity

# n -> theta -> the coefficients (x_0, .., x_order) of the series.
Terms = Callable[[StepNumber], Callable[[Vector], Series]]


# n -> theta -> two vectors.
Pairs = Callable[[StepNumber], Callable[[Vector], tuple[Vector, Vector]]]


def application(rule: HasKernels, objective: Objective) -> Callable[..., Any]:
    """How features and readouts are evaluated: leaf by leaf of the parameters if they are elementwise."""
    return objective.by_leaves if isinstance(rule, AbstractRule) else lambda f, *vectors: f(*vectors)


def with_leading(optimizer: AbstractOptimizer, objective: Objective, terms: Terms) -> Pairs:
    """(f^(n), f_0^(n)): the field and, at no extra cost, its leading term, which is not differentiated."""

    def at(n: StepNumber) -> Callable[[Vector], tuple[Vector, Vector]]:
        terms_n = terms(n)

        def both(theta: Vector) -> tuple[Vector, Vector]:
            x = terms_n(theta)
            return _minus_value(optimizer, objective, x), -jax.lax.stop_gradient(x[0])

        return both

    return at


def field_of(optimizer: AbstractOptimizer, objective: Objective, terms: Terms) -> Field:
    """f^(n) = -(F^(n) + h DF^(n)[v] + ..)."""

    def at(n: StepNumber) -> Velocity:
        terms_n = terms(n)
        return lambda theta: _minus_value(optimizer, objective, terms_n(theta))

    return at


def _minus_value(optimizer: AbstractOptimizer, objective: Objective, x: Series) -> Vector:
    return objective.by_leaves(lambda x: -value(x, optimizer.h), x)
