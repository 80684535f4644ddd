"""The use of higher orders: the step sizes at which a flow predicts Adam's position to 1% and to 0.1%.

For practical beta and rho the memory is long, and h times memory decides whether the expansion converges. The
distance sup_n ||theta(nh) - theta^(n)|| of the flows of order 0, 1, 2 is compared with the distance
travelled, for h up to a hundredth of the time.

The *unexpanded* map of order 1 evaluates the update at the displaced history instead of expanding it in h,

    theta <- theta - h F^(n)(theta_0, .., theta_n),      theta_k = theta + h (n-k) F

(full batch, bias-corrected memory, F frozen at theta), at the cost of a gradient for every step remembered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.inputs import Inputs, checked_inputs, identified
from implicit_adam.losses.problems import build_problem
from implicit_adam.measures.lockstep import supremum
from implicit_adam.objective import Objective
from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS, MARKERS, flow_name
from implicit_adam.rules import AbstractRule, Adam
from implicit_adam.rules.kernels import at_lag
from implicit_adam.runs.iterate import optimizer_step
from implicit_adam.types import Scalar, StepNumber, Vector


@dataclass(frozen=True)
class HigherOrdersConfig:
    """The problems, each with its time and eps, and the practical pairs (beta, rho)."""

    problems: tuple[tuple[str, float, float], ...] = (
        ("bilinear", 1.0, 1e-8),
        ("digits", 0.2, 1e-4),
        ("digits", 0.2, 1e-8),
    )
    decays: tuple[tuple[float, float], ...] = ((0.9, 0.99), (0.9, 0.999))
    orders: tuple[int, ...] = (0, 1, 2)
    step_counts: tuple[int, ...] = (100, 200, 400, 800, 1600, 3200, 6400, 12800)
    # The most steps of the unexpanded map, which takes a gradient for every earlier step.
    unexpanded_steps: tuple[tuple[str, int], ...] = (("bilinear", 3200), ("digits", 400))
    # The number of digits, in full batch.
    samples: int = 200
    accuracies: tuple[float, ...] = (1e-2, 1e-3)
    # A diffrax solver, one step per interval.
    solver: str = "Bosh3"


class HigherOrders(NamedTuple):
    """Relative errors with axes (problem, decays, order or map, steps), and h (problem, steps).

    `largest_h` (problem, decays, order or map, accuracy): the largest h for which the errors at it and at all
    smaller h are within the accuracy; NaN if there is none.
    """

    h: np.ndarray
    error: np.ndarray
    largest_h: np.ndarray


def run(config: HigherOrdersConfig, advance: Advance) -> HigherOrders:
    """Measure for every problem, pair of decays and number of steps."""
    h, errors = [], []
    total, done = len(config.problems) * len(config.decays), 0
    for name, horizon, eps in config.problems:
        problem = build_problem(name, batches=1, samples=config.samples)
        h.append(horizon / np.asarray(config.step_counts))
        rows = []
        for beta, rho in config.decays:
            rule = Adam(1.0, beta, rho, eps, eps_in_sqrt=True)
            training = identified(checked_inputs(rule, problem.mean_loss, problem.params))
            rows.append(_errors(config, name, training, horizon))
            done += 1
            advance(done / total)
        errors.append(rows)
    found = np.asarray(errors)
    largest = [
        [_largest(h_i, row, config.accuracies) for row in rows] for h_i, rows in zip(h, found, strict=True)
    ]
    return HigherOrders(np.asarray(h), found, np.asarray(largest))


def _errors(config: HigherOrdersConfig, name: str, training: Inputs, horizon: float) -> np.ndarray:
    """Errors (orders + 1, steps) over the distance travelled; the last row is the unexpanded map."""
    columns = []
    for steps in config.step_counts:
        h = jnp.asarray(horizon / steps, training.theta.dtype)
        run = training._replace(rule=training.rule.with_step_size(h))
        found = _supremum(run, jnp.asarray(steps), config.orders, getattr(diffrax, config.solver)())
        # A flow that diverged has an infinite error; NaN means not measured.
        column = [float(jnp.nan_to_num(error, nan=jnp.inf)) for error in found.two_norm]
        affordable = steps <= dict(config.unexpanded_steps).get(name, 0)
        last = float(unexpanded_error(run, steps)) if affordable else np.nan
        columns.append(np.asarray([*column, last]) / float(found.travelled))
    return np.stack(columns, axis=1)


_supremum = eqx.filter_jit(supremum)


@eqx.filter_jit
def unexpanded_error(training: Inputs, steps: int) -> Scalar:
    """sup_n of the distance between Adam and the unexpanded map of order 1."""
    rule, objective, theta = training.rule, training.objective, training.theta
    start, step = optimizer_step(rule, objective)
    update = unexpanded(rule, objective, steps)

    def advance(n: StepNumber, carry: Any) -> Any:
        optimizer, point, largest = carry
        optimizer, point = step(n, optimizer), point - rule.h * update(n, point)
        return optimizer, point, jnp.maximum(largest, jnp.linalg.norm(optimizer[0] - point))

    return jax.lax.fori_loop(0, steps, advance, (start(theta), theta, jnp.zeros((), theta.dtype)))[2]


def unexpanded(
    rule: AbstractRule, objective: Objective, steps: int
) -> Callable[[StepNumber, Vector], Vector]:
    """The update F^(n) over the history theta + h j F, with lags j = n - k, all up to `steps` at once."""
    lags = jnp.arange(steps)

    def update(n: StepNumber, theta: Vector) -> Vector:
        (g,) = objective.gradients(theta)
        F = rule.readout(rule.features(g), theta, n)
        seen = jnp.minimum(lags, n).astype(theta.dtype)
        G = jax.vmap(lambda j: objective.gradients(theta + rule.h * j * F)[0])(seen)
        kernels = rule.kernels(n)
        s = []
        for kernel, psi in zip(kernels, rule.features(G), strict=True):
            w = jax.vmap(lambda j, kernel=kernel: jnp.sum(at_lag(kernel, j)))(seen)
            s.append(jnp.where(lags <= n, w, jnp.zeros_like(w)) @ psi)
        return rule.readout(tuple(s), theta, n)

    return update


def _largest(h: np.ndarray, errors: np.ndarray, accuracies: tuple[float, ...]) -> np.ndarray:
    """The largest h for each accuracy; h falls along the last axis, and NaN errors are not measured."""

    def one(error: np.ndarray, accuracy: float) -> float:
        measured = ~np.isnan(error)
        good = measured & np.logical_and.accumulate((~measured | (error < accuracy))[::-1])[::-1]
        return float(h[np.argmax(good)]) if good.any() else np.nan

    return np.asarray([[one(error, accuracy) for accuracy in accuracies] for error in errors])


def claims(config: HigherOrdersConfig, found: HigherOrders) -> tuple[Claim, ...]:
    """For every panel the claim, beyond the paper, that the second order predicts up to larger h."""
    made = []
    for i, (name, horizon, eps) in enumerate(config.problems):
        for j, (beta, rho) in enumerate(config.decays):
            made.append(
                _reaches_further(
                    config,
                    f"{name}, eps {eps:g} inside the root, beta {beta:g}, rho {rho:g}, T {horizon:g}",
                    found.largest_h[i, j],
                )
            )
    return tuple(made)


def _reaches_further(config: HigherOrdersConfig, setting: str, largest: np.ndarray) -> Claim:
    first, second = (largest[config.orders.index(order), 0] for order in (1, 2))
    ranges = "; ".join(
        f"order {order}: "
        + ", ".join(_from(h, accuracy) for h, accuracy in zip(row, config.accuracies, strict=True))
        for order, row in zip(config.orders, largest, strict=False)
    )
    return Claim(
        "beyond the paper",
        f"The flow of order 2 predicts Adam up to larger step sizes than that of order 1 ({setting}).",
        f"the largest h of the study up to which the error is within {config.accuracies[0]:.0%} of the "
        "distance travelled is larger at order 2 (smaller, or none while order 1 has one: it did not hold; "
        "neither has one, or both the same: not decided)",
        ranges,
        decided(
            held=second > first or (np.isnan(first) and np.isfinite(second)),
            refuted=second < first or (np.isnan(second) and np.isfinite(first)),
        ),
    )


def _from(h: float, accuracy: float) -> str:
    return f"{100 * accuracy:g}% {'never' if np.isnan(h) else f'up to h = {h:.2g}'}"


@styled
def picture(config: HigherOrdersConfig, found: HigherOrders) -> Any:
    """Errors over the distance travelled against h, a panel for each problem and pair of decays."""
    figure, axes = panels(len(config.problems), len(config.decays), 3.6, 2.7)
    for row, (name, _, eps), h, by_decays in zip(axes, config.problems, found.h, found.error, strict=True):
        for ax, (beta, rho), errors in zip(row, config.decays, by_decays, strict=True):
            for order, error in zip(config.orders, errors, strict=False):
                ax.loglog(
                    h, error, MARKERS[order] + "-", color=COLOURS[order], linewidth=1, label=flow_name(order)
                )
            ax.loglog(h, errors[-1], "x:", color="k", linewidth=1, label="unexpanded map of order 1")
            for accuracy in config.accuracies:
                ax.axhline(accuracy, color="0.7", linewidth=0.8, zorder=0)
                words = f"{100 * accuracy:g}%"
                ax.text(h[0], accuracy, words, color="0.5", ha="right", va="bottom", fontsize=7, clip_on=True)
            shown = errors[np.isfinite(errors)]
            ax.set(ylim=(max(shown.min() / 2, 1e-7), min(2 * shown.max(), 10)), xlabel=r"step size $h$")
            ax.set_title(rf"{name}, $\varepsilon = {_scientific(eps)}$: $\beta = {beta:g}$, $\rho = {rho:g}$")
        row[0].set_ylabel("largest error / distance travelled")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2 * len(config.decays))
    return figure


def _scientific(x: float) -> str:
    exponent = round(float(np.log10(x)))
    return f"10^{{{exponent}}}" if np.isclose(x, 10.0**exponent) else f"{x:g}"


HIGHER_ORDERS = Experiment(
    "Beyond the paper: what order 2 buys",
    "the bilinear model, a small network on digits",
    HigherOrdersConfig(),
    HigherOrdersConfig(
        problems=(("bilinear", 1.0, 1e-8),),
        decays=((0.9, 0.99),),
        step_counts=(100, 200, 400, 800, 1600),
        unexpanded_steps=(("bilinear", 400),),
    ),
    run,
    claims,
    picture,
    "Where a higher order is further from Adam than a lower one, the series in h diverges: h times memory "
    "is not small there against the width sqrt(eps) over which the update turns round when a gradient "
    "component passes zero. Errors of about the distance travelled and more are those of the numerical "
    "solution, too, which takes one step an interval: read them as far off, not as numbers.",
)
