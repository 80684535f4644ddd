"""An optimizer with its own implicit bias added to, or subtracted from, every step."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from implicit_adam.checks.numbers import check_finite, is_traced
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.runs import check_order, check_step_number
from implicit_adam.fields.any_order.fixed_point import history_terms
from implicit_adam.fields.series import Series, value
from implicit_adam.fields.terms import Terms
from implicit_adam.fields.vector_field import HIGHEST_ORDER, exact_terms
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.from_optax.rule import as_optimizer
from implicit_adam.runs.validity import OutsideRangeWarning, size_of_correction
from implicit_adam.types import Batches, Loss, Params, Scalar, StepNumber, Vector
from implicit_adam.vectors import ravel, unravel_like


class WithBiasState(NamedTuple):
    """The step number, the optimizer's own state, and how far to trust the bias added so far.

    - `validity`: the largest value so far of ||h f_1 + ..|| / ||f_0|| and ||h K_1 + ..|| / ||f_0||, the sizes
      of the optimizer's own correction and of the added one relative to its leading flow. Trust it below
      about 0.1; above 1 the series says nothing. Zero if nothing is added.
    """

    n: Int[Array, ""]
    optimizer: Any
    validity: Scalar


def own_and_added(
    rule: AbstractOptimizer, objective: Objective, strength: Scalar, order: int
) -> Callable[[StepNumber], Callable[[Vector], tuple[Series, Series]]]:
    """n -> theta -> the coefficients of -f up to the order >= 1, and (K_1, .., K_order).

    With K_1 .. K_(q-1) in every update, the flow has the wanted terms up to order q - 1; K_q adds what is
    missing at order q.
    """
    own = exact_terms(rule, objective, order, flow=True)
    before = added_bias(rule, objective, strength, order - 1)
    biased = history_terms(rule, objective, order, flow=True, added=before)

    def at(n: StepNumber) -> Callable[[Vector], tuple[Series, Series]]:
        def terms(theta: Vector) -> tuple[Series, Series]:
            series = own(n)(theta)
            # To first order nothing has been added before.
            present = series[-1] if order == 1 else biased(n)(theta)[-1]
            return series, (*before(n)(theta), (1 + strength) * series[-1] - present)

        return terms

    return at


def added_bias(rule: AbstractOptimizer, objective: Objective, strength: Scalar, order: int) -> Terms:
    """n -> theta -> (K_1, .., K_order)."""
    if order == 0:
        return lambda n: lambda theta: ()
    both = own_and_added(rule, objective, strength, order)
    return lambda n: lambda theta: both(n)(theta)[1]


def with_bias(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    strength: Any,
    *,
    order: int = 1,
    batches: Batches = None,
    schedule: Any = None,
) -> optax.GradientTransformation:
    """The optimizer with `strength` times its own implicit bias added to every step.

        theta^(n+1) = theta^(n) - h F^(n) - h (h K_1^(n) + .. + h^order K_order^(n))(theta^(n))
        K_1^(n) = strength DF^(n)[v_0, .., v_n]

    Its iterates follow the flow f_0 + (1 + strength) (h f_1 + .. + h^order f_order), with f_i the terms of
    the original optimizer. Strength -1 cancels the bias: the iterates follow the *plain* flow (order 0) to
    O(h^(order+1)). Strength 0 changes nothing, +1 doubles the bias. `strength` is any finite number and may
    be traced. From order 2 on, K_i is not just the i-th term of the field, since the optimizer remembers
    gradients at points that earlier added bias has moved.

    For an ordinary training loop: `init(params)`, then `update(gradient, state, params)` with the gradient of
    the mini-batch of the step, in the order of `schedule` (default cyclic). `loss`, `batches` and `schedule`
    are those of `vector_field`. At order 1 a step costs one more evaluation of the field. At order 2 the
    optimizer with the bias of order 1 is re-run over all steps that it remembers, at 7 to 12 evaluations of
    order 1 for each of them (three mini-batches, full batch); order 3 does the same with order 2.

    `state.validity` says how far to trust the added bias (`WithBiasState`); the first time it exceeds 1
    outside jit, an `OutsideRangeWarning` is given. In bfloat16 and float16 the optimizer computes in float32,
    as in `iterate`, and returns float32 updates; the training loop rounds them to the parameters' dtype.
    Raises `ValueError` as `vector_field` does.
    """
    check_order(order, HIGHEST_ORDER)
    optimizer = as_optimizer(rule)
    check_rule(optimizer, AbstractOptimizer)
    check_finite("strength", strength)
    warn = warning_once(order)

    def init(params: Params) -> WithBiasState:
        dtype = ravel(params).dtype
        state = optimizer.astype(dtype).transformation().init(_cast(params, dtype))
        return WithBiasState(jnp.zeros((), jnp.int32), state, jnp.zeros((), dtype))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            msg = "with_bias needs the parameters: call update(gradient, state, params)"
            raise ValueError(msg)
        inputs = checked_inputs(optimizer, loss, params, batches, schedule, products=order > 0)
        check_step_number(state.n, inputs.schedule)
        updates, state = _updated(identified(inputs), updates, state, params, jnp.asarray(strength), order)
        if order > 0:
            warn(state.validity)
        return updates, state

    return optax.GradientTransformation(init, update)


def _cast(tree: Params, dtype: Any) -> Params:
    return jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), tree)


@eqx.filter_jit
def _updated(
    inputs: Inputs, updates: Params, state: WithBiasState, params: Params, strength: Scalar, order: int
) -> tuple[Params, WithBiasState]:
    dtype = inputs.theta.dtype
    updates, own_state = inputs.rule.transformation().update(
        _cast(updates, dtype), state.optimizer, _cast(params, dtype)
    )
    validity = state.validity
    if order > 0:
        hK, size = _added(inputs, state.n, strength.astype(dtype), order)
        updates = optax.tree.add(updates, unravel_like(params)(-hK))
        validity = jnp.maximum(validity, size)
    return updates, WithBiasState(jnp.asarray(optax.safe_increment(state.n)), own_state, validity)


def _added(inputs: Inputs, n: StepNumber, strength: Scalar, order: int) -> tuple[Vector, Scalar]:
    """h K_1 + .. + h^order K_order of step n, and the validity of this step."""
    h, theta = inputs.rule.h, inputs.theta
    own, K = own_and_added(inputs.rule, inputs.objective, strength, order)(n)(theta)
    f_0, nothing = own[0], jnp.zeros_like(theta)
    hK = h * value((nothing, *K), h)
    sizes = [size_of_correction(f_0 + x, f_0) for x in (value((nothing, *own[1:]), h), hK / h)]
    return hK, jnp.where(jnp.any(hK != 0), jnp.maximum(*sizes), jnp.zeros_like(h))


def warning_once(order: int) -> Callable[[Scalar], None]:
    """A function that warns at the first validity above 1; it ignores traced values."""
    warned = False

    def warn(validity: Scalar) -> None:
        nonlocal warned
        if warned or is_traced(validity) or not float(validity) > 1:
            return
        warned = True
        msg = (
            f"the bias of order {order} that with_bias adds is outside the range of its expansion: the "
            f"correction is {float(validity):.3g} times the optimizer's leading flow (state.validity), where "
            "it must stay well below 1, so that these steps do not follow the flow that they are meant to. "
            "Use a smaller h, shorter memories (validity grows with h times memory) or a larger eps"
        )
        warnings.warn(msg, OutsideRangeWarning, stacklevel=3)

    return warn
