"""Runs all competitors on one problem at several settings, with their errors, gradients and seconds."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.checks.batches import check_batches
from implicit_adam.losses.problems import Problem
from implicit_adam.paper.leaderboard.equations import (
    COMPETITORS,
    FULL,
    MEAN,
    Course,
    Start,
    with_loss,
)
from implicit_adam.rules import AbstractRule
from implicit_adam.runs.iterate import iterate
from implicit_adam.studies.prediction import nudged, vectors
from implicit_adam.types import Params

RAN, DOES_NOT_APPLY, TOO_DEAR = range(3)
# The least number of operations counted for a gradient, since even the smallest has the cost of a call.
CALL = 1e3


class Race(NamedTuple):
    """Results with axes (settings, competitors).

    The last competitor shows the best error that means anything: that of the optimizer from a start 1e-6
    away, or for a mean run the standard error of the mean.

    - `position`: the largest ||theta - optimizer|| at the saved steps over the largest distance that the
      optimizer travels. `loss`: the largest relative error of the loss. Infinite if a number is not finite,
      NaN where nothing ran (`why`: RAN, DOES_NOT_APPLY or TOO_DEAR).
    - `gradients`: full-batch gradients per step of the optimizer. `seconds`: of the run, once compiled.
    - `turning`: (settings,) the share of the optimizer's steps that have a negative cosine with the step
      before, as past the edge of stability, where the iterates alternate.
    """

    position: np.ndarray
    loss: np.ndarray
    gradients: np.ndarray
    seconds: np.ndarray
    why: np.ndarray
    turning: np.ndarray


class Truth(NamedTuple):
    """The optimizer's points (saves, p) and their loss, means over its runs if there are several.

    `beside` are the errors of position and loss of the last competitor in `Race`.
    """

    points: np.ndarray
    loss: np.ndarray
    beside: tuple[float, float]
    turning: float


def race(
    problem: Problem, rules: Sequence[AbstractRule], kind: str, course: Course, *, runs: int, budget: float
) -> Race:
    """Run every competitor for every rule; rules differ only in their numbers, so that each compiles once.

    - `runs`: the number of random orders of the mini-batches in a mean; the first is the given order.
    - `budget`: runs that would take more floating-point operations are skipped.
    """
    schedules = None if kind == FULL else _orders(check_batches(problem.batches), runs, course.steps)
    given = None if kind == MEAN or schedules is None else schedules[0]
    starts = [Start(rule, problem.params, problem.batches, given) for rule in rules]
    losses = jax.jit(lambda points: jax.lax.map(problem.mean_loss, points))
    truth = _mean_runs if kind == MEAN else _single_runs
    truths = truth(course, starts, schedules, losses)
    operations = max(CALL, _operations(jax.grad(problem.mean_loss), problem.params))
    columns = []
    for competitor in COMPETITORS.values():
        rows, compiled = [], None
        for start, true in zip(starts, truths, strict=True):
            least = competitor.gradients(kind, course, start, 0.0) if kind in competitor.applies else np.nan
            if np.isnan(least):
                rows.append((np.nan, np.nan, np.nan, np.nan, DOES_NOT_APPLY))
            elif least * course.steps * operations > budget:
                rows.append((np.nan, np.nan, least, np.nan, TOO_DEAR))
            else:
                if compiled is None:
                    solve: Any = eqx.filter_jit(partial(competitor.run, course))
                    compiled = solve.lower(start).compile()
                points, tried, seconds = _timed(compiled, start)
                cost = competitor.gradients(kind, course, start, tried)
                rows.append((*errors(true, points, losses), cost, seconds, RAN))
        columns.append(rows)
    columns.append([(*true.beside, np.nan, np.nan, RAN) for true in truths])
    numbers = np.moveaxis(np.asarray(columns, float), -1, 0).swapaxes(1, 2)
    return Race(*numbers, turning=np.asarray([true.turning for true in truths]))


def errors(true: Truth, points: Params, losses: Callable[[Params], Any]) -> tuple[float, float]:
    """The errors of position and of loss, infinite if not finite."""
    position, loss = np.asarray(vectors(points)), np.asarray(losses(points))
    travelled = np.max(np.linalg.norm(true.points - true.points[0], axis=1))
    off = np.max(np.linalg.norm(position - true.points, axis=1)) / travelled
    relative = np.max(np.abs(loss / true.loss - 1))
    return float(np.nan_to_num(off, nan=np.inf)), float(np.nan_to_num(relative, nan=np.inf))


def _timed(solve: Callable[[Start], Any], start: Start) -> tuple[Params, float, float]:
    """The points, the number of solver steps, and the seconds."""
    begun = time.perf_counter()
    points, tried = jax.block_until_ready(solve(start))
    return points, float(tried), time.perf_counter() - begun


def _single_runs(course: Course, starts: list[Start], _: Any, losses: Callable[[Params], Any]) -> list[Truth]:
    """The optimizer at every setting, with the errors of its own run from a nearby start."""
    run, found = eqx.filter_jit(partial(_optimizer, course)), []
    for start in starts:
        points, turning = run(start)
        true = Truth(np.asarray(vectors(points)), np.asarray(losses(points)), (0.0, 0.0), float(turning))
        near, _ = run(start._replace(params=nudged(start.params)))
        found.append(true._replace(beside=errors(true, near, losses)))
    return found


def _optimizer(course: Course, start: Start) -> tuple[Params, jax.Array]:
    """The optimizer's points at the saved steps, and the share of its steps that turn back."""
    loss, options = with_loss(course, start)
    points = iterate(start.rule, loss, start.params, course.steps, **options | {"save_every": 1}).params
    steps = jnp.diff(vectors(points), axis=0)
    leads_back = jnp.sum(steps[:-1] * steps[1:], axis=1) < 0
    return jax.tree.map(lambda x: x[:: course.every], points), jnp.mean(leads_back.astype(float))


def _mean_runs(
    course: Course, starts: list[Start], schedules: Any, losses: Callable[[Params], Any]
) -> list[Truth]:
    """The mean over random orders at every setting, with its standard error."""

    def one(start: Start, schedule: jax.Array) -> Params:
        return _optimizer(course, start._replace(schedule=schedule))[0]

    run, found = eqx.filter_jit(jax.vmap(one, (None, 0))), []
    for start in starts:
        ensemble = run(start, schedules)
        points = np.asarray(jax.vmap(vectors)(ensemble))
        loss = np.stack([losses(jax.tree.map(lambda x, i=i: x[i], ensemble)) for i in range(len(points))])
        mean, mean_of_loss, root = points.mean(axis=0), loss.mean(axis=0), len(points) ** 0.5
        travelled = np.max(np.linalg.norm(mean - mean[0], axis=1))
        apart = np.linalg.norm(points.std(axis=0, ddof=1), axis=1) / root
        beside = np.max(apart) / travelled, np.max(loss.std(axis=0, ddof=1) / root / mean_of_loss)
        found.append(Truth(mean, mean_of_loss, (float(beside[0]), float(beside[1])), np.nan))
    return found


def _orders(m: int, runs: int, steps: int) -> jax.Array:
    """Indices of mini-batches (runs, steps), every epoch in a new random order."""
    epochs = np.tile(np.arange(m), (runs, -(-steps // m), 1))
    shuffled = np.random.default_rng(0).permuted(epochs, axis=2)
    return jnp.asarray(shuffled.reshape(runs, -1)[:, :steps])


def _operations(function: Callable[..., Any], *arguments: Any) -> float:
    """The floating-point operations of one call, as the compiler counts them."""
    analysis: Any = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return float(analysis["flops"])
