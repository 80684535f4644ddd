"""Past the edge of stability: how well the two-branch closure predicts the centre of alternating iterates.

For theta_n = c + (-1)^n d, the mean (theta_(n-1) + 2 theta_n + theta_(n+1)) / 4 is c, up to second
differences of c and d. The c of the closure is compared with this mean.
"""

import equinox as eqx
import jax.numpy as jnp

from implicit_adam.diagnosis.forecasts import full_batch_path
from implicit_adam.diagnosis.moment import Moment
from implicit_adam.fields.carried.carried_field import carrier_of, delays_of
from implicit_adam.fields.carried.two_branch import two_branch_velocity, two_branches
from implicit_adam.runs.carried_flow import Solving, solved
from implicit_adam.runs.carried_options import usual_floor
from implicit_adam.types import Scalar


def has_branches(now: Moment) -> bool:
    """Whether the closure applies: in full batch, to a memory without the gradient of the step before."""
    return now.inputs.batches is None and not delays_of(now.inputs)


@eqx.filter_jit
def two_branch_error(now: Moment, k: int) -> Scalar:
    """||centre of the closure - the optimizer's|| after k - 1 steps, over the distance the latter moves."""
    inputs, carrier = now.inputs, carrier_of(now.inputs)
    h, floor = inputs.rule.h, usual_floor(inputs.theta)
    path = full_batch_path(now, k)
    centres = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    begun, arrived = centres[0], centres[-1]
    state = two_branches(carrier, now.n, inputs.theta, now.memory, floor)
    velocity = two_branch_velocity(carrier, 1, floor)
    (centre, _), _ = solved(
        lambda tau, *state: velocity(now.n + tau, *state),
        h,
        state,
        jnp.zeros_like(h),
        (k - 1) * h[None],
        Solving(1, None, None),
        floor,
    )
    return jnp.linalg.norm(centre[-1] - arrived) / jnp.linalg.norm(arrived - begun)
