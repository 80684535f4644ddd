"""Splits the present velocity into its causes, for rules and for optax transformations.

For a rule see `fields.carried.parts`. For a transformation, whose readout is not known apart from its
memories, the causes are likewise added one after the other: first a memory that has seen the present
full-batch gradient in every step, then the variance of the mini-batches, the real value of each memory, and
the correction for the step. Its weight decay is a part of the instant.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from implicit_adam.diagnosis.moment import Moment
from implicit_adam.fields.carried.carried_field import carrier_of
from implicit_adam.fields.carried.carrier import Carrier, Memory, carried_velocity
from implicit_adam.fields.carried.parts import carried_parts
from implicit_adam.loops import in_turn
from implicit_adam.rules.base import AbstractRule
from implicit_adam.types import Scalar, Vector


class Parts(NamedTuple):
    """The parts of d theta/dt, flat vectors (p,) whose sum is that of the equation with carried memory.

    - `instant`: the velocity if the optimizer had always seen the full-batch gradient of this point.
    - `minibatch`: the change due to the variance between mini-batches; zero in full batch.
    - `memory`: the changes due to the real memories, one after the other: (memories, p).
    - `decay`: the direct dependence of a rule's update on the point, such as weight decay.
    - `step`: the correction for the step.
    """

    instant: Vector
    minibatch: Vector
    memory: Vector
    decay: Vector
    step: Vector

    @property
    def velocity(self) -> Vector:
        """The whole velocity d theta/dt."""
        return self.instant + self.minibatch + jnp.sum(self.memory, axis=0) + self.decay + self.step

    @property
    def bias(self) -> Vector:
        """The sum of `memory` and `step`, which the paper's correction expands in h."""
        return jnp.sum(self.memory, axis=0) + self.step


def split(now: Moment, g: Vector | None = None) -> Parts:
    """The `Parts` of the present velocity, in units of the parameters per unit of time.

    `g` is the gradient, if it is known and there are no mini-batches.
    """
    inputs, h = now.inputs, now.inputs.rule.h
    theta = inputs.theta
    carrier = carrier_of(inputs)
    here = carrier.gradients(theta) if g is None else _seen(inputs.rule, g)
    carrier = _with_gradients(carrier, theta, here)
    if isinstance(inputs.rule, AbstractRule):
        found: Any = carried_parts(inputs.rule, inputs.objective, carrier, 1, now.n, theta, now.memory)
        parts = Parts(found.instant, found.minibatch, jnp.stack(found.memory), found.decay, found.step)
    else:
        whole = carrier if inputs.batches is None else full_batch_carrier(now)
        parts = _transformation(whole, carrier, now.n, theta, now.memory)
    return jax.tree.map(lambda x: x / h, parts)


def _seen(rule: Any, g: Vector) -> Any:
    """What a carrier without mini-batches computes from one gradient."""
    return rule.features(g) if isinstance(rule, AbstractRule) else g


def _with_gradients(carrier: Carrier, theta: Vector, here: Any) -> Carrier:
    """Its gradient at theta is computed once: XLA does not see that two loops (over layers) are the same."""
    return carrier._replace(gradients=lambda x: here if x is theta else carrier.gradients(x))


def full_batch_carrier(now: Moment) -> Carrier:
    """The carried equation of the optimizer on the mean of the mini-batch losses."""
    inputs = now.inputs
    if inputs.batches is None:
        return carrier_of(inputs)
    return carrier_of(inputs._replace(loss=mean_of(inputs), batches=None))


def mean_of(inputs: Any) -> Any:
    """The full-batch loss, as a function of the parameters' pytree."""
    whole = inputs.objective.full_batch()

    def mean(params: Any) -> Scalar:
        return whole.loss(inputs._replace(params=params).theta, None)

    return mean


def settled(carrier: Carrier, tau: Scalar, theta: Vector, g: Any) -> tuple[Memory, Any]:
    """The memory, and psi, if the gradients of every step so far had been g."""
    memory = begun = carrier.start(theta)
    psi = carrier.features(tau, g, theta, memory, None)
    for _ in range(carrier.levels):
        psi = carrier.features(tau, g, theta, memory, None)
        memory = carrier.ahead(begun, psi, still(psi), tau)
    return memory, psi


def still(psi: Any) -> Any:
    """Zeros like psi: features that do not change."""
    return jax.tree.map(jnp.zeros_like, psi)


def instant_velocity(carrier: Carrier, tau: Scalar, theta: Vector) -> Vector:
    """-F per step, with a memory in which every gradient is the present one."""
    memory, psi = settled(carrier, tau, theta, carrier.gradients(theta))
    return -carrier.update(tau, theta, memory, psi, still(psi), jnp.zeros_like(tau))


def _transformation(whole: Carrier, carrier: Carrier, tau: Scalar, theta: Vector, memory: Memory) -> Parts:
    g = carrier.gradients(theta)
    always, _ = settled(carrier, tau, theta, g)

    def velocity(memory: Memory) -> Vector:
        psi = carrier.features(tau, g, theta, memory, None)
        return -carrier.update(tau, theta, memory, psi, still(psi), jnp.zeros_like(tau))

    real = in_turn(velocity, *(([*memory[:i], *always[i:]],) for i in range(1 + len(memory))))
    stages = [
        instant_velocity(whole, tau, theta),
        *real,
        carried_velocity(carrier, 1)(tau, theta, memory)[0],
    ]
    minibatch, *remembered, step = (b - a for a, b in pairwise(stages))
    none = jnp.zeros((0, theta.size), theta.dtype)
    memories = jnp.stack(remembered) if remembered else none
    return Parts(stages[0], minibatch, memories, jnp.zeros_like(theta), step)
