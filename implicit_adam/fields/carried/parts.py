"""The velocity with carried memory, split by cause.

Causes are added one after the other, so that the parts sum to the velocity: the features of the full-batch
gradient, as if it had been the same since the first step, with theta = 0 in the readout; then the mean of the
features over the mini-batches; then the real memory of each kernel; then theta in the readout; and last the
correction for the step.
"""

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp

from implicit_adam.fields.carried.carrier import Carrier, Memory, carried_velocity
from implicit_adam.fields.carried.rule_carrier import held
from implicit_adam.objective import Objective
from implicit_adam.reprs import norms
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.feature_sums import FeatureSums, read
from implicit_adam.rules.kernels import Kernel, geometric_sum
from implicit_adam.types import Params, Scalar, Vector


class CarriedParts(NamedTuple):
    """The parts of d params/dt, each a pytree like the parameters; they sum to it.

    - `instant`: -readout of the full-batch gradient at this point, as if it had always been the same: for
      Adam the sign-type flow.
    - `minibatch`: the change when features are averaged over the mini-batches, for Adam the variance of their
      gradients in the second memory; zero in full batch.
    - `memory`: for each kernel the change due to the real memory, one kernel after the other.
    - `decay`: the direct contribution of the point to the update, such as weight decay.
    - `step`: the correction for the step; zero at order 0.
    """

    instant: Params
    minibatch: Params
    memory: tuple[Params, ...]
    decay: Params
    step: Params

    def __repr__(self) -> str:
        return norms(self)


def carried_parts(
    rule: AbstractRule,
    objective: Objective,
    carrier: Carrier,
    order: int,
    tau: Scalar,
    theta: Vector,
    memory: Memory,
) -> CarriedParts:
    """The parts per step, as flat vectors, at the time tau in steps."""
    nowhere = jnp.zeros_like(theta)
    n = tau - 1 / 2
    kernels = rule.kernels(n)
    mean = of_mean = carrier.gradients(theta)
    if objective.batches is not None:
        of_mean = rule.features(objective.full_batch().gradients(theta)[0])
    still = jax.tree.map(jnp.zeros_like, mean)
    settled = read(kernels, _as_if_always(kernels, mean, n))
    after = carrier.after(memory, mean, still, jnp.full_like(tau, 1 / 2))
    real = read(kernels, held(kernels, after, mean))

    def velocity(s: tuple[Vector, ...], theta: Vector) -> Vector:
        return -rule.h * rule.readout_between_steps(s, theta, n)

    with_memories = [(*real[:i], *settled[i:]) for i in range(1 + len(kernels))]
    stages = [
        velocity(read(kernels, _as_if_always(kernels, of_mean, n)), nowhere),
        *(velocity(s, nowhere) for s in with_memories),
        velocity(real, theta),
        carried_velocity(carrier, order)(tau, theta, memory)[0],
    ]
    minibatch, *remembered, decay, step = (b - a for a, b in pairwise(stages))
    return CarriedParts(stages[0], minibatch, tuple(remembered), decay, step)


def _as_if_always(kernels: tuple[Kernel, ...], psi: tuple[Vector, ...], n: Scalar) -> FeatureSums:
    """sum_{k <= n} d^(n-k) psi for every exponential."""
    return tuple(
        tuple(geometric_sum(d, n + 1) * psi_i for d in kernel.decay)
        for kernel, psi_i in zip(kernels, psi, strict=True)
    )
