"""The right side of the equation with carried memory, on pytrees."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.checks.numbers import check_count, check_not_negative
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.runs import check_order
from implicit_adam.fields.carried.carrier import Carrier, Memory, carried_velocity
from implicit_adam.fields.carried.optax_carrier import carried_optax
from implicit_adam.fields.carried.parts import CarriedParts, carried_parts
from implicit_adam.fields.carried.rule_carrier import carried_rule
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.rules.base import AbstractOptimizer, AbstractRule
from implicit_adam.rules.from_optax.packed import packed_memories
from implicit_adam.rules.from_optax.rule import as_optimizer
from implicit_adam.types import Batches, Loss, Params, Scalar
from implicit_adam.vectors import ravel

HIGHEST_CARRIED_ORDER = 1


@final
class CarriedField(eqx.Module):
    """The right side of the equation with carried memory, `field(t, (params, memories))`."""

    rule: AbstractOptimizer
    loss: Loss = eqx.field(static=True)
    batches: Batches
    order: int = eqx.field(static=True)
    noise: Scalar | None = None

    def __call__(self, t: Any, state: Any) -> tuple[Params, Memory]:
        """(d params/dt, d memories/dt) at the time t = n h."""
        params, memories = _pair(state)
        return _velocity(self._inputs(params), memories, jnp.asarray(t), self.order)

    def decompose(self, t: Any, state: Any) -> CarriedParts:
        """d params/dt in parts that sum to it: the instant, mini-batches, each memory, decay, the step.

        Takes the arguments of the field. Raises `ValueError` for an optax transformation, whose readout is
        not known separately from its memories.
        """
        params, memories = _pair(state)
        inputs = self._inputs(params)
        if not isinstance(inputs.rule, AbstractRule):
            msg = (
                "decompose needs an optimizer of features, kernels and a readout, such as ia.Adam(1e-3) or a "
                f"rule of your own; got {inputs.rule!r}"
            )
            raise ValueError(msg)  # noqa: TRY004
        return _decomposition(inputs, memories, jnp.asarray(t), self.order)

    def start(self, params: Params, steps: int = 0) -> tuple[Params, Memory]:
        """(params, memories) after the optimizer's first `steps` steps, at the time t = steps h."""
        steps = check_count("steps", steps, least=0)
        return _start(self._inputs(params), steps)

    def _inputs(self, params: Params) -> Inputs:
        return carried_inputs(self.rule, self.loss, params, self.batches, self.noise)


def carried_inputs(
    rule: Any, loss: Loss, params: Params, batches: Batches, noise: Scalar | None, *, products: bool = False
) -> Inputs:
    """The checked inputs of the equation; a traced noise below zero, which cannot be refused, becomes NaN.

    `products`: whether Hessian-vector products will be taken, which the equation itself does not need.
    """
    inputs = checked_inputs(rule, loss, params, batches, products=products, equation=False)
    if noise is not None:
        noise = jnp.where(noise >= 0, noise, jnp.nan).astype(inputs.theta.dtype)
    return identified(inputs._replace(noise=noise))


def checked_noise(noise: Any, batches: Batches) -> Scalar | None:
    """The factor on the variance between mini-batches, which needs batches."""
    if noise is None:
        return None
    check_not_negative("noise", noise)
    if batches is None:
        msg = "noise scales the variance between mini-batches, and there are none; give batches"
        raise ValueError(msg)
    return jnp.asarray(noise)


@eqx.filter_jit
def _velocity(inputs: Inputs, memories: Any, t: Scalar, order: int) -> tuple[Params, Memory]:
    h, theta = inputs.rule.h, ravel(inputs.params)
    velocity = carried_velocity(carrier_of(inputs), order)
    per_step = velocity(t.astype(theta.dtype) / h, theta, hidden(inputs, memories))
    theta_dot, memory_dot = jax.tree.map(lambda x: x / h.astype(x.dtype), per_step)
    return inputs.unraveled(theta_dot), shown(inputs, memory_dot)


@eqx.filter_jit
def _decomposition(inputs: Inputs, memories: Any, t: Scalar, order: int) -> CarriedParts:
    h, theta = inputs.rule.h, inputs.theta
    tau, carrier, memory = t.astype(theta.dtype) / h, carrier_of(inputs), hidden(inputs, memories)
    parts = carried_parts(inputs.rule, inputs.objective, carrier, order, tau, theta, memory)
    return jax.tree.map(lambda x: inputs.unraveled(x / h), parts)


@eqx.filter_jit
def _start(inputs: Inputs, steps: int) -> tuple[Params, Memory]:
    carrier = carrier_of(inputs)
    state = (inputs.theta, carrier.start(inputs.theta))
    theta, memory = jax.lax.fori_loop(0, steps, lambda n, state: carrier.step(n, *state), state)
    return inputs.unraveled(theta), shown(inputs, memory)


def carried_field(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    *,
    order: int = 1,
    batches: Batches = None,
    noise: Any = None,
) -> CarriedField:
    """The optimizer's equation with its memories as states: `field(t, (params, memories))`.

        theta' = -F + (1/24) [F(t + h) - 2 F(t) + F(t - h)]
        F = readout(S(t + h/2), theta(t - h/2), n = t/h - 1/2)
        S' = (lambda/h) [ psi(t - delta h) - S ],        lambda = -log d,        delta = 1/(1-d) - 1/lambda

    with one S for every exponential, of decay d per step, in the kernel of every feature psi. The second
    difference makes -F the mean velocity of a step. `vector_field` expands the memory in its length and so
    needs h/(1-d) to be small against the width sqrt(eps) of the sign layers. Here only the step is expanded:
    the error is O(h^2) uniformly in the decays and eps, and the equation holds at the settings used in
    practice. An evaluation costs two gradients.

    - `rule`: the optimizer, e.g. `ia.Adam(1e-3)`, or any optax transformation whose memories are linear
      recursions y <- d y + (1-d) psi with constant d: optax's adam, adamw, nadam, sgd, rmsprop (with momentum
      too), adabelief, adan, adopt, ademamix, novograd, lamb, lars, muon, and chains with clipping, weight
      decay, masks and schedules. psi may depend on other memories. Others are refused, with a reason: maxima
      (amsgrad, adamax), decays that change (adafactor, yogi, adadelta), signs, accumulation over steps,
      random keys, projections, and traced values inside the transformation.
    - `loss`: `loss(params) -> scalar`, or `loss(params, batch) -> scalar` together with `batches`.
    - `order`: 1, or 0 for the continuous optimizer without corrections for the step (one gradient).
    - `batches`: a pytree of arrays with leading axis m. The equation is then that of the *mean* over random
      orders of the mini-batches: memories average the features over the mini-batches, so that a memory of
      squares holds the squared gradient plus its variance. The effect of fluctuating memories on the readout
      is neglected, which is exact for readouts linear in them. For a transformation the update of the present
      step is averaged over the mini-batches, each from the state of the mean run, with all their gradients in
      memory at once; one that keeps the gradient of the step before (adan) is refused with `batches`.
    - `noise`: the factor on the variance of the gradients of `batches`, for another batch size: 0 for full
      batch, 1/r for batches r times as large, drawn from ever new data, and

          noise = (m - r) / (r (m - 1))

      if the m batches are all the data and epochs go through them. Memories of squares scale exactly; other
      features, and a transformation's update, are correct to first order in the variance. May be traced and
      differentiated: a derivative in noise is one in 1/r.

    `field.decompose(t, (params, memories))` splits d params/dt into its causes (rules only).
    `field.start(params, steps)` gives (params, memories) after some steps of the optimizer. `memories[i][e]`
    is a pytree like params, the average (1-d) sum_k d^(n-k) psi_i(g_k) of exponential e of kernel i, without
    bias correction (a sum for d = 1), and None where it is the present gradient. For a transformation it is
    a pytree like its state, with None for counters, constants and memories of d = 0. Derivatives in any mode.

    Raises `ValueError` for bad arguments.
    """
    check_order(order, HIGHEST_CARRIED_ORDER)
    optimizer = as_optimizer(rule)
    check_rule(optimizer, AbstractOptimizer)
    return CarriedField(optimizer, loss, batches, order, checked_noise(noise, batches))


def _pair(state: Any) -> tuple[Params, Memory]:
    if not isinstance(state, tuple) or len(state) != 2:
        msg = f"a state is the pair (params, memories), as field.start(params, steps) gives it; got {state!r}"
        raise ValueError(msg)
    return state


def carrier_of(inputs: Inputs) -> Carrier:
    """The optimizer of a run as a carrier."""
    rule, objective = inputs.rule, inputs.objective
    if isinstance(rule, AbstractRule):
        return carried_rule(rule, objective)
    return carried_optax(rule, objective, packed_memories(rule.tx, objective.params))


def delays_of(inputs: Inputs) -> list[str]:
    """The names of a transformation's memories that are the gradient of the step before."""
    if isinstance(inputs.rule, AbstractRule):
        return []
    return packed_memories(inputs.rule.tx, inputs.objective.params).delays


def check_no_delays(inputs: Inputs) -> None:
    """Refuse a memory of the gradient of the step before, which is the other branch's."""
    delays = delays_of(inputs)
    if delays:
        msg = (
            f"this transformation keeps the gradient of the step before ({', '.join(delays)}), which "
            "comes from the other branch and is not a smooth memory; leave out the closure"
        )
        raise ValueError(msg)


def shown(inputs: Inputs, memory: Memory, *, saves: bool = False) -> Any:
    """The memory for the user: pytrees like params, for a transformation one like its state."""
    if isinstance(inputs.rule, AbstractRule):
        return each_memory(jax.vmap(inputs.unraveled) if saves else inputs.unraveled, memory)
    packed = packed_memories(inputs.rule.tx, inputs.objective.params)
    return (jax.vmap(packed.shown) if saves else packed.shown)(memory)


def hidden(inputs: Inputs, memories: Any) -> Memory:
    """The inverse of `shown`."""
    if isinstance(inputs.rule, AbstractRule):
        return each_memory(ravel, memories)
    return packed_memories(inputs.rule.tx, inputs.objective.params).hidden(memories)


def each_memory(f: Any, memory: Memory) -> Memory:
    """f applied to every state: to vectors here, to pytrees like params at the public surface."""
    return tuple(tuple(None if S is None else f(S) for S in row) for row in memory)
