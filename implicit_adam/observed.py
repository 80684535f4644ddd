"""Observables along a run, streamed: their least, largest, mean and last values, and a strided record."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from implicit_adam.checks import check_count, check_params, is_traced
from implicit_adam.fields.select import raveled_field
from implicit_adam.flow import interval_step
from implicit_adam.iterate import optimizer_step
from implicit_adam.objective import Objective
from implicit_adam.observables import perturbed_one_norm
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.sharpness import sharpness
from implicit_adam.training import Training, checked_training
from implicit_adam.trajectory import all_finite
from implicit_adam.types import Batches, Flag, Loss, Params, Scalar, StepNumber, Vector

Count = Int[Array, ""]
# theta, the point of the flow at the same time -> a number
Observable = Callable[[Vector, Vector], Scalar]


class Observed(NamedTuple):
    """What was seen at steps 0, every, 2 every, .. and the last; dictionaries are keyed by the observable.

    - `least`, `largest`, `mean`, `last`: over what was seen.
    - `n`: (records,) the steps of the record, -1 where there were fewer than that.
    - `record`: (records,) the values there, NaN where there were fewer.
    - `params`: the last point.
    - `finite`: whether all of this is finite; False marks a run that diverged.
    """

    least: dict[str, Scalar]
    largest: dict[str, Scalar]
    mean: dict[str, Scalar]
    last: dict[str, Scalar]
    n: Int[Array, " records"]
    record: dict[str, Float[Array, " records"]]
    params: Params
    finite: Flag


def observe(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    steps: StepNumber,
    observables: Sequence[str] | Mapping[str, Callable[[Params], Any]],
    *,
    every: int = 1,
    records: int = 0,
    batches: Batches = None,
    schedule: Any = None,
) -> Observed:
    """Run the optimizer and watch, in memory that does not grow with the number of steps.

    - `rule`, `loss`, `params`, `batches`, `schedule`: as in `iterate`.
    - `steps`: how many steps; may be traced, so that runs of different lengths share one compilation.
    - `observables`: names out of `OBSERVABLES`, all of the full-batch loss: "loss", "one_norm",
      "perturbed_one_norm" and "two_norm" of its gradient, "sharpness" (needs matfree), "distance" and
      "plain_distance" to the flow of order 1 and 0 from the same start; or your own, `{name: f(params)}`.
    - `every`: watch only every so many steps, for costly observables.
    - `records`: how many values to keep, evenly spread over the run.

    Jit and vmap it. Raises `ValueError` for bad arguments and unknown names.
    """
    every, records = check_count("every", every), check_count("records", records, 0)
    known = None if is_traced(steps) else check_count("steps", steps)
    training = checked_training(rule, loss, params, batches, schedule, known or 1)
    watch = _observables(observables, training)
    order = 0 if "plain_distance" in watch else 1 if "distance" in watch else None
    return _observed(training, jnp.asarray(steps), watch, order, every, records)


def _observables(observables: Any, training: Training) -> dict[str, Observable]:
    if isinstance(observables, Mapping):
        return {
            str(name): lambda theta, _, f=f: jnp.asarray(f(training.unraveled(theta)), theta.dtype)
            for name, f in observables.items()
        }
    names = (observables,) if isinstance(observables, str) else tuple(observables)
    unknown = [name for name in names if name not in OBSERVABLES]
    if unknown or not names:
        msg = f"observables {unknown or names!r} are not known; known are {', '.join(OBSERVABLES)}"
        raise ValueError(msg)
    if {"distance", "plain_distance"} <= set(names):
        msg = "observe one of distance and plain_distance at a time: each has a flow of its own"
        raise ValueError(msg)
    return {name: OBSERVABLES[name](training, training.objective.full_batch()) for name in names}


def _observed(
    training: Training,
    steps: Count,
    watch: dict[str, Observable],
    order: int | None,
    every: int,
    records: int,
) -> Observed:
    start, optimizer = optimizer_step(training.rule, training.objective)
    theta = training.theta
    if order is None:
        flow = lambda n, point: point  # noqa: E731
    else:
        step = interval_step(raveled_field(training.rule, training.objective, order), training.rule.h)
        flow = lambda n, point: step(n, point)[0]  # noqa: E731

    def advance(n: StepNumber, carry: Any) -> Any:
        state, point = carry
        return optimizer(n, state), flow(n, point)

    def look(carry: Any) -> dict[str, Scalar]:
        return {name: f(carry[0][0], carry[1]) for name, f in watch.items()}

    looks = -(-steps // every) + 1

    def block(i: Count, carry: Any) -> Any:
        run, seen = carry
        last = jnp.minimum(i * every, steps)
        run = jax.lax.fori_loop((i - 1) * every, last, advance, run)
        return run, _updated(seen, look(run), i, last, looks)

    run = (start(theta), theta)
    first = look(run)
    seen = _first(first, records, theta.dtype)
    seen = _updated(seen, first, jnp.zeros_like(looks), jnp.zeros_like(looks), looks)
    run, seen = jax.lax.fori_loop(1, looks, block, (run, seen))
    mean = {name: total / looks.astype(total.dtype) for name, total in seen.mean.items()}
    summary = (seen.least, seen.largest, mean, seen.last)
    point = run[0][0]
    finite = all_finite((summary, point))
    return Observed(*summary, seen.n, seen.record, training.unraveled(point), finite)


class _Seen(NamedTuple):
    least: dict[str, Scalar]
    largest: dict[str, Scalar]
    mean: dict[str, Scalar]
    last: dict[str, Scalar]
    n: Int[Array, " records"]
    record: dict[str, Float[Array, " records"]]


def _first(values: dict[str, Scalar], records: int, dtype: Any) -> _Seen:
    zero = jax.tree.map(jnp.zeros_like, values)
    empty = {name: jnp.full(records, jnp.nan, dtype) for name in values}
    return _Seen(values, values, zero, values, jnp.full(records, -1), empty)


def _updated(seen: _Seen, values: dict[str, Scalar], i: Count, n: Count, looks: Count) -> _Seen:
    return _Seen(
        jax.tree.map(jnp.minimum, seen.least, values),
        jax.tree.map(jnp.maximum, seen.largest, values),
        jax.tree.map(jnp.add, seen.mean, values),
        values,
        _recorded(seen.n, n, i, looks),
        {name: _recorded(seen.record[name], value, i, looks) for name, value in values.items()},
    )


def _recorded(record: Array, value: Array, i: Count, looks: Count) -> Array:
    """The first look that falls into a slot fills it."""
    slots = len(record)
    if slots == 0:
        return record
    slot = i * slots // looks
    fresh = slot > (i - 1) * slots // looks
    return record.at[slot].set(jnp.where(fresh, value.astype(record.dtype), record[slot]))


def _gradient(f: Callable[[Training, Vector], Scalar]) -> Callable[[Training, Objective], Observable]:
    """An observable of the full-batch gradient."""
    return lambda training, whole: lambda theta, _: f(training, whole.gradients(theta)[0])


def _perturbed(training: Training, g: Vector) -> Scalar:
    if not hasattr(training.rule, "eps"):
        msg = f"perturbed_one_norm needs an optimizer with an eps, got {type(training.rule).__name__}"
        raise ValueError(msg)
    inside = getattr(training.rule, "eps_in_sqrt", True)
    return perturbed_one_norm(g, training.rule.eps, eps_in_sqrt=inside)


def _distance(_training: Training, _whole: Objective) -> Observable:
    return lambda theta, flow: jnp.linalg.norm(theta - flow)


def _sharpness(training: Training, whole: Objective) -> Observable:
    def mean_loss(theta: Vector) -> Scalar:
        return whole.loss(theta, None)

    check_params(training.params)
    return lambda theta, _: sharpness(mean_loss, theta).value


OBSERVABLES: dict[str, Callable[[Training, Objective], Observable]] = {
    "loss": lambda training, whole: lambda theta, _: whole.loss(theta, None),
    "one_norm": _gradient(lambda training, g: jnp.sum(jnp.abs(g))),
    "perturbed_one_norm": _gradient(_perturbed),
    "two_norm": _gradient(lambda training, g: jnp.linalg.norm(g)),
    "distance": _distance,
    "plain_distance": _distance,
    "sharpness": _sharpness,
}
