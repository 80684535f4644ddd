"""The mean path at the edge of stability: the central flow, the two-branch closure, and carried memory.

Four optimizers on one small network, each at its edge for some time. Means over stretches of steps are
compared: of the iterates and their losses, and of the top eigenvalue of R^-1/2 Hess E R^-1/2 over the
stability threshold (R is the update's denominator) at the centre of the iterates. The first stretch is left
out: there the loss falls so fast between two saves that their mean would be inaccurate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam import rules
from implicit_adam.eigenpairs import largest_eigenpairs
from implicit_adam.fields.carried.carried_field import carried_inputs, carrier_of, each_memory
from implicit_adam.fields.edge.central import denominator_at
from implicit_adam.inputs import Inputs
from implicit_adam.paper.claims import Advance
from implicit_adam.paper.edge.networks import dense_layers, on_digits
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.linear import linear_part
from implicit_adam.rules.root_locus import crossing_at_minus_one
from implicit_adam.runs.carried_flow import carried_flow
from implicit_adam.runs.central_flow import central_flow
from implicit_adam.studies.prediction import nudged
from implicit_adam.types import Loss, Params
from implicit_adam.vectors import ravel

OPTIMIZER, NEARBY, CARRIED = "the optimizer", "the optimizer from 1e-6 away", "carried memory"
CLOSURE, CENTRAL = "two-branch closure", "central flow"
EQUATIONS = (CENTRAL, CLOSURE, CARRIED, NEARBY)
# Products in search of the top eigenvalue.
ITERATIONS = 20
# Steps that the optimizer takes itself before an equation begins: the central flow has no eigenvalue there.
START = 10


@dataclass(frozen=True)
class Case:
    """A rule by its name, its arguments, and how many steps it takes."""

    rule: str
    arguments: tuple[float, ...]
    steps: int

    def __str__(self) -> str:
        return f"{self.rule}({', '.join(f'{x:g}' for x in self.arguments)})"


@dataclass(frozen=True)
class MeanPathConfig:
    """A tanh network of two layers with squared loss, on digits, in full batch.

    - `mean`: how many steps a stretch has; `every`: how often a solution is saved.
    - `directions`: of the central flow.
    """

    cases: tuple[Case, ...] = (
        Case("GradientDescent", (0.25,), 1000),
        Case("RMSProp", (2e-3, 0.99), 1000),
        Case("Adam", (4e-3, 0.5, 0.99), 2200),
        Case("Adam", (3e-2, 0.9, 0.999), 2200),
    )
    width: int = 8
    samples: int = 100
    mean: int = 100
    every: int = 10
    directions: int = 3


class Means(NamedTuple):
    """Means of one run over each stretch but the first.

    - `centre`: (stretches, p); `loss`, `eigenvalue`: (stretches,), the latter over the threshold.
    """

    centre: np.ndarray
    loss: np.ndarray
    eigenvalue: np.ndarray


class Off(NamedTuple):
    """The errors of one equation in each stretch, (stretches,).

    The distance of its centre from the optimizer's, over the distance travelled, and the ratios of its loss
    and eigenvalue to the optimizer's.
    """

    centre: np.ndarray
    loss: np.ndarray
    eigenvalue: np.ndarray


class MeanPaths(NamedTuple):
    """By case: the optimizer's means, and the errors of each equation."""

    optimizer: dict[str, Means]
    off: dict[str, dict[str, Off]]


def run(config: MeanPathConfig, advance: Advance) -> MeanPaths:
    """Run all cases."""
    loss, params = on_digits(dense_layers(jnp.tanh, config.width, 2), config.samples)
    optimizer, off = {}, {}
    for i, case in enumerate(config.cases):
        means, distance = _case(config, case, loss, params)
        reference = optimizer[str(case)] = means[OPTIMIZER]
        off[str(case)] = {name: off_by(means[name], reference, distance) for name in EQUATIONS}
        advance((i + 1) / len(config.cases))
    return MeanPaths(optimizer, off)


def off_by(one: Means, reference: Means, distance: float) -> Off:
    apart = np.linalg.norm(one.centre - reference.centre, axis=1)
    return Off(apart / distance, one.loss / reference.loss, one.eigenvalue / reference.eigenvalue)


def _case(config: MeanPathConfig, case: Case, loss: Loss, params: Params) -> tuple[dict[str, Means], float]:
    """The means of every run, and the distance that the optimizer travels."""
    rule = getattr(rules, case.rule)(*case.arguments)
    steps, every = case.steps, config.every
    options: Any = {"save_every": every, "memories": True}
    # Leaps of one step, the default, would be the optimizer itself.
    controller = diffrax.PIDController(1e-3, 1e-9, dtmin=rule.h / 4, dtmax=rule.h)
    carried = carried_flow(
        rule, loss, params, steps, solver=diffrax.Bosh3(), stepsize_controller=controller, **options
    )
    closure = carried_flow(rule, loss, params, steps, closure="two-branch", **options)
    central = central_flow(rule, loss, params, steps, directions=config.directions, save_every=every)
    inputs = carried_inputs(rule, loss, params, None, None)
    eigenvalues = _eigenvalues(inputs, np.arange(0, steps + 1, every))
    along = jax.jit(lambda points: jax.lax.map(loss, points))

    def iterates(params: Params) -> tuple[np.ndarray, Means]:
        thetas, memory = _iterates(inputs._replace(params=params), steps)
        losses = along(jax.vmap(inputs.unraveled)(thetas))[:-1]
        chi = eigenvalues(_centres(thetas)[::every], jax.tree.map(lambda x: x[:-1:every], memory))
        points = np.asarray(thetas[:-1])
        return points, Means(stretches(points, config.mean), stretches(losses, config.mean), chi)

    def solution(flow: Any, losses: Any, chi: Any) -> Means:
        saves = config.mean // every
        return Means(stretches(_vectors(flow.params), saves), stretches(losses, saves), chi)

    branches = [
        along(jax.tree.map(lambda c, d, sign=sign: c + sign * d, closure.params, closure.alternating))
        for sign in (1, -1)
    ]
    points, own = iterates(params)
    found = {OPTIMIZER: own, NEARBY: iterates(nudged(params))[1]}
    found[CARRIED] = solution(carried, along(carried.params), eigenvalues(*_state(carried)))
    found[CLOSURE] = solution(closure, sum(branches) / 2, eigenvalues(*_state(closure)))
    found[CENTRAL] = solution(central, central.mean_loss, np.asarray(central.edge[:, 0]))
    means = {
        name: one._replace(eigenvalue=_after_start(one.eigenvalue, config)) for name, one in found.items()
    }
    means = {name: jax.tree.map(lambda x: x[1:], one) for name, one in means.items()}
    return means, float(np.linalg.norm(points - points[:1], axis=1).max())


def _state(flow: Any) -> tuple[Any, Any]:
    return jax.vmap(ravel)(flow.params), each_memory(jax.vmap(ravel), flow.memories)


@eqx.filter_jit
def _iterates(inputs: Inputs, steps: int) -> tuple[Any, Any]:
    """The points and memories before every step, and one step after the last."""
    carrier = carrier_of(inputs)

    def step(state: Any, n: Any) -> tuple[Any, Any]:
        return carrier.step(n, *state), state

    state = (inputs.theta, carrier.start(inputs.theta))
    return jax.lax.scan(step, state, jnp.arange(steps + 2))[1]


def _eigenvalues(inputs: Inputs, steps: np.ndarray) -> Callable[[Any, Any], np.ndarray]:
    """The top eigenvalue over the threshold, at points and memories of these steps."""
    rule, objective = cast(AbstractRule, inputs.rule), inputs.objective
    threshold = crossing_at_minus_one(linear_part(rule, jnp.inf), rule.h)

    @jax.jit
    def along(centres: Any, memories: Any) -> Any:
        def one(at: Any) -> Any:
            n, c, memory = at
            g, products = objective.linearize(c)
            tau = jnp.maximum(n, 1).astype(c.dtype)
            scale = 1 / jnp.sqrt(denominator_at(rule, tau, c, memory, rule.features(g[0])))
            start, spare = jax.random.normal(jax.random.key(0), (2, c.size), c.dtype)
            top, _, _ = largest_eigenpairs(
                lambda v: scale * products((scale * v)[None])[0], start[None], spare, 1, ITERATIONS
            )
            return top[0] / threshold

        return jax.lax.map(one, (jnp.asarray(steps), centres, memories))

    return lambda centres, memories: np.asarray(along(centres, memories))


def _after_start(values: np.ndarray, config: MeanPathConfig) -> np.ndarray:
    """Means over the saves of each stretch, without the steps that the optimizer takes itself at first."""
    saves = config.mean // config.every
    later = np.where(np.arange(len(values)) * config.every > START, values, np.nan)[1:]
    return np.nanmean(later.reshape(-1, saves), axis=1)


def stretches(values: Any, length: int) -> np.ndarray:
    """Means over stretches; the two ends of each stretch have half the weight."""
    values = np.asarray(values)
    between = (values[1:] + values[:-1]) / 2
    return between.reshape(-1, length, *values.shape[1:]).mean(axis=1)


def _centres(thetas: Any) -> Any:
    """Averages of three consecutive iterates with weights (1, 2, 1) / 4; the start stays as it is."""
    return jnp.concatenate([thetas[:1], (thetas[:-2] + 2 * thetas[1:-1] + thetas[2:]) / 4])


def _vectors(points: Params) -> np.ndarray:
    return np.asarray(jax.vmap(ravel)(points))
