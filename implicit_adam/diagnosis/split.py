"""The present velocity in parts, for rules and for optax transformations.

A rule's is split in `fields.carried.parts`. Of a transformation, whose readout is not known apart from its
memories, causes are put in one after the other likewise: the full-batch gradient remembered as if it had been
here from the first step on, the mini-batches, the real memory of each kind, and what changes within a step.
Its weight decay is a part of the instant.
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
    """The parts of d theta/dt, flat vectors; they sum to the velocity of the equation with carried memory.

    - `instant`: what the optimizer would do had it always seen the full-batch gradient of this point.
    - `minibatch`: what the variance between mini-batches changes of that; zero in full batch.
    - `memory`: what the real memories change, one after the other: (memories, p).
    - `decay`: what the point itself adds to the update of a rule, such as weight decay.
    - `step`: the correction for the step.
    """

    instant: Vector
    minibatch: Vector
    memory: Vector
    decay: Vector
    step: Vector

    @property
    def velocity(self) -> Vector:
        """d theta/dt."""
        return self.instant + self.minibatch + jnp.sum(self.memory, axis=0) + self.decay + self.step

    @property
    def bias(self) -> Vector:
        """What memory and step add: the part that the paper's correction expands."""
        return jnp.sum(self.memory, axis=0) + self.step


def split(now: Moment) -> Parts:
    """In units of parameters per unit of time."""
    inputs, h = now.inputs, now.inputs.rule.h
    theta = inputs.theta
    carrier = _with_one_gradient(carrier_of(inputs), theta)
    if isinstance(inputs.rule, AbstractRule):
        found: Any = carried_parts(inputs.rule, inputs.objective, carrier, 1, now.n, theta, now.memory)
        parts = Parts(found.instant, found.minibatch, jnp.stack(found.memory), found.decay, found.step)
    else:
        whole = carrier if inputs.batches is None else full_batch_carrier(now)
        parts = _transformation(whole, carrier, now.n, theta, now.memory)
    return jax.tree.map(lambda x: x / h, parts)


def _with_one_gradient(carrier: Carrier, theta: Vector) -> Carrier:
    """Its gradient at theta is computed once: XLA does not see that two loops (over layers) are the same."""
    here = carrier.gradients(theta)
    return carrier._replace(gradients=lambda x: here if x is theta else carrier.gradients(x))


def full_batch_carrier(now: Moment) -> Carrier:
    """The optimizer on the mean of the mini-batch losses."""
    inputs = now.inputs
    if inputs.batches is None:
        return carrier_of(inputs)
    return carrier_of(inputs._replace(loss=mean_of(inputs), batches=None))


def mean_of(inputs: Any) -> Any:
    """The full-batch loss on pytrees."""
    whole = inputs.objective.full_batch()

    def mean(params: Any) -> Scalar:
        return whole.loss(inputs._replace(params=params).theta, None)

    return mean


def settled(carrier: Carrier, tau: Scalar, theta: Vector, g: Any) -> tuple[Memory, Any]:
    """The memory, and psi, had the gradients g been those of every step so far."""
    memory = begun = carrier.start(theta)
    psi = carrier.features(tau, g, theta, memory, None)
    for _ in range(carrier.levels):
        psi = carrier.features(tau, g, theta, memory, None)
        memory = carrier.ahead(begun, psi, still(psi), tau)
    return memory, psi


def still(psi: Any) -> Any:
    """No change."""
    return jax.tree.map(jnp.zeros_like, psi)


def instant_velocity(carrier: Carrier, tau: Scalar, theta: Vector) -> Vector:
    """-F per step, the gradient remembered as if it had always been the present one."""
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
