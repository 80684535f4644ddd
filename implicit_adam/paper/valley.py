"""The points where Adam and its equations meet the valley of the bilinear model.

On a level set 4 theta_1 theta_2 - 3 = c of E = (3/2 - 2 theta_1 theta_2)^2 / 2 the gradient is
grad E = c (theta_2, theta_1). Its one-norm is |c| (theta_1 + theta_2), smallest at theta_1 = theta_2, which
for c to 0 is the cross (3/4, 3/4)^(1/2). The lower theta_1 + theta_2 is where a trajectory meets the
hyperbola theta_1 theta_2 = 3/4, the smaller the one-norm in the region that it reaches.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffrax
import jax
import numpy as np

from implicit_adam.bias.table1 import regimes
from implicit_adam.losses.problems import bilinear
from implicit_adam.paper.claims import Advance
from implicit_adam.paper.level_sets import going_down, level_of, meeting_point, sums_at
from implicit_adam.rules import Adam
from implicit_adam.runs.carried_flow import carried_flow
from implicit_adam.runs.carried_options import START
from implicit_adam.runs.flow import flow
from implicit_adam.runs.iterate import iterate
from implicit_adam.runs.validity import OutsideRangeWarning

# The shifts are small compared with the path, so the default tolerance, a thousandth of it, is too large.
EXACTLY: dict[str, Any] = {
    "solver": diffrax.Tsit5(),
    "stepsize_controller": diffrax.PIDController(rtol=1e-7, atol=1e-10),
}


@dataclass(frozen=True)
class Varied:
    """The values of one hyperparameter, the fixed others, and the paper's claim about theta_1 + theta_2."""

    name: str
    values: tuple[float, ...]
    fixed: tuple[tuple[str, float], ...]
    sign: int
    statement: str

    def __str__(self) -> str:
        fixed = ", ".join(f"{name} {value:g}" for name, value in self.fixed)
        return f"({self.name} {', '.join(f'{value:g}' for value in self.values)} at {fixed})"

    def rule(self, value: float, *, eps_in_sqrt: bool = True) -> Adam:
        given = dict(self.fixed) | {self.name: value}
        # The smallest denominator is the same for both placements of eps.
        eps = given.pop("eps") if eps_in_sqrt else given.pop("eps") ** 0.5
        return Adam(**given, eps=eps, eps_in_sqrt=eps_in_sqrt)


@dataclass(frozen=True)
class BilinearConfig:
    """The families of runs, from the paper's start (2.8, 3.5).

    The paper shows their hyperparameters in its pictures only.
    """

    families: tuple[Varied, ...]
    horizon: float = 4.0
    # The levels c that are recorded, and the one at which Adam and its flow are compared.
    levels: tuple[float, ...] = tuple(float(c) for c in np.sort([*np.geomspace(0.1, 30.0, 119), 9.0])[::-1])
    level: float = 9.0
    # A flow is followed up to ||h DF[v]|| / ||F|| = 1/2, where the correction is half of the leading field.
    validity: float = 0.5
    points: int = 400


class Family(NamedTuple):
    """Trajectories (values, points, 2), and theta_1 + theta_2 where they cross the levels, (values, levels).

    Adam's end where they first meet the hyperbola, `met` (values, 2); `met_outside` is the same with eps
    outside the root. The flows of order 1 and 2 are NaN beyond the range of the first correction.
    """

    values: np.ndarray
    levels: np.ndarray
    adam: np.ndarray
    flow: np.ndarray
    met: np.ndarray
    met_outside: np.ndarray
    adam_sum: np.ndarray
    flow_sum: np.ndarray
    plain_sum: np.ndarray
    second_sum: np.ndarray
    carried_sum: np.ndarray


def run(config: BilinearConfig, advance: Advance) -> tuple[Family, ...]:
    """Run every family of the config."""
    found, total, done = [], sum(len(varied.values) for varied in config.families), 0
    for varied in config.families:
        rows = []
        for value in varied.values:
            rows.append(_one(config, varied, value))
            done += 1
            advance(done / total)
        columns = (np.stack(column) for column in zip(*rows, strict=True))
        found.append(Family(np.asarray(varied.values), np.asarray(config.levels), *columns))
    return tuple(found)


def _one(config: BilinearConfig, varied: Varied, value: float) -> Sequence[np.ndarray]:
    problem, rule, outside = bilinear(), varied.rule(value), varied.rule(value, eps_in_sqrt=False)
    steps = round(config.horizon / float(rule.h))
    adam = np.asarray(iterate(rule, problem.loss, problem.params, steps).params)
    other = np.asarray(iterate(outside, problem.loss, problem.params, steps).params)
    with warnings.catch_warnings():
        # `_within` cuts the corrected flows where the first correction leaves its range.
        warnings.simplefilter("ignore", OutsideRangeWarning)
        plain, corrected, second = (
            np.asarray(
                flow(rule, problem.loss, problem.params, steps, order=order, solver=diffrax.Tsit5()).params
            )
            for order in (0, 1, 2)
        )
    # Once Adam has met the hyperbola, it oscillates about it, which an exact solver would follow for ever.
    # Only a few different lengths are used, for few compilations.
    part = max(1 + START, steps // 20)
    down = max(part, int(np.sum(np.logical_and.accumulate(level_of(adam) > 0))) // part * part)
    carried = np.asarray(carried_flow(rule, problem.loss, problem.params, down, **EXACTLY).params)
    kept = np.round(np.linspace(0, steps, config.points)).astype(int)
    valid = going_down(corrected) & _within(config, rule, corrected)
    followed = np.where(valid[:, None], corrected, np.nan)
    paths = (
        adam[going_down(adam)],
        corrected[valid],
        plain[going_down(plain)],
        second[valid & going_down(second)],
        carried[going_down(carried)],
    )
    sums = [sums_at(points, np.asarray(config.levels)) for points in paths]
    met = meeting_point(adam)
    arrived = np.logical_or.accumulate(level_of(adam) <= 0)
    until_met = np.where(arrived[:, None], met, adam)
    return [until_met[kept], followed[kept], met, meeting_point(other), *sums]


def _within(config: BilinearConfig, rule: Adam, points: np.ndarray) -> np.ndarray:
    """A mask of the points up to where the first correction exceeds `validity` times the leading field."""
    loss = bilinear().loss
    share = jax.jit(jax.vmap(lambda theta: regimes(rule, loss, theta).validity))(points)
    return np.logical_and.accumulate(np.asarray(share) < config.validity)
