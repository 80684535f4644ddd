"""A step size controller whose tolerance is relative to the distance from the start of the run.

    rms(error) <= tolerance rms(theta - start) + eps rms(theta)

Rescaling the parameters rescales both sides alike. The size of the parameters would be no good measure: a
coordinate that is 0, or a start of zeros, has none. The second term, with eps the rounding of the dtype, is
what the parameters can represent. Time is counted in steps of the optimizer, so that a velocity has the unit
of the parameters too.
"""

from typing import Any, final

import diffrax
import jax.numpy as jnp
from jaxtyping import Array

from implicit_adam.types import Scalar, Vector


def rms(x: Array) -> Scalar:
    """The root mean square, scaled so that no square overflows or underflows."""
    top = jnp.max(jnp.abs(x))
    # A solver marks a failed step by an infinite error, which stays infinite.
    top = jnp.where((top > 0) & jnp.isfinite(top), top, jnp.ones_like(top))
    mean = jnp.mean((x / top) ** 2)
    # Both are selected, so that the derivative at x = 0 is 0.
    return jnp.where(mean > 0, top * jnp.sqrt(jnp.where(mean > 0, mean, jnp.ones_like(mean))), mean)


@final
class TravelController(diffrax.AbstractAdaptiveStepSizeController):
    """A PIDController with the error measure of this module, whose first step is one of the optimizer's.

    `relative` is the tolerance; `rtol` and `atol` are for the root finders of implicit solvers alone, which
    compare velocities elementwise.
    """

    relative: Any
    start: Vector
    rtol: Any
    atol: Any
    norm: Any = rms

    def wrap(self, direction: Any) -> "TravelController":
        """Return this controller, which does not depend on the direction of time."""
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """The end of the first step, and the state of the PIDController."""
        return _UNIT.init(terms, t0, t1, y0, jnp.ones_like(t0), args, func, error_order)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        """The PIDController's next step size, for the error divided by what is allowed."""
        if y_error is None:
            msg = "an adaptive solve needs a solver with an error estimate, such as diffrax.Tsit5()"
            raise ValueError(msg)
        y1 = jnp.where(jnp.all(jnp.isfinite(y1_candidate)), y1_candidate, y0)
        allowed = jnp.maximum(self.allowed(y0), self.allowed(y1))
        # Nothing is allowed where nothing has ever moved, and then there is no error either.
        scaled = y_error / jnp.where(allowed > 0, allowed, jnp.ones_like(allowed))
        return _UNIT.adapt_step_size(t0, t1, y0, y1, args, scaled, error_order, controller_state)

    def allowed(self, theta: Vector) -> Scalar:
        """The root mean square that the error of one solver step to theta may have."""
        return self.relative * rms(theta - self.start) + jnp.finfo(theta.dtype).eps * rms(theta)


_UNIT = diffrax.PIDController(rtol=0.0, atol=1.0, norm=rms)


def travel_controller(tolerance: Any, start: Vector, movement: Vector) -> TravelController:
    """A `TravelController` for a run from `start`; `movement` is that of one step there.

    The root finder of an implicit solver compares its changes of a velocity with `movement`.
    """
    # Tighter than the steps, whose error estimates would otherwise be those of the root finder.
    root = jnp.maximum(tolerance / 10, 10 * jnp.finfo(start.dtype).eps)
    return TravelController(
        relative=tolerance, start=start, rtol=root, atol=root * jnp.max(jnp.abs(movement))
    )


def allowed_error(controller: diffrax.AbstractStepSizeController, theta: Vector) -> Scalar:
    """The largest error (max norm) allowed in a solver step to theta; NaN if the controller sets none."""
    if isinstance(controller, TravelController):
        # The max norm is at most the 2-norm.
        return controller.allowed(theta) * theta.size**0.5
    rtol, atol = getattr(controller, "rtol", jnp.nan), getattr(controller, "atol", jnp.nan)
    return atol + rtol * jnp.max(jnp.abs(theta))
