"""An optimizer with its own implicit bias added to, or taken from, every step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from implicit_adam.checks import check_finite, check_rule, check_step_number
from implicit_adam.fields.select import exact_expansions
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.optax_rule import as_optimizer
from implicit_adam.training import checked_training
from implicit_adam.types import Batches, Loss, Params


class WithBiasState(NamedTuple):
    """The step number and the optimizer's own state."""

    n: Int[Array, ""]
    optimizer: Any


def with_bias(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    strength: Any,
    *,
    batches: Batches = None,
    schedule: Any = None,
) -> optax.GradientTransformation:
    """The optimizer whose every step carries `strength` times its own first-order bias more.

        theta^(n+1) = theta^(n) - h F^(n) - strength h^2 DF^(n)[v_0, .., v_n](theta^(n))

    With strength -1 the bias is cancelled: the iterates follow the *plain* flow (order 0) to O(h^2). With 0
    nothing changes, with +1 the bias doubles. `strength` is any finite number and may be traced.

    For an ordinary training loop: `init(params)`, and `update(gradient, state, params)` with the gradient of
    the mini-batch of the step, in the order of `schedule` (default cyclic). `loss`, `batches` and `schedule`
    are those of `vector_field`; a step costs one evaluation of it more. Raises `ValueError` as it does.
    """
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
        training = checked_training(optimizer, loss, params, batches, schedule)
        check_step_number(state.n, training.schedule)
        expansion = exact_expansions(training.rule, training.objective)(state.n)
        _, DF = expansion.derivative(training.theta, 1 / 2)
        h = training.rule.h
        bias = training.unraveled(-jnp.asarray(strength, DF.dtype) * h * h * DF)
        updates, own_state = transformation.update(updates, state.optimizer, params)
        return optax.tree.add(updates, bias), WithBiasState(state.n + 1, own_state)

    return optax.GradientTransformation(init, update)
