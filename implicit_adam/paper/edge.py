"""Through the edge of stability: Adam where it alternates, the equation with carried memory, and its closure.

Past the edge the top eigenvalue of P^-1/2 Hess E P^-1/2, P from the optimizer's own second memory, stays
about its threshold 2 (1+beta) / ((1-beta) h), and iterates alternate about a centre (Cohen et al. 2022). The
equation with carried memory has no alternation; with `closure="two-branch"` it has.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.losses.problems import load_digits
from implicit_adam.measures.sharpness import preconditioned_sharpness
from implicit_adam.measures.stability import stability_threshold
from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS
from implicit_adam.rules import Adam
from implicit_adam.runs.carried_flow import carried_flow
from implicit_adam.runs.trajectory import Trajectory
from implicit_adam.types import Loss, Params

ADAM, NEARBY, CARRIED, CLOSURE = "Adam", "Adam from 1e-6 away", "carried memory", "two-branch closure"
# The targets: of the centre in parts of the distance, of the mean loss, of the eigenvalue.
CENTRE, LOSS, EIGENVALUE = 0.01, 0.1, 0.03


@dataclass(frozen=True)
class EdgeConfig:
    """Adam in full batch on a tanh network with squared loss, on digits.

    - `mean`: over how many steps losses are averaged; `every`: how often a solution is saved.
    """

    h: float = 2e-3
    beta: float = 0.5
    rho: float = 0.99
    steps: int = 1500
    width: int = 24
    layers: int = 4
    samples: int = 100
    mean: int = 100
    every: int = 5


class Curves(NamedTuple):
    """Of one run, at every so many steps (saves,) and for every stretch of `mean` steps (stretches,).

    - `loss`: of the closure the mean over both branches; `mean_loss` over a stretch.
    - `amplitude`: how far the iterates are from their centre, the Euclidean norm.
    - `error`: (stretches,) ||centre - that of Adam|| over the distance that Adam travels, at the ends.
    - `eigenvalue`: (stretches,) at the ends, at the centre, over the threshold.
    """

    loss: np.ndarray
    mean_loss: np.ndarray
    amplitude: np.ndarray
    error: np.ndarray
    eigenvalue: np.ndarray


class Edge(NamedTuple):
    """The curves of each run, and how many gradients each equation took."""

    steps: np.ndarray
    curves: dict[str, Curves]
    gradients: dict[str, int]


class _Run(NamedTuple):
    """Centres, amplitudes, losses, and the second memory (not bias-corrected), leading axes of saves."""

    centre: Params
    amplitude: np.ndarray
    loss: np.ndarray
    second: Params


def run(config: EdgeConfig, advance: Advance) -> Edge:
    """Adam, Adam from nearby and both equations."""
    rule = Adam(config.h, config.beta, config.rho)
    loss, params = tanh_network(config)
    every: Any = {"save_every": config.every, "memories": True}
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    nudged = [
        x + 1e-6 * jax.random.normal(key, x.shape, x.dtype)
        for key, x in zip(keys, jax.tree.leaves(params), strict=True)
    ]
    runs = {ADAM: _iterates(rule, loss, params, config)}
    runs[NEARBY] = _iterates(rule, loss, jax.tree.unflatten(jax.tree.structure(params), nudged), config)
    advance(0.2)
    # A solver of the equation: leaps of one step, the default, are the optimizer itself.
    controller = diffrax.PIDController(1e-3, 1e-9, dtmin=config.h / 8, dtmax=config.h)
    solved: Any = {"solver": diffrax.Bosh3(), "stepsize_controller": controller, **every}
    carried = carried_flow(rule, loss, params, config.steps, **solved)
    runs[CARRIED] = _solution(carried, loss)
    advance(0.5)
    closure = carried_flow(rule, loss, params, config.steps, closure="two-branch", **every)
    runs[CLOSURE] = _solution(closure, loss)
    advance(0.9)
    curves = {name: _curves(rule, loss, one, runs[ADAM], config) for name, one in runs.items()}
    # Three stages of two gradients each, and of twice two.
    gradients = {CARRIED: 6 * int(carried.solver_steps), CLOSURE: 12 * int(closure.solver_steps)}  # pyright: ignore[reportArgumentType]
    return Edge(np.arange(0, config.steps + 1, config.every), curves, gradients)


def tanh_network(config: EdgeConfig) -> tuple[Loss, Params]:
    """The squared loss of dense layers with tanh between them."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))[: config.samples]
    x, y = jnp.asarray(images[order] / 16.0, float), jax.nn.one_hot(labels[order], 10, dtype=float)
    sizes = (x.shape[1], *[config.width] * (config.layers - 1), 10)

    def loss(params: Params) -> jax.Array:
        z = x
        *hidden, last = params
        for weights, biases in hidden:
            z = jnp.tanh(z @ weights + biases[None])
        return jnp.mean(jnp.sum((z @ last[0] + last[1][None] - y) ** 2, axis=1)) / 2

    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    return loss, tuple(
        (jax.random.normal(key, (a, b), float) / a**0.5, jnp.zeros(b))
        for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )


def _iterates(rule: Adam, loss: Loss, params: Params, config: EdgeConfig) -> _Run:
    """Centres are (1, 2, 1)/4 of three consecutive iterates, half-differences (1, -2, 1)/4."""
    tx = rule.transformation()

    @eqx.filter_jit
    def iterates(params: Params) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, new = tx.update(jax.grad(loss)(params), state, params)
            return (jax.tree.map(jnp.add, params, updates), new), (params, state[0].nu, loss(params))  # pyright: ignore

        return jax.lax.scan(step, (params, tx.init(params)), None, length=config.steps + 2)[1]

    points, second, losses = iterates(params)

    def three(x: jax.Array, middle: float) -> jax.Array:
        inside = (x[:-2] + middle * x[1:-1] + x[2:]) / 4
        return jnp.concatenate([x[:1] if middle > 0 else jnp.zeros_like(x[:1]), inside])[:: config.every]

    half = jax.tree.map(lambda x: three(x, -2.0), points)
    centre = jax.tree.map(lambda x: three(x, 2.0), points)
    second = jax.tree.map(lambda x: x[: config.steps + 1 : config.every], second)
    return _Run(centre, _norms(half), np.asarray(losses[: config.steps + 1]), second)


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
    # Trapezia: solutions are saved less often than Adam's losses.
    between = (one.loss[1:] + one.loss[:-1]) / 2
    mean = [np.mean(between[(n - config.mean) // stride : n // stride]) for n in ends]
    own, reference = _vectors(one.centre), _vectors(adam.centre)
    distance = np.linalg.norm(reference - reference[:1], axis=1).max()
    saved = ends // config.every
    fresh: Any = rule.transformation().init(jax.tree.map(lambda x: x[0], one.centre))
    eigenvalues, start = [], None
    for n, i in zip(ends, saved, strict=True):
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
    """(saves, p)."""
    return np.concatenate([np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(points)], axis=1)


def _off(found: Edge, name: str, what: str) -> np.ndarray:
    """How far off, of itself."""
    own, adam = getattr(found.curves[name], what), getattr(found.curves[ADAM], what)
    return np.abs(own / adam - 1)


def claims(config: EdgeConfig, found: Edge) -> tuple[Claim, ...]:
    """The mean loss, the centre, the eigenvalue; what the equation without closure says."""
    return (
        _claim(found, "mean_loss", LOSS, f"loss, averaged over {config.mean} steps,"),
        _centre(found),
        _claim(found, "eigenvalue", EIGENVALUE, "top preconditioned eigenvalue at the centre"),
    )


def _claim(found: Edge, what: str, close: float, words: str) -> Claim:
    off = {name: _off(found, name, what) for name in (CLOSURE, CARRIED, NEARBY)}
    measured = "; ".join(f"{name}: at most {x.max():.1%}, at the end {x[-1]:.1%}" for name, x in off.items())
    largest = off[CLOSURE].max()
    return Claim(
        "beyond the paper",
        f"At the edge of stability the closure predicts the {words} of Adam.",
        f"it is within {close:.0%} throughout (by more: it did not hold)",
        measured,
        decided(held=largest <= close, refuted=largest > close),
    )


def _centre(found: Edge) -> Claim:
    errors = {name: found.curves[name].error for name in (CLOSURE, CARRIED, NEARBY)}
    words = "; ".join(f"{name}: at most {x.max():.2%}, at the end {x[-1]:.2%}" for name, x in errors.items())
    cost = ", ".join(f"{name} {n}" for name, n in found.gradients.items())
    largest = errors[CLOSURE].max()
    return Claim(
        "beyond the paper",
        "It predicts the centre of the iterates.",
        f"within {CENTRE:.0%} of the distance that Adam travels, throughout (by more: it did not hold)",
        f"{words}. Gradients: {cost}",
        decided(held=largest <= CENTRE, refuted=largest > CENTRE),
    )


LINES: dict[str, dict[str, Any]] = {
    ADAM: {"color": "0.7", "linewidth": 3.0},
    NEARBY: {"color": "0.5", "linewidth": 0.8, "linestyle": ":"},
    CARRIED: {"color": COLOURS[0], "linewidth": 1.0},
    CLOSURE: {"color": "k", "linewidth": 1.2},
}


@styled
def picture(config: EdgeConfig, found: Edge) -> Any:
    """Loss, eigenvalue over threshold, amplitude and error."""
    figure, axes = panels(1, 4, 2.6, 2.4)
    ends = np.arange(config.mean, config.steps + 1, config.mean)
    for name, line in LINES.items():
        one = found.curves[name]
        axes[0, 0].semilogy(ends - config.mean / 2, one.mean_loss, label=name, **line)
        axes[0, 1].plot(ends, one.eigenvalue, **line)
        axes[0, 2].semilogy(found.steps, np.where(one.amplitude > 0, one.amplitude, np.nan), **line)
        if name != ADAM:
            axes[0, 3].semilogy(ends, one.error, **line)
    axes[0, 1].axhline(1, color="0.85", linewidth=0.8, zorder=0)
    axes[0, 3].axhline(CENTRE, color="0.85", linewidth=0.8, zorder=0)
    titles = (f"loss, mean of {config.mean} steps", "eigenvalue / threshold", "amplitude", "error / distance")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set(title=title, xlabel="step")
    figure.legend(loc="outside upper center", ncols=4)
    return figure


EDGE = Experiment(
    "Beyond the theorem: through the edge of stability",
    "a 4-layer tanh network on digits",
    EdgeConfig(),
    EdgeConfig(steps=60, width=6, samples=30, mean=20),
    run,
    claims,
    picture,
    "Squared loss, full batch. Amplitude: how far iterates are from their centre; of Adam from three "
    "consecutive ones, so that below the edge it shows the curvature of the path. The equation with carried "
    "memory is solved by a Runge-Kutta method: the leaps that `ia.carried_flow` takes by default are here of "
    "one step, which is the optimizer's own.",
)
