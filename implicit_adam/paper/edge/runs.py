"""Through the edge of stability: Adam where it alternates, the equation with carried memory, and its closure.

Past the edge the top eigenvalue of P^-1/2 Hess E P^-1/2, with P from the optimizer's own second memory, stays
near its threshold 2 (1+beta) / ((1-beta) h), and the iterates alternate about a centre (Cohen et al. 2022).
The equation with carried memory has no alternation; with `closure="two-branch"` it does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.measures.sharpness import preconditioned_sharpness
from implicit_adam.measures.stability import stability_threshold
from implicit_adam.paper.claims import Advance
from implicit_adam.paper.edge.networks import (
    Network,
    convolutions,
    dense_layers,
    on_digits,
    vision_transformer,
)
from implicit_adam.rules import Adam
from implicit_adam.runs.carried_flow import carried_flow
from implicit_adam.runs.trajectory import Trajectory
from implicit_adam.studies.prediction import NUDGE, random_move
from implicit_adam.types import Loss, Params

ADAM, NEARBY = "Adam", "Adam moved by 1e-6 at step 50"
CARRIED, CLOSURE = "carried memory", "two-branch closure"
# The step before which Adam is moved, below the edge.
MOVED_AT = 50
# Gradients per step of the solver: three stages of two gradients each, or of four.
GRADIENTS = {CARRIED: 6, CLOSURE: 12}
NETWORKS: dict[str, Callable[[Any], Network]] = {
    "4-layer tanh network": dense_layers(jnp.tanh, 24, 4),
    "deep linear network": dense_layers(lambda z: z, 24, 4),
    "GELU CNN": convolutions((6, 12)),
    "vision transformer": vision_transformer(12, 2, 2),
}


@dataclass(frozen=True)
class AdamOnDigits:
    """Full-batch Adam with squared loss on digits; the edge of stability comes after 60 to 200 steps."""

    networks: tuple[str, ...] = tuple(NETWORKS)
    h: float = 2e-3
    beta: float = 0.5
    rho: float = 0.99
    steps: int = 1700
    samples: int = 100


@dataclass(frozen=True)
class EdgeConfig(AdamOnDigits):
    """Also `mean`: how many steps losses are averaged over; `every`: after how many solutions are saved."""

    mean: int = 100
    every: int = 2


class Curves(NamedTuple):
    """Measurements along one run, at the saved steps (saves,) and for stretches of `mean` steps (stretches,).

    - `loss`: (saves,), for the closure the mean over both branches; `mean_loss`: (stretches,).
    - `amplitude`: (saves,) the distance (2-norm) of the iterates from their centre.
    - `error`: (stretches,) ||centre - Adam's centre|| at the ends, over the distance that Adam travels.
    - `eigenvalue`: (stretches,) at the centre, at the ends, over the threshold.
    """

    loss: np.ndarray
    mean_loss: np.ndarray
    amplitude: np.ndarray
    error: np.ndarray
    eigenvalue: np.ndarray


class Edge(NamedTuple):
    """For each network, the curves of each run and the number of gradients that each equation took."""

    steps: np.ndarray
    curves: dict[str, dict[str, Curves]]
    gradients: dict[str, dict[str, int]]


class _Run(NamedTuple):
    """Centres, amplitudes, losses and the second memory (not bias-corrected), with leading axes of saves."""

    centre: Params
    amplitude: np.ndarray
    loss: np.ndarray
    second: Params


class Steps(NamedTuple):
    """Adam's points, second memories (not bias-corrected) and losses, at all steps and two more."""

    points: Params
    second: Params
    loss: jax.Array


def run(config: EdgeConfig, advance: Advance) -> Edge:
    """Run Adam, Adam moved a little, and both equations on every network."""
    curves, gradients = {}, {}
    for i, name in enumerate(config.networks):
        loss, params = on_digits(NETWORKS[name], config.samples)
        curves[name], gradients[name] = _network(config, loss, params)
        advance((i + 1) / len(config.networks))
    return Edge(np.arange(0, config.steps + 1, config.every), curves, gradients)


def _network(config: EdgeConfig, loss: Loss, params: Params) -> tuple[dict[str, Curves], dict[str, int]]:
    rule = Adam(config.h, config.beta, config.rho)
    every: Any = {"save_every": config.every, "memories": True}
    iterates = all_steps(rule, loss, config.steps)
    runs = {
        name: _iterates(iterates(params, random_move(params, size, 0), MOVED_AT), config)
        for name, size in ((ADAM, 0.0), (NEARBY, NUDGE))
    }
    # Not the default solver, whose leaps of one step would be the optimizer itself.
    controller = diffrax.PIDController(1e-3, 1e-9, dtmin=config.h / 4, dtmax=config.h)
    solved: Any = {"solver": diffrax.Bosh3(), "stepsize_controller": controller, **every}
    carried = carried_flow(rule, loss, params, config.steps, **solved)
    runs[CARRIED] = _solution(carried, loss)
    closure = carried_flow(rule, loss, params, config.steps, closure="two-branch", **every)
    runs[CLOSURE] = _solution(closure, loss)
    curves = {name: _curves(rule, loss, one, runs[ADAM], config) for name, one in runs.items()}
    tried: dict[str, Any] = {CARRIED: carried.solver_steps, CLOSURE: closure.solver_steps}
    return curves, {name: GRADIENTS[name] * int(steps) for name, steps in tried.items()}


def _iterates(steps: Steps, config: EdgeConfig) -> _Run:
    """Adam's iterates; centres are (1, 2, 1)/4 of three consecutive ones, half-differences (1, -2, 1)/4."""
    half = jax.tree.map(lambda x: _three(x, -2.0)[:: config.every], steps.points)
    centre = jax.tree.map(lambda x: _three(x, 2.0)[:: config.every], steps.points)
    second = jax.tree.map(lambda x: x[: config.steps + 1 : config.every], steps.second)
    return _Run(centre, _norms(half), np.asarray(steps.loss[: config.steps + 1]), second)


def centres(points: Params) -> np.ndarray:
    """The centres (steps + 1, p) of iterates."""
    return _vectors(jax.tree.map(lambda x: _three(x, 2.0), points))


def all_steps(rule: Adam, loss: Loss, steps: int) -> Callable[[Params, Params, Any], Steps]:
    """(params, move, at) -> Adam's steps from there; before step `at` it is moved by `move`.

    Compiled once for all starts and moves.
    """
    tx = rule.transformation()

    @eqx.filter_jit
    def iterates(params: Params, move: Params, at: Any) -> Steps:
        def step(carry: Any, n: Any) -> Any:
            params, state = carry
            params = jax.tree.map(lambda x, more: jnp.where(n == at, x + more, x), params, move)
            updates, new = tx.update(jax.grad(loss)(params), state, params)
            moved = jax.tree.map(jnp.add, params, updates)
            return (moved, new), Steps(params, state[0].nu, loss(params))

        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps + 2))[1]

    return lambda params, move, at: iterates(params, move, jnp.asarray(at))


def _three(x: jax.Array, middle: float) -> jax.Array:
    """(1, middle, 1)/4 of three consecutive ones; at the start itself, or zero for a half-difference."""
    inside = (x[:-2] + middle * x[1:-1] + x[2:]) / 4
    return jnp.concatenate([x[:1] if middle > 0 else jnp.zeros_like(x[:1]), inside])


def _solution(flow: Trajectory, loss: Loss) -> _Run:
    along = jax.jit(lambda points: jax.lax.map(loss, points))
    _, (second,) = flow.memories
    if flow.alternating is None:
        return _Run(flow.params, np.zeros(len(flow.t)), np.asarray(along(flow.params)), second)
    losses = [
        along(jax.tree.map(lambda c, d, sign=sign: c + sign * d, flow.params, flow.alternating))
        for sign in (1, -1)
    ]
    return _Run(flow.params, _norms(flow.alternating), np.mean(losses, axis=0), second)


def _curves(rule: Adam, loss: Loss, one: _Run, adam: _Run, config: EdgeConfig) -> Curves:
    ends = np.arange(config.mean, config.steps + 1, config.mean)
    stride = config.steps // (len(one.loss) - 1)
    # The trapezoidal rule, since solutions are saved less often than Adam's losses.
    between = (one.loss[1:] + one.loss[:-1]) / 2
    mean = [np.mean(between[(n - config.mean) // stride : n // stride]) for n in ends]
    own, reference = _vectors(one.centre), _vectors(adam.centre)
    distance = np.linalg.norm(reference - reference[:1], axis=1).max()
    saved = ends // config.every
    fresh: Any = rule.transformation().init(jax.tree.map(lambda x: x[0], one.centre))
    eigenvalues, start = [], None
    for n, i in zip(ends, saved, strict=True):
        if not np.isfinite(own[i]).all():
            eigenvalues.append(np.nan)
            continue
        second = jax.tree.map(lambda x, i=i: x[i], one.second)
        state = (fresh[0]._replace(count=jnp.asarray(n, jnp.int32), nu=second), *fresh[1:])
        point = jax.tree.map(lambda x, i=i: x[i], one.centre)
        known: Any = {} if start is None else {"start": start}
        top = preconditioned_sharpness(rule, loss, point, opt_state=state, **known)
        start = top.vector
        eigenvalues.append(float(top.value))
    return Curves(
        loss=one.loss[:: config.every // stride],
        mean_loss=np.asarray(mean),
        amplitude=one.amplitude,
        error=(np.linalg.norm(own - reference, axis=1) / distance)[saved],
        eigenvalue=np.asarray(eigenvalues) / float(stability_threshold(rule)),
    )


def _norms(points: Params) -> np.ndarray:
    return np.linalg.norm(_vectors(points), axis=1)


def _vectors(points: Params) -> np.ndarray:
    """The points as an array (saves, p)."""
    return np.concatenate([np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(points)], axis=1)
