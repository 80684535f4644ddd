"""The next k steps of a run, by the optimizer itself and by the equations for it."""

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from implicit_adam.diagnosis.moment import Moment
from implicit_adam.diagnosis.split import full_batch_carrier, instant_velocity
from implicit_adam.fields.carried.carried_field import carrier_of
from implicit_adam.fields.carried.carrier import Memory, carried_velocity
from implicit_adam.fields.full_batch.closed_form import closed_form_terms, has_closed_form, has_limit
from implicit_adam.fields.terms import field_of
from implicit_adam.fields.vector_field import with_kernels
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.from_optax.rule import raveled_transformation
from implicit_adam.rules.scheduled import unscheduled
from implicit_adam.runs.carried_flow import Solving, solved
from implicit_adam.runs.interval import interval_step
from implicit_adam.runs.leaps import Leaps
from implicit_adam.types import Field, Scalar, Vector

PLAIN, CORRECTED, CARRIED, TWO_BRANCH = "plain", "corrected", "carried", "two-branch"


class Forecasts(NamedTuple):
    """Predictions of the next k steps from the present point, compared with the optimizer.

    - `error`: by equation, ||its point - the optimizer's|| over the distance that the optimizer travels; in
      mini-batches, the optimizer's point is the mean over runs.
    - `leaps`: how many leaps the solver took with carried memory; a leap of one step is the optimizer's own.
    - `sampling_error`: the standard error of that mean, and `spread`: the distance of single runs from it,
      both over the distance travelled.
    - `alternation`: the mean cosine between successive changes of the update in a full-batch run, -1 if
      updates alternate. `swing`: the size of these changes over that of the updates.
    """

    error: dict[str, Scalar]
    leaps: Int[Array, ""]
    sampling_error: Scalar
    spread: Scalar
    alternation: Scalar
    swing: Scalar


def random_orders(m: int, runs: int, steps: int, seed: int) -> Int[Array, "runs steps"]:
    """Indices of mini-batches, epoch by epoch, each epoch in a new random order."""
    epochs = np.tile(np.arange(m), (runs, -(-steps // m), 1))
    return jnp.asarray(np.random.default_rng(seed).permuted(epochs, axis=2).reshape(runs, -1)[:, :steps])


def forecasts(now: Moment, k: int, orders: Any) -> Forecasts:
    """The `Forecasts` of the next k steps.

    `orders` are (runs, k) mini-batch indices; in full batch a single row, whose values are not used.
    """
    theta = now.inputs.theta
    whole = full_batch_path(now, k)
    mean, apart, runs = ends(now, whole, orders)
    moved = jnp.linalg.norm(mean - theta)
    (carried, _), leaps = carried_points(now, jnp.asarray([k]))
    predicted = {PLAIN: _plain(now, k), CORRECTED: _corrected(now, k), CARRIED: carried[-1]}
    cosine, swing = alternation(jnp.diff(whole, axis=0))
    return Forecasts(
        {name: jnp.linalg.norm(end - mean) / moved for name, end in predicted.items()},
        leaps,
        apart / runs**0.5 / moved,
        apart / moved,
        cosine,
        swing,
    )


def ends(now: Moment, whole: Float[Array, "points p"], orders: Any) -> tuple[Vector, Scalar, int]:
    """Where the optimizer's runs end: the mean, how far single ones are from it, and how many there are."""
    ends = whole[-1:]
    if now.inputs.batches is not None:
        ends = jax.vmap(lambda order: _path(now, now.inputs, order)[-1])(orders)
    mean, runs = jnp.mean(ends, 0), len(ends)
    return mean, jnp.sqrt(jnp.sum((ends - mean[None]) ** 2) / max(1, runs - 1)), runs


def full_batch_path(now: Moment, k: int) -> Float[Array, "points p"]:
    """The optimizer's next k points on the mean of the mini-batch losses, after the present one."""
    return _path(now, now.inputs._replace(schedule=None), jnp.zeros(k, int))


def _path(now: Moment, inputs: Inputs, order: Any) -> Float[Array, "points p"]:
    """The optimizer's next k points in this order of mini-batches, after the present one."""
    objective = inputs.objective
    tx = raveled_transformation(inputs.rule.transformation(), objective.unravel)
    batched = inputs.batches is not None and inputs is now.inputs
    whole = objective.full_batch()

    def gradient(theta: Vector, b: Any) -> Vector:
        if batched:
            return jax.grad(objective.loss)(theta, jax.tree.map(lambda x: x[b], inputs.batches))
        return jax.grad(whole.loss)(theta, None)

    def step(carry: Any, b: Any) -> Any:
        theta, state = carry
        updates, state = tx.update(gradient(theta, b), state, theta)
        theta = objective.stored(theta + updates)
        return (theta, state), theta

    begun = (inputs.theta, jax.tree.map(jnp.asarray, now.opt_state))
    return jnp.concatenate([inputs.theta[None], jax.lax.scan(step, begun, order)[1]])


def _plain(now: Moment, k: int) -> Vector:
    """The end of theta' = -F, where F has a memory in which every gradient is the present one."""
    carrier, h = full_batch_carrier(now), now.inputs.rule.h
    return _interval_by_interval(
        lambda n: lambda theta: instant_velocity(carrier, now.n + n + 1 / 2, theta) / h, now.inputs, h, k
    )


def _corrected(now: Moment, k: int) -> Vector:
    """The end of the paper's corrected flow, in full batch; NaN where neither its closed form is known, nor
    its limit for n to infinity.
    """
    optimizer, objective = now.inputs.rule, now.inputs.objective.full_batch()
    # The schedule of a rule is held fixed over these few steps.
    optimizer = unscheduled(optimizer, now.n) if isinstance(optimizer, AbstractRule) else optimizer
    rule = with_kernels(optimizer, objective)
    if rule is None or not (has_closed_form(rule) or has_limit(rule)):
        return jnp.full_like(now.inputs.theta, jnp.nan)
    field = field_of(optimizer, objective, closed_form_terms(rule, objective, 1, flow=True))
    at = (lambda n: now.n + n) if has_closed_form(rule) else (lambda n: jnp.inf)
    return _interval_by_interval(lambda n: field(at(n)), now.inputs, optimizer.h, k)


def _interval_by_interval(field: Field, inputs: Inputs, h: Scalar, k: int) -> Vector:
    move = interval_step(field, h, diffrax.Heun())
    steps = jnp.arange(k).astype(inputs.theta.dtype)
    return jax.lax.scan(lambda theta, n: (move(n, theta)[0], None), inputs.theta, steps)[0]


def carried_points(
    now: Moment, steps: Int[Array, " saves"]
) -> tuple[tuple[Float[Array, "saves p"], Memory], Int[Array, ""]]:
    """The equation with carried memory after increasing numbers of steps, and how many leaps it took.

    Points and memories have a leading axis of saves. Time is counted from the present moment, since its step
    number may be large.
    """
    h, carrier, state = now.inputs.rule.h, carrier_of(now.inputs), (now.inputs.theta, now.memory)
    velocity = carried_velocity(carrier, 1)
    return solved(
        lambda tau, *state: velocity(now.n + tau, *state),
        h,
        state,
        jnp.zeros_like(h),
        steps.astype(h.dtype) * h,
        Solving(1, Leaps(carrier, h, first=now.n), None),
        None,
    )


def alternation(updates: Float[Array, "k p"]) -> tuple[Scalar, Scalar]:
    """The mean cosine between successive changes of the update, and their size over that of the updates."""
    changes = jnp.diff(updates, axis=0)
    sizes = jnp.linalg.norm(changes, axis=1)
    products = jnp.sum(changes[1:] * changes[:-1], axis=1)
    total = jnp.sum(sizes[1:] * sizes[:-1])
    cosine = jnp.where(total > 0, jnp.sum(products) / jnp.where(total > 0, total, jnp.ones_like(total)), 0.0)
    moved = jnp.sum(jnp.linalg.norm(updates, axis=1))
    return cosine.astype(updates.dtype), jnp.sum(sizes) / moved
