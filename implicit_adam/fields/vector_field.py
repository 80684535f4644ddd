"""The modified vector fields on pytrees, and the choice of the method that computes them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.checks.batches import check_batches, check_schedule
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.runs import check_order, check_shifted_order, check_step_number
from implicit_adam.fields.any_order.fixed_point import history_terms
from implicit_adam.fields.full_batch.closed_form import (
    check_has_limit,
    closed_form_terms,
    has_closed_form,
    has_limit,
)
from implicit_adam.fields.mini_batch.any_schedule import mini_batch_terms
from implicit_adam.fields.mini_batch.history_sum import window
from implicit_adam.fields.terms import Terms, field_of
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.from_optax.find_kernel_form import kernel_form
from implicit_adam.rules.from_optax.rule import Optax, as_optimizer
from implicit_adam.types import Batches, Field, Loss, Params, StepNumber

HIGHEST_ORDER = 3


def exact_terms(optimizer: Any, objective: Objective, order: int, *, flow: bool) -> Terms:
    """The terms by the cheapest exact method: closed form, sum over the past, or re-running the optimizer."""
    rule = with_kernels(optimizer, objective)
    if order <= 2 and _is_closed(rule, objective):
        return closed_form_terms(rule, objective, order, flow=flow)
    if rule is None or order > 1:
        return history_terms(optimizer, objective, order, flow=flow)
    return mini_batch_terms(rule, objective, order, flow=flow)


def with_kernels(optimizer: AbstractOptimizer, objective: Objective) -> Any:
    """The optimizer as features, kernels and a readout; None for an optax transformation that has none."""
    return kernel_form(optimizer, objective.params) if isinstance(optimizer, Optax) else optimizer


def _is_closed(rule: Any, objective: Objective) -> bool:
    """Whether there is a closed form."""
    return objective.m == 1 and rule is not None and has_closed_form(rule)


def raveled_field(optimizer: AbstractOptimizer, objective: Objective, order: int) -> Field:
    """The modified field on flat vectors."""
    return field_of(optimizer, objective, exact_terms(optimizer, objective, order, flow=True))


def vector_field(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    *,
    order: int = 1,
    batches: Batches = None,
    schedule: Any = None,
    shifted: bool = False,
) -> Callable[[StepNumber, Params], Params]:
    """The modified vector field f^(n) of an optimizer, d theta / dt = f^(n)(theta) on [nh, (n+1)h].

        f^(n) = -[ F^(n) + h DF^(n)[v_0, .., v_n] ],    v_k = sum_{l=k}^{n-1} F^(l) + F^(n)/2

    with F^(n) the update of step n when all gradients are taken at theta. For Adam this is eq. (10), in full
    batch Remark 3.2. Orders 2 and 3 add h^2 f_2 and h^3 f_3, from the history as a fixed point expanded in h
    (see `fields.any_order`).

    - `rule`: the optimizer, e.g. `ia.Adam(1e-3)`, or any optax transformation.
    - `loss`: `loss(params) -> scalar`, or `loss(params, batch) -> scalar` together with `batches`.
    - `order`: 0 for the leading (sign-type) flow, 1 for the paper's correction, 2 and 3 for the next terms of
      the series in h.
    - `batches`: a pytree of arrays with leading axis m; entry b is the mini-batch b.
    - `schedule`: integers, the mini-batch of each step; cyclic 0, 1, .., m-1, 0, .. by default.
    - `shifted`: replace every product Hess E v by (grad E(theta + h v) - grad E(theta)) / h. An evaluation
      then costs 2 gradients instead of 3 in full batch (with m mini-batches and r features m (1 + r) instead
      of m (1 + 2r), or of m (2 + 2r) if m > 4), and the field changes by O(h^2), the theorem's own error.
      Where h v is smaller than sqrt(eps) times theta (1-norms; sqrt(eps) is 3e-4 in float32 and 1e-8 in
      float64), v is followed that far instead, and the field changes by O(h sqrt(eps)). Only up to order 1.

    An optax transformation costs the same as a rule in full batch, and in mini-batches and at order 2 what a
    rule with one feature more costs, if its memories are of the gradient alone (`optax.adamw`, also with
    clipping, masks or a schedule). Otherwise (memories of memories, of the point, of some of the parameters,
    of the last step alone) it is re-run over its history: n + 1 Hessian-vector products at order 1.

    Order 2 costs 16/3 + 2r gradients in closed form (full batch, bias-corrected memory), whatever n is.
    Otherwise orders 2 and 3 re-run the optimizer order + 1 times over the steps that it still remembers, with
    O(order) vectors in memory. Each of these steps costs 10 to 12 gradients at order 2 and 70 to 80 at order
    3 (counted for Adam); in addition each mini-batch costs once 7 or 8 gradients at order 2, and 1 at order
    3.

    Returns `field(n, params)`, a pytree like params in units of params per unit of time; n may be traced.
    Derivatives: forward mode (`jax.jvp`, `jax.jacfwd`) always; reverse mode (`jax.grad`) where the number
    of past steps is static, that is in closed form up to order 1 (full batch, bias-corrected memory) and for
    a Python integer n.

    Raises `ValueError` for bad orders, batches, schedules, parameters or step numbers.
    """
    check_order(order, HIGHEST_ORDER)
    check_shifted_order(order, shifted=shifted)
    check_rule(as_optimizer(rule), AbstractOptimizer)
    schedule = check_schedule(schedule, check_batches(batches), 1)

    def field(n: StepNumber, params: Params) -> Params:
        inputs = checked_inputs(rule, loss, params, batches, schedule, shifted=shifted, products=order > 0)
        return _velocity(identified(inputs), checked_step(inputs, n, order), order)

    return field


def checked_step(inputs: Inputs, n: StepNumber, order: int) -> StepNumber:
    """The checked n: an array if one program serves all steps; else a static n is kept, for reverse mode."""
    n = check_step_number(n, inputs.schedule)
    objective = inputs.objective
    closed = order < 2 and _is_closed(with_kernels(inputs.rule, objective), objective)
    return jnp.asarray(n) if closed else n


@eqx.filter_jit
def _velocity(inputs: Inputs, n: StepNumber, order: int) -> Params:
    velocity = inputs.unraveled(raveled_field(inputs.rule, inputs.objective, order)(n)(inputs.theta))
    if isinstance(n, int):
        return velocity
    # A traced step number below zero cannot be refused.
    return jax.tree.map(lambda x: jnp.where(n >= 0, x, jnp.full_like(x, jnp.nan)), velocity)


def optax_vector_field(
    tx: optax.GradientTransformation,
    loss: Loss,
    h: Any,
    *,
    order: int = 1,
    batches: Batches = None,
    schedule: Any = None,
    window: int | None = None,
    shifted: bool = False,
) -> Callable[[StepNumber, Params], Params]:
    """The modified vector field of any differentiable optax transformation, by jvps of its own `update`.

    - `tx`: a transformation whose updates are -1.0 times F, i.e. of learning rate 1: `optax.adabelief(1.0)`,
      chains with clipping, weight decay, schedules, ..
    - `h`: the step size.
    - `window`: how many past steps to look back (default: all, exact); see `Optax`.
    - Other arguments and the result: as in `vector_field`.

    With a window an evaluation at step n costs min(n, window) + 1 Hessian-vector products at order 1; without
    one see `vector_field`. Raises `ValueError` as `vector_field` does, and for a transformation whose update
    has zero derivative in the gradient, such as a sign.
    """
    rule = Optax(h, tx, window)
    return vector_field(rule, loss, order=order, batches=batches, schedule=schedule, shifted=shifted)


def limiting_field(
    rule: AbstractOptimizer | optax.GradientTransformation, loss: Loss, *, order: int = 1
) -> Callable[[Params], Params]:
    """The full-batch field for n to infinity, eq. (3)-(4): `field(params)`, the same at every late step.

    It exists for every rule that forgets old gradients, with or without bias correction; Adagrad and rules on
    a schedule have no limit and raise `ValueError`. So do, once the field is called, optax transformations on
    a schedule, with injected hyperparameters, with traced values inside, and those whose memories are more
    than averages of functions of the gradient (`optax.adabelief`), or of some parameters only. Up to order 2
    it is in closed form; order 3, for rules only, is the field of a late step, summed over the whole memory.
    Arguments as in `vector_field`.
    """
    check_order(order, HIGHEST_ORDER)
    if not isinstance(as_optimizer(rule), Optax):
        check_has_limit(rule)

    def field(params: Params) -> Params:
        inputs = checked_inputs(rule, loss, params, products=order > 0)
        if isinstance(inputs.rule, Optax):
            _check_limit_of_optax(inputs, order)
        return _limiting_velocity(identified(inputs), order)

    return field


def _check_limit_of_optax(inputs: Inputs, order: int) -> None:
    form = with_kernels(inputs.rule, inputs.objective)
    if form is None or not has_limit(form) or order > 2:
        msg = (
            "the limit n to infinity of an optax transformation is known up to order 2, without a window, a "
            "schedule, injected hyperparameters or traced values inside, if its memories are averages of "
            "functions of the gradient that fade, for all parameters; "
            f"got order = {order} and {inputs.rule!r}; use vector_field at a late step n"
        )
        raise ValueError(msg)


@eqx.filter_jit
def _limiting_velocity(inputs: Inputs, order: int) -> Params:
    rule = with_kernels(inputs.rule, inputs.objective)
    velocity = field_of(inputs.rule, inputs.objective, limiting_terms(rule, inputs.objective, order))
    return inputs.unraveled(velocity(jnp.inf)(inputs.theta))


def limiting_terms(rule: Any, objective: Objective, order: int) -> Terms:
    """The coefficients of -f in full batch for n to infinity."""
    if order <= 2:
        return closed_form_terms(rule, objective, order, flow=True)
    # So late that the start of the run is forgotten.
    late = jnp.ceil(window(rule.kernels(0), moment=order)).astype(int)
    terms = history_terms(rule, objective, order, flow=True)
    return lambda _: terms(late)
