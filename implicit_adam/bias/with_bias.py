"""An optimizer with its own implicit bias added to, or taken from, every step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from implicit_adam.checks import check_finite, check_order, check_rule, check_step_number
from implicit_adam.fields.any_order.fixed_point import history_terms
from implicit_adam.fields.series import Series, value
from implicit_adam.fields.terms import Terms
from implicit_adam.fields.vector_field import HIGHEST_ORDER, exact_terms
from implicit_adam.inputs import checked_training
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.optax_rule import as_optimizer
from implicit_adam.types import Batches, Loss, Params, Scalar, StepNumber, Vector


class WithBiasState(NamedTuple):
    """The step number and the optimizer's own state."""

    n: Int[Array, ""]
    optimizer: Any


def added_bias(rule: AbstractOptimizer, objective: Objective, strength: Scalar, order: int) -> Terms:
    """n -> theta -> (K_1, .., K_order).

    With K_1 .. K_(q-1) in every update the flow has the terms wanted up to q - 1; K_q is what the q-th lacks.
    """
    if order == 0:
        return lambda n: lambda theta: ()
    own = exact_terms(rule, objective, order, flow=True)
    before = added_bias(rule, objective, strength, order - 1)
    biased = history_terms(rule, objective, order, flow=True, added=before)

    def at(n: StepNumber) -> Callable[[Vector], Series]:
        def added(theta: Vector) -> Series:
            wanted = own(n)(theta)[-1]
            # To first order nothing has been added before.
            present = wanted if order == 1 else biased(n)(theta)[-1]
            return (*before(n)(theta), (1 + strength) * wanted - present)

        return added

    return at


def with_bias(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    strength: Any,
    *,
    order: int = 1,
    batches: Batches = None,
    schedule: Any = None,
) -> optax.GradientTransformation:
    """The optimizer whose every step carries `strength` times its own bias more.

        theta^(n+1) = theta^(n) - h F^(n) - h (h K_1^(n) + .. + h^order K_order^(n))(theta^(n))
        K_1^(n) = strength DF^(n)[v_0, .., v_n]

    is the optimizer of the flow f_0 + (1 + strength) (h f_1 + .. + h^order f_order), with f_i its own terms.
    With strength -1 the bias is cancelled: the iterates follow the *plain* flow (order 0) to
    O(h^(order+1)). With 0 nothing changes, with +1 the bias doubles. `strength` is any finite number and may
    be traced. From order 2 on K_i is more than the i-th term of the field, since the optimizer remembers
    gradients at points that the bias added before has moved.

    For an ordinary training loop: `init(params)`, and `update(gradient, state, params)` with the gradient of
    the mini-batch of the step, in the order of `schedule` (default cyclic). `loss`, `batches` and `schedule`
    are those of `vector_field`; at order 1 a step costs one evaluation of it more, at order q about n times
    one of order q - 1. Raises `ValueError` as it does.
    """
    check_order(order, HIGHEST_ORDER)
    optimizer = as_optimizer(rule)
    check_rule(optimizer, AbstractOptimizer)
    check_finite("strength", strength)
    transformation = optimizer.transformation()

    def init(params: Params) -> WithBiasState:
        return WithBiasState(jnp.zeros((), jnp.int32), transformation.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            msg = "with_bias needs the parameters: call update(gradient, state, params)"
            raise ValueError(msg)
        training = checked_training(optimizer, loss, params, batches, schedule, products=order > 0)
        check_step_number(state.n, training.schedule)
        h, theta = training.rule.h, training.theta
        K = added_bias(training.rule, training.objective, jnp.asarray(strength, theta.dtype), order)
        bias = training.unraveled(-h * value((jnp.zeros_like(theta), *K(state.n)(theta)), h))
        updates, own_state = transformation.update(updates, state.optimizer, params)
        return optax.tree.add(updates, bias), WithBiasState(
            jnp.asarray(optax.safe_increment(state.n)), own_state
        )

    return optax.GradientTransformation(init, update)
