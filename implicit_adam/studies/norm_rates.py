"""Does an optimizer's memory make the norm in eq. (4) grow or shrink, at practical settings?

Eq. (4) itself is outside its range there. The real effect of memory and step on the velocity is known from
the parts of the carried velocity. Its product with the gradient of the norm is the rate at which they change
the norm, compared here with the rate that eq. (4) predicts:

    grad ||grad E||_{1,eps} . (memory + step)        against        grad ||grad E||_{1,eps} . (-bias / R)

Below zero the norm is penalised, above zero its decrease is hindered.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.bias.bias import perturbed_one_norm
from implicit_adam.fields.carried.carried_field import carried_field
from implicit_adam.fields.vector_field import limiting_field
from implicit_adam.rules import Adam, RMSProp
from implicit_adam.runs.trajectory import Trajectory
from implicit_adam.types import Loss, Params, Scalar

MEASURED, PREDICTED = "carried memory", "eq. (4)"


def norm_rates(rule: Adam | RMSProp, loss: Loss, run: Trajectory) -> dict[str, np.ndarray]:
    """Rates of the norm, measured and by eq. (4), along a full-batch `carried_flow` with `memories`.

    Each is (saves - 1,), at all saved points but the start.
    """
    field = carried_field(rule, loss)
    corrected, leading = (limiting_field(rule, loss, order=order) for order in (1, 0))

    def norm(params: Params) -> Scalar:
        return perturbed_one_norm(jax.grad(loss)(params), rule.eps, eps_in_sqrt=rule.eps_in_sqrt)

    def at(point: Any) -> tuple[Scalar, Scalar]:
        t, params, memories = point
        w, parts = jax.grad(norm)(params), field.decompose(t, (params, memories))
        measured = sum((along(w, part) for part in parts.memory), start=along(w, parts.step))
        return measured, along(w, corrected(params)) - along(w, leading(params))

    points = jax.tree.map(lambda x: x[1:], (run.t, run.params, run.memories))
    rates = jax.jit(lambda points: jax.lax.map(at, points))(points)
    return dict(zip((MEASURED, PREDICTED), map(np.asarray, rates), strict=True))


def along(x: Params, y: Params) -> Scalar:
    """The inner product x . y of two pytrees."""
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)), start=jnp.zeros(()))
