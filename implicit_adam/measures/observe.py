"""`observe`: statistics of observables along a run (least, largest, mean, last) and a strided record."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from implicit_adam.checks.numbers import check_count, is_traced
from implicit_adam.fields.terms import with_leading
from implicit_adam.fields.vector_field import exact_terms
from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.loops import loop
from implicit_adam.measures.lockstep import carried_equation
from implicit_adam.measures.observables import (
    CARRIED,
    OBSERVABLES,
    check_named,
    chosen,
    names_of,
)
from implicit_adam.reprs import brief, table, tree
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.carried_options import START
from implicit_adam.runs.interval import interval_move, solver_of_order
from implicit_adam.runs.iterate import optimizer_step
from implicit_adam.runs.trajectory import all_finite
from implicit_adam.runs.validity import OutsideRangeWarning, size_of_correction
from implicit_adam.types import Batches, Flag, Loss, Params, Scalar, StepNumber, Vector

Count = Int[Array, ""]


class Observed(NamedTuple):
    """Observables at steps 0, every, 2 every, .. and the last; dictionaries are keyed by the observable.

    - `least`, `largest`, `mean`, `last`: over these steps.
    - `n`: (records,) the steps of the record; -1 in the slots left over if fewer steps were observed.
    - `record`: (records,) the values there; NaN in the slots left over.
    - `params`: the last point.
    - `finite`: whether all of this except `validity` is finite; False marks a run that diverged.
    - `validity`: for "distance", the largest ||h f_1|| / ||f_0|| along its flow, the size of the correction.
      Trust that flow below about 0.1; above 1 it says nothing. NaN where no flow of order 1 is followed.
    """

    least: dict[str, Scalar]
    largest: dict[str, Scalar]
    mean: dict[str, Scalar]
    last: dict[str, Scalar]
    n: Int[Array, " records"]
    record: dict[str, Float[Array, " records"]]
    params: Params
    finite: Flag
    validity: Scalar

    def __repr__(self) -> str:
        head = (
            f"Observed: finite={brief(self.finite)}, validity={brief(self.validity)}, "
            f"params={tree(self.params)}"
        )
        kinds = ("least", "largest", "mean", "last")
        seen = {
            name: ", ".join(f"{kind} {brief(getattr(self, kind)[name])}" for kind in kinds)
            for name in self.last
        }
        return table(head, seen)


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
    """Run the optimizer and observe quantities along the way; memory does not grow with the number of steps.

    - `rule`, `loss`, `params`, `batches`, `schedule`: as in `iterate`.
    - `steps`: how many steps; may be traced, so that runs of different lengths share one compilation.
    - `observables`: names from `ia.OBSERVABLES`, all of the full-batch loss: "loss"; "one_norm",
      "perturbed_one_norm" and "two_norm" of its gradient; "sharpness"; "distance" and "plain_distance" to the
      flow of order 1 and 0 from the same start; "carried_distance" to the flow with carried memory (with
      batches, of the mean run; 0 in the first ten steps, which the optimizer takes itself). Or functions of
      your own, `{name: f}` with `f(params)` a number.
    - `every`: observe only one step in this many, for costly observables.
    - `records`: how many values to keep, evenly spread over the run.

    If the correction of the flow of "distance" exceeds the flow itself (`validity` > 1), an
    `OutsideRangeWarning` says so outside jit. Can be jitted, vmapped and differentiated in forward mode.
    Raises `ValueError` for bad arguments and unknown names.
    """
    every, records = check_count("every", every), check_count("records", records, 0)
    known = _traced_count(steps) if is_traced(steps) else _known_count(steps)
    if not jnp.issubdtype(jnp.result_type(steps), jnp.integer):
        msg = f"steps must be an integer, got dtype {jnp.result_type(steps)}"
        raise ValueError(msg)
    check_named(observables)
    known_ones = [OBSERVABLES[name] for name in names_of(observables) if name in OBSERVABLES]
    products = any(one.curvature for one in known_ones)
    # Only observables that follow a flow need an equation of the optimizer.
    flowing = any(isinstance(one.flow, int) for one in known_ones)
    inputs = checked_inputs(rule, loss, params, batches, schedule, known, products=products, equation=flowing)
    chosen(observables, inputs)
    flow = next((one.flow for one in known_ones if one.flow is not None), None)
    if flow == CARRIED and not is_traced(steps) and known <= START:
        msg = (
            f"carried_distance over {known} steps is 0, since the optimizer takes the first {START} itself; "
            "take more steps"
        )
        raise ValueError(msg)
    own = dict(observables) if isinstance(observables, Mapping) else {}
    inputs = identified(inputs, *own.values())
    seen = _observed(inputs, jnp.asarray(steps), own or names_of(observables), flow, every, records)
    _warn_of_range(seen.validity)
    return seen


def _warn_of_range(validity: Scalar) -> None:
    if is_traced(validity) or not float(validity) > 1:
        return
    msg = (
        f'the flow that "distance" is measured to is outside the range of its expansion: its correction '
        f"reached {float(validity):.3g} times the flow that it corrects (validity), where it must stay well "
        'below 1; do not trust this distance. Use ia.carried_flow, "plain_distance", a smaller h, shorter '
        "memories (validity grows with h times memory) or a larger eps"
    )
    warnings.warn(msg, OutsideRangeWarning, stacklevel=3)


def _known_count(steps: Any) -> int:
    return check_count("steps", steps.item() if isinstance(steps, jax.Array) else steps)


def _traced_count(steps: Any) -> int:
    if jnp.shape(steps) != () or not jnp.issubdtype(steps.dtype, jnp.integer):
        msg = (
            f"steps must be one integer, got {steps.dtype}{list(jnp.shape(steps))}; jnp.round(x).astype(int)?"
        )
        raise ValueError(msg)
    return 1


@eqx.filter_jit
def _observed(
    inputs: Inputs, steps: Count, observables: Any, flow: int | str | None, every: int, records: int
) -> Observed:
    watch, followed = chosen(observables, inputs), _followed(inputs, flow)
    # Wide enough for products with `every`, even if `steps` came as a narrow integer.
    steps = steps.astype(int)
    start, optimizer = optimizer_step(inputs.rule, inputs.objective)
    theta = inputs.theta

    def advance(n: StepNumber, carry: Any) -> Any:
        state, flow = carry
        return optimizer(n, state), followed.step(n, flow)

    def look(carry: Any) -> dict[str, Scalar]:
        return {name: f(carry[0][0], followed.point(carry[1])) for name, f in watch.items()}

    looks = -(-steps // every) + 1

    def block(i: Count, carry: Any) -> Any:
        run, seen = carry
        # The last product may pass the largest integer.
        last = jnp.where(i < looks - 1, i * every, steps)
        run = loop((i - 1) * every, last, advance, run)
        return run, _updated(seen, look(run), last, looks)

    run = (start(theta), followed.start)
    first = look(run)
    seen = _updated(_first(first, records, looks, theta.dtype), first, jnp.zeros_like(looks), looks)
    run, seen = loop(1, looks, block, (run, seen))
    mean = {name: total / looks.astype(total.dtype) for name, total in seen.total.items()}
    summary = (seen.least, seen.largest, mean, seen.last)
    point, validity = run[0][0], followed.validity(run[1])
    # A traced number of steps below one cannot be refused.
    finite = all_finite((summary, point)) & (steps >= 1)
    return Observed(*summary, seen.n, seen.record, inputs.unraveled(point), finite, validity)


class _Followed(NamedTuple):
    """A flow beside the optimizer: its start state, its step, and what is read from a state."""

    start: Any
    step: Callable[[StepNumber, Any], Any]
    point: Callable[[Any], Vector]
    validity: Callable[[Any], Scalar]


def _followed(inputs: Inputs, flow: int | str | None) -> _Followed:
    """The flow of the given order, or with carried memory; without a flow, its point stays at the start."""
    theta, h = inputs.theta, inputs.rule.h

    def unknown(_: Any) -> Scalar:
        return jnp.full_like(h, jnp.nan)

    if flow is None:
        return _Followed(theta, lambda n, theta: theta, lambda theta: theta, unknown)
    if flow == CARRIED:
        start, step, point = carried_equation(inputs, 1, START)
        return _Followed(start, lambda n, state: step(n, state)[0], point, unknown)
    return _expanded(inputs, int(flow), unknown)


def _expanded(inputs: Inputs, order: int, unknown: Callable[[Any], Scalar]) -> _Followed:
    rule, objective = inputs.rule, inputs.objective
    rates = with_leading(rule, objective, exact_terms(rule, objective, order, flow=True))
    move = interval_move(rates, rule.h, solver_of_order(order))

    def follow(n: StepNumber, state: tuple[Vector, Scalar]) -> tuple[Vector, Scalar]:
        point, validity = state
        by, _, (velocity, plain) = move(n, point)
        if order > 0:
            validity = jnp.maximum(validity, size_of_correction(velocity, plain))
        return point + by, validity

    start = (inputs.theta, jnp.zeros_like(rule.h))
    return _Followed(start, follow, lambda state: state[0], (lambda state: state[1]) if order else unknown)


class _Seen(NamedTuple):
    least: dict[str, Scalar]
    largest: dict[str, Scalar]
    total: dict[str, Scalar]
    # Kahan's compensation of the totals: over many steps a plain sum would drift.
    lost: dict[str, Scalar]
    last: dict[str, Scalar]
    n: Int[Array, " records"]
    record: dict[str, Float[Array, " records"]]
    # The slot of the record that is filled next, and the progress towards it.
    slot: Count
    progress: Count


def _first(values: dict[str, Scalar], records: int, looks: Count, dtype: Any) -> _Seen:
    zero = jax.tree.map(jnp.zeros_like, values)
    empty = {name: jnp.full(records, jnp.nan, dtype) for name in values}
    n = jnp.full(records, -1, looks.dtype)
    return _Seen(values, values, zero, zero, values, n, empty, jnp.zeros_like(looks), looks)


def _updated(seen: _Seen, values: dict[str, Scalar], n: Count, looks: Count) -> _Seen:
    records = len(seen.n)
    corrected = jax.tree.map(jnp.subtract, values, seen.lost)
    total = jax.tree.map(jnp.add, seen.total, corrected)
    seen = seen._replace(
        least=jax.tree.map(jnp.minimum, seen.least, values),
        largest=jax.tree.map(jnp.maximum, seen.largest, values),
        total=total,
        lost=jax.tree.map(lambda new, old, added: (new - old) - added, total, seen.total, corrected),
        last=values,
    )
    if records == 0:
        return seen
    # A slot is due every looks / records looks, counted so that no product overflows.
    due = seen.progress >= looks
    slot = jnp.where(due, seen.slot, records)
    return seen._replace(
        n=seen.n.at[slot].set(n.astype(seen.n.dtype), mode="drop"),
        record={name: seen.record[name].at[slot].set(x, mode="drop") for name, x in values.items()},
        slot=seen.slot + due.astype(seen.slot.dtype),
        progress=jnp.where(due, seen.progress - looks, seen.progress) + jnp.minimum(looks, records),
    )
