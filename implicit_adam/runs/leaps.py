"""An integrator for the equation with carried memory: leaps across many steps, at one gradient each.

A Runge-Kutta method spends several gradients on every step, and the fastest memory limits its step size.
Here the memories are integrated exactly, with psi linear in time (`fading`), and the update is evaluated
once, in the middle of a leap of k steps,

    theta(t + kh) = theta - k h F(t + kh/2),      A(t + kh) from psi(t), psi(t + kh),

with psi extrapolated beyond t linearly from its last two values. The error is O((kh)^2). Points and memories
are staggered as in a leapfrog scheme, which is stable for leaps of up to about the period of the fastest
oscillation over pi. A leap of one step is the optimizer's own step, up to rounding, whatever psi does.
In a sampled run, the mean over the leap of the mini-batches' `noise` is added to psi.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.fields.carried.carrier import Carrier, features_and_change
from implicit_adam.runs.mini_batch_noise import Noise
from implicit_adam.types import Scalar


class Leaps(diffrax.AbstractSolver):
    """A diffrax solver of one gradient per step, for the state (theta, memory) at times t = (n - first) h.

    `first` is the step number at t = 0. Counted from 0, times late in a run would be off by part of a step
    in float32.
    """

    carrier: Carrier = eqx.field(static=True)
    h: Scalar
    noise: Noise | None = eqx.field(static=True, default=None)
    first: Scalar | float = 0.0

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.ThirdOrderHermitePolynomialInterpolation

    def order(self, terms: Any) -> int:
        return 2

    def error_order(self, terms: Any) -> int:
        return 2

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        carrier, tau, (theta, memory) = self.carrier, self.first + t0 / self.h, y0
        # The first leap is one of one step, the optimizer's own, in which the line of psi does not matter
        # (and is not worth its compilation) unless psi holds what was a step ago.
        if carrier.passes > 1:
            psi, change, hF = features_and_change(carrier, tau, theta, memory, order=1)
            return psi, change, -hF
        psi = carrier.features(tau, carrier.gradients(theta), theta, memory, None)
        return psi, jax.tree.map(jnp.zeros_like, psi), jnp.zeros_like(theta)

    def step(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any):
        (theta, memory), (psi, change, moving), carrier = y0, solver_state, self.carrier
        tau, k = self.first + t0 / self.h, (t1 - t0) / self.h
        between = theta + (k - 1) / 2 * moving

        more = None if self.noise is None else self.noise.of_leap(theta, memory, psi, tau, k)
        seen = psi if more is None else jax.tree.map(jnp.add, psi, more)
        leap = -k * carrier.update(tau, between, memory, seen, change, k / 2)
        new = theta + leap
        new_psi, new_change = carrier.arrive(tau, memory, psi, k, new, carrier.gradients(new))
        new_memory = carrier.ahead(memory, psi, new_change, k)
        # How the update changes with the slope that psi turned out to have, half a step later: in a leap of
        # one step it does not matter, and an error of zero would ask for a longer leap, which is rejected.
        later, now = (k + 1) / 2, jnp.zeros_like(k)
        new_moving = carrier.update(tau + k, new, new_memory, new_psi, new_change, now)
        looking_back = carrier.update(tau, between, memory, psi, new_change, later)
        looking_ahead = carrier.update(tau, between, memory, psi, change, later)
        foreseen = carrier.ahead(memory, psi, change, k)
        error = (k * (looking_ahead - looking_back), jax.tree.map(jnp.subtract, new_memory, foreseen))
        if self.noise is not None:
            still, nothing = (jax.tree.map(jnp.zeros_like, x) for x in (more, memory))
            new_memory = jax.tree.map(jnp.add, new_memory, carrier.ahead(nothing, more, still, k))
        dense = {
            "y0": y0,
            "y1": (new, new_memory),
            "k0": jax.tree.map(
                lambda x: k.astype(x.dtype) * x, (moving, carrier.rate(memory, psi, new_change))
            ),
            "k1": jax.tree.map(
                lambda x: k.astype(x.dtype) * x, (-new_moving, carrier.rate(new_memory, new_psi, new_change))
            ),
        }
        return (new, new_memory), error, dense, (new_psi, new_change, -new_moving), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return terms.vf(t0, y0, args)


class RelativeToTheMove(diffrax.AbstractStepSizeController):
    """Keeps the error of every solver step below a fraction of the length of that step.

    The sum of the errors is then below that fraction of the length of the path, in any units of the
    parameters. A tolerance per coordinate would stall where one crosses zero. Errors of the memories count
    only through theta.
    """

    controller: diffrax.PIDController

    def wrap(self, direction: Any) -> "RelativeToTheMove":
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        return self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        if y_error is None:
            msg = "this solver has no error estimate to adapt to; give a stepsize_controller as well"
            raise ValueError(msg)
        moved, error = size(y1_candidate[0] - y0[0]), size(y_error[0])
        one = jnp.ones_like(moved)
        ratio = jnp.where(moved > 0, error / jnp.where(moved > 0, moved, one), jnp.zeros_like(moved))
        # A leap to where the update has no value is rejected, and tried again shorter.
        ratio = jnp.where(jnp.isfinite(moved), ratio, jnp.full_like(ratio, jnp.inf))
        return self.controller.adapt_step_size(t0, t1, one, one, args, ratio, error_order, controller_state)


def size(x: Float[Array, " p"]) -> Scalar:
    """The Euclidean norm, with derivative 0 at 0."""
    square = jnp.sum(x**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, jnp.ones_like(square))), square)
