"""The competitors: the equations for an optimizer, where each applies, and what it costs.

All start where the optimizer starts and return their points at the same steps. They predict a run in full
batch, a run in mini-batches with a given order, or the mean run over random orders of the mini-batches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.fields.mini_batch.history_sum import window
from implicit_adam.inputs import checked_inputs, identified
from implicit_adam.objective import mean_loss
from implicit_adam.paper.higher_orders import unexpanded
from implicit_adam.paper.leaderboard.stochastic import mean_path
from implicit_adam.rules import AbstractRule, Adam
from implicit_adam.runs.carried_flow import carried_flow
from implicit_adam.runs.carried_options import START
from implicit_adam.runs.flow import flow
from implicit_adam.runs.memoryless import memoryless
from implicit_adam.types import Batches, Loss, Params, Vector

FULL, ORDERED, MEAN = "full batch", "mini-batches in a given order", "mean over random orders"

# Evaluations per solver step: of Tsit5 for `flow`, so that equations are compared and not solvers; of Bosh3,
# the default of `carried_flow` at order 0 (its last stage is the next one's first); and of a leap at order 1.
SOLVER = diffrax.Tsit5()
STAGES, CARRIED_STAGES, LEAP = SOLVER.tableau.num_stages, 3, 1
# With a closure a stage takes four gradients, and there is at least one solver step for each step of Adam.
CLOSURE_STAGES = 4 * CARRIED_STAGES
# The number of paths in the mean of the stochastic equation.
PATHS = 16
# Gradients per evaluation of the field for Adam's two features (`vector_field`; tests/test_costs.py): in
# closed form in full batch; per mini-batch; and per remembered step where the optimizer is run again.
CLOSED = {0: 1.0, 1: 3.0, 2: 16 / 3 + 4}
IN_BATCHES = {0: 1.0, 1: 5.0}
RUN_AGAIN = {2: 11.0, 3: 75.0}


class Course(NamedTuple):
    """A run to predict: its loss, of params and batch or of params alone, and its steps, saved at `every`."""

    loss: Loss
    steps: int
    every: int


class Start(NamedTuple):
    """The numbers of a run: hyperparameters, start, data, and the order of mini-batches if it is given."""

    rule: AbstractRule
    params: Params
    batches: Batches = None
    schedule: jax.Array | None = None


class Competitor(NamedTuple):
    """An equation that competes.

    - `run(course, start) -> points, solver steps`; `applies`: the kinds of runs that it can predict.
    - `gradients(kind, course, start, solver steps)`: its full-batch gradients per step of the optimizer.
    """

    run: Callable[[Course, Start], tuple[Params, Any]]
    applies: tuple[str, ...]
    gradients: Callable[[str, Course, Start, float], float]


def with_loss(course: Course, start: Start) -> tuple[Loss, dict[str, Any]]:
    """The loss and the options of a run; without an order of mini-batches, those of full batch."""
    if start.schedule is None:
        return mean_loss(course.loss, start.batches), {"save_every": course.every}
    options = {"batches": start.batches, "schedule": start.schedule, "save_every": course.every}
    return course.loss, options


def _flow(order: int, applies: tuple[str, ...]) -> Competitor:
    def run(course: Course, start: Start) -> tuple[Params, Any]:
        loss, options = with_loss(course, start)
        options |= {"order": order, "solver": SOLVER}
        return flow(start.rule, loss, start.params, course.steps, **options).params, jnp.nan

    def gradients(kind: str, course: Course, start: Start, _: float) -> float:
        return STAGES * evaluation(order, kind, course, start) + (order > 0)

    return Competitor(run, applies, gradients)


def _map(order: int) -> Competitor:
    def run(course: Course, start: Start) -> tuple[Params, Any]:
        loss, options = with_loss(course, start)
        found = memoryless(start.rule, loss, start.params, course.steps, order=order, **options)
        return found.params, jnp.nan

    return Competitor(
        run, (FULL, ORDERED), lambda kind, course, start, _: evaluation(order, kind, course, start)
    )


def _unexpanded() -> Competitor:
    def run(course: Course, start: Start) -> tuple[Params, Any]:
        loss, _ = with_loss(course, start)
        inputs = identified(checked_inputs(start.rule, loss, start.params))
        update = unexpanded(inputs.rule, inputs.objective, course.steps)

        def until_saved(theta: Vector, i: Any) -> tuple[Vector, Vector]:
            def step(j: Any, theta: Vector) -> Vector:
                return theta - inputs.rule.h * update(i * course.every + j, theta)

            theta = jax.lax.fori_loop(0, course.every, step, theta)
            return theta, theta

        saved = jax.lax.scan(until_saved, inputs.theta, jnp.arange(course.steps // course.every))[1]
        return jax.vmap(inputs.unraveled)(jnp.concatenate([inputs.theta[None], saved])), jnp.nan

    return Competitor(run, (FULL,), lambda _, course, __, ___: course.steps + 1.0)


def _carried(order: int, closure: str | None = None) -> Competitor:
    def run(course: Course, start: Start) -> tuple[Params, Any]:
        several = start.batches is not None and len(jax.tree.leaves(start.batches)[0]) > 1
        loss = course.loss if several else mean_loss(course.loss, start.batches)
        batches = start.batches if several else None
        options: Any = {"order": order, "batches": batches, "closure": closure, "save_every": course.every}
        found = carried_flow(start.rule, loss, start.params, course.steps, **options)
        return found.params, found.solver_steps

    def gradients(_: str, course: Course, __: Start, solver_steps: float) -> float:
        if closure is not None:
            return (START + CLOSURE_STAGES * max(solver_steps, course.steps)) / course.steps
        return (START + solver_steps * (LEAP if order else CARRIED_STAGES)) / course.steps

    return Competitor(run, (FULL,) if closure else (FULL, MEAN), gradients)


def _stochastic() -> Competitor:
    def run(course: Course, start: Start) -> tuple[Params, Any]:
        inputs = identified(checked_inputs(start.rule, course.loss, start.params, start.batches))
        rule = cast(Adam, inputs.rule)
        saves = course.steps // course.every
        mean = mean_path(rule, inputs.objective, inputs.theta, saves, course.every, PATHS)
        return jax.vmap(inputs.unraveled)(mean), jnp.nan

    return Competitor(run, (MEAN,), lambda *_: float(PATHS))


def evaluation(order: int, kind: str, course: Course, start: Start) -> float:
    """The number of full-batch gradients per evaluation of the field, averaged over the steps."""
    if kind == FULL and order in CLOSED:
        return CLOSED[order]
    if order in IN_BATCHES:
        return IN_BATCHES[order]
    m = 1 if kind == FULL else len(jax.tree.leaves(start.batches)[0])
    return RUN_AGAIN[order] * remembered(start.rule, course.steps, order) / m


def remembered(rule: AbstractRule, steps: int, order: int) -> float:
    """The number of remembered steps that the field uses, averaged over a run."""
    look_back = float(window(rule.kernels(0), moment=order))
    return float(np.mean(np.minimum(np.arange(1, steps + 1), look_back)))


COMPETITORS: dict[str, Competitor] = {
    "sign-type flow (order 0)": _flow(0, (FULL, ORDERED)),
    "corrected flow (order 1)": _flow(1, (FULL, ORDERED)),
    "order 2": _flow(2, (FULL, ORDERED)),
    "order 3": _flow(3, (FULL, ORDERED)),
    "memoryless map (order 1)": _map(1),
    "unexpanded map": _unexpanded(),
    "carried memory, order 0": _carried(0),
    "carried memory, order 1": _carried(1),
    "two-branch closure, its centre": _carried(1, "two-branch"),
    "stochastic equation, mean": _stochastic(),
}
