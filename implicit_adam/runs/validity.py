"""`validity`, the size of the correction over the leading flow, tells where the expansion holds.

    validity = ||f - f_0|| / ||f_0||  =  ||h DF^(n)[v]|| / ||F^(n)||  at order 1        (2-norms)

It is about h times memory times curvature, and the next term of the series is about its square. Below 0.1 the
expansion can be trusted; above 1 the correction is larger than the flow itself, and the series says nothing.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from implicit_adam.checks.numbers import is_traced
from implicit_adam.runs.trajectory import Trajectory
from implicit_adam.types import Field, Scalar, StepNumber, Vector

# A smooth flow, which costs only a few dozen evaluations, measures its validity at this many saved points.
POINTS = 5


class OutsideRangeWarning(UserWarning):
    """Warns that a run took steps outside the range in which the modified equation approximates it."""


class RoundingWarning(UserWarning):
    """Warns that rounding to the parameters' dtype took more than half of a run's movement."""


def size_of_correction(corrected: Vector, leading: Vector) -> Scalar:
    """||f - f_0|| / ||f_0|| for f `corrected`, f_0 `leading`; zero where both vanish, not differentiated."""
    corrected, leading = jax.lax.stop_gradient((corrected, leading))
    # In units of the largest entry: in float32 the square of 1e-23, found late in a run, is 0.
    largest = jnp.maximum(jnp.max(jnp.abs(corrected)), jnp.max(jnp.abs(leading)))
    unit = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    difference = jnp.linalg.norm((corrected - leading) / unit)
    size = difference / jnp.linalg.norm(leading / unit)
    return jnp.where(difference == 0, jnp.zeros_like(size), size)


def at_saves(
    corrected: Field, leading: Field, saved: Int[Array, " saves"], thetas: Float[Array, "saves p"]
) -> Float[Array, " saves"]:
    """`validity` (saves,), measured at `POINTS` of the saved points, the last included.

    Each value also stands for the saved points between it and the one before.
    """
    last = len(thetas) - 1
    places = np.unique(np.round(np.linspace(0, last, min(POINTS + 1, last + 1))).astype(int))[1:]

    def size(at: tuple[StepNumber, Vector]) -> Scalar:
        # At the point after n steps, the field of step n - 1, which led there.
        n, theta = at
        return size_of_correction(corrected(n - 1)(theta), leading(n - 1)(theta))

    sizes = jax.lax.map(size, jax.lax.stop_gradient((saved[places], thetas[places])))
    sizes = jnp.concatenate([jnp.zeros_like(sizes[:1]), sizes])
    return sizes[np.searchsorted(np.concatenate([[0], places]), np.arange(last + 1))]


def warned(run: Trajectory, order: int = 0) -> Trajectory:
    """The run itself, after a warning (once a call) where it deserves one; silent inside jit and vmap."""
    if any(is_traced(x) for x in jax.tree.leaves(run)):
        return run
    _warn_of_range(run, order)
    _warn_of_rounding(run)
    return run


def _warn_of_range(run: Trajectory, order: int) -> None:
    sizes = np.asarray(run.validity, np.float64)
    if order == 0 or not (sizes > 1).any():
        return
    msg = (
        f"the expansion of order {order} is outside its range: the correction reached "
        f"{np.nanmax(sizes):.3g} times the flow that it corrects (validity, by t = "
        f"{float(run.t[np.nanargmax(sizes)]):.3g}), where it must stay well below 1; do not trust this run. "
        "Use ia.carried_flow, which does not expand the memory and holds at such settings; or a smaller h, "
        "shorter memories (validity grows with h times memory), a larger eps, or order=0"
    )
    warnings.warn(msg, OutsideRangeWarning, stacklevel=4)


def _warn_of_rounding(run: Trajectory) -> None:
    lost = float(run.rounding[-1])
    ends = jax.tree.map(lambda x: np.asarray(x[np.array([0, -1])], np.float64), run.params)
    travelled = max(float(np.abs(x[1] - x[0]).max(initial=0)) for x in jax.tree.leaves(ends))
    if not lost > travelled / 2:
        return
    dtype = jax.tree.leaves(run.params)[0].dtype
    msg = (
        f"the steps are too small for parameters in {dtype}: rounding took {lost:.3g} from a run that "
        f"moved them by {travelled:.3g} in all (largest component). Use wider parameters (cast them inside "
        f"the loss if it needs {dtype}) or a larger h"
    )
    warnings.warn(msg, RoundingWarning, stacklevel=4)
