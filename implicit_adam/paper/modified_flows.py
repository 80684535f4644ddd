"""Compares iterates with the gradient flow of a modified loss E~, which is one order closer than E's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.measures.slopes import SETTLED, local_slopes
from implicit_adam.paper.claims import Advance, Claim, decided
from implicit_adam.paper.random_losses import random_data, random_loss
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS, MARKERS, log_ticks
from implicit_adam.rules import AbstractRule
from implicit_adam.runs.iterate import iterate
from implicit_adam.types import Loss, Scalar, Vector

# From a step size to the rule, which moves by about h grad E per step, its modified loss and its plain loss.
Case = Callable[[Any], tuple[AbstractRule, Loss, Loss]]

# The allowed distance of the last local slope from the order.
TOLERANCE = 0.15


@dataclass(frozen=True)
class Study:
    """A random convex loss on p parameters, a fixed time, and several numbers of steps for it."""

    step_counts: tuple[int, ...] = (100, 200, 400, 800)
    horizon: float = 1.0
    # The number of comparisons of the flows with the iterates; it divides the step counts.
    looks: int = 50
    # Steps that fill the memory before the comparison starts ("for n large enough").
    burn_in: int = 60
    p: int = 5
    seed: int = 0

    def problem(self) -> tuple[Loss, Vector]:
        """The loss and the start of the iterates."""
        data = random_data(jax.random.key(self.seed), self.p)
        return (lambda theta: random_loss(theta, data)), jnp.ones(self.p)


class Orders(NamedTuple):
    """Errors (K,) of the modified and the plain flow at step sizes h, and their local slopes.

    `order` is the slope that the modified flow should have; the plain flow has one less. `identity` is a
    relative difference that should be zero.
    """

    order: np.ndarray
    h: np.ndarray
    modified: np.ndarray
    plain: np.ndarray
    modified_slope: np.ndarray
    plain_slope: np.ndarray
    identity: np.ndarray


def orders(order: int, h: np.ndarray, distances: list[tuple[Scalar, ...]], identity: Any) -> Orders:
    """The `Orders` of the distances (modified, plain) at every h."""
    modified, plain = np.asarray(distances).T
    slopes = local_slopes(h, modified), local_slopes(h, plain)
    return Orders(np.asarray(order), h, modified, plain, *slopes, np.asarray(abs(float(identity))))


def compared(study: Study, at: Case, identity: Any, advance: Advance) -> Orders:
    """Measure the largest distances of both flows from the iterates, from step `burn_in` on up to time T."""
    loss, theta = study.problem()
    distances = []
    h = study.horizon / np.asarray(study.step_counts)
    for i, (step, count) in enumerate(zip(h, study.step_counts, strict=True)):
        rule, _, _ = at(float(step))
        run = jnp.asarray(iterate(rule, loss, theta, study.burn_in + count).params)
        seen = run[study.burn_in :: count // study.looks]
        distances.append(_largest(at, jnp.asarray(step), study.horizon, seen))
        advance((i + 1) / len(h))
    return orders(2, h, distances, identity)


@eqx.filter_jit
def _largest(at: Case, h: Scalar, horizon: float, run: Float[Array, "looks p"]) -> tuple[Scalar, ...]:
    """The largest distances of both flows from a run at evenly spaced times over the horizon."""
    rule, *losses = at(h)
    looks = len(run) - 1
    times = jnp.arange(1, looks + 1).astype(h.dtype) / looks * horizon * (rule.h / h)
    flows = [gradient_flow(E, run[0], times) for E in losses]
    return tuple(jnp.max(jnp.linalg.norm(points - run[1:], axis=-1)) for points in flows)


def gradient_flow(loss: Loss, start: Vector, times: Array) -> Array:
    """The solution of d theta / dt = -grad E(theta) at these times, far more exact than what is measured."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: -jax.grad(loss)(y)),
        diffrax.Dopri8(),
        jnp.zeros_like(times[0]),
        times[-1],
        None,
        start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-13),
        max_steps=10_000,
    )
    return jnp.asarray(solution.ys)


def order_claim(source: str, statement: str, identity: str = "") -> Callable[[Any, Orders], tuple[Claim]]:
    """The claim that the flows have their orders; `identity` says in words what should also be zero."""

    def claims(_: Any, found: Orders) -> tuple[Claim]:
        order, last, contrast = int(found.order), found.modified_slope[-1], found.plain_slope[-1]
        settled, contrast_settled = (_settled(x) for x in (found.modified_slope, found.plain_slope))
        right = settled and contrast_settled and abs(last - order) < TOLERANCE
        right = right and abs(contrast - (order - 1)) < TOLERANCE
        return (
            Claim(
                source,
                statement,
                f"the last two local slopes agree to {SETTLED:g}, and the last is within {TOLERANCE:g} of "
                f"{order} for the modified flow and of {order - 1} for the plain one"
                f"{identity and f', and {identity} to 1e-9'} (one that agrees and lies below {order - 0.5:g}"
                f"{identity and ', or another difference'}: it did not hold)",
                f"slopes {last:.3f} and {contrast:.3f}{identity and f'; difference {found.identity:.1e}'}",
                decided(
                    held=right and found.identity < 1e-9,
                    refuted=found.identity >= 1e-9 or (settled and last < order - 0.5),
                ),
            ),
        )

    return claims


def _settled(slopes: np.ndarray) -> bool:
    return len(slopes) > 1 and bool(abs(slopes[-1] - slopes[-2]) <= SETTLED)


@styled
def picture(_: Any, found: Orders) -> Any:
    """The errors of the modified and of the plain flow against h."""
    figure, ((ax,),) = panels(1, 1, 4.2, 3.2)
    for i, (name, order, errors, slopes) in enumerate(
        (
            ("plain flow", found.order - 1, found.plain, found.plain_slope),
            ("flow of the modified loss", found.order, found.modified, found.modified_slope),
        )
    ):
        label = f"{name}, slope {slopes[-1]:.2f} (line: {order})"
        ax.loglog(found.h, errors, MARKERS[i], color=COLOURS[i], label=label)
        ax.loglog(
            found.h, errors[-1] * (found.h / found.h[-1]) ** order, color=COLOURS[i], linewidth=1, alpha=0.6
        )
    ax.set(xlabel=r"step size $h$", ylabel="largest distance to the iterates")
    log_ticks(ax)
    figure.legend(loc="outside upper center")
    return figure
