"""Theorem 3.1, checked: the order of the plain and the corrected flow on real input."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import diffrax
import jax
import numpy as np

from implicit_adam.convergence import Convergence, convergence
from implicit_adam.problems import PROBLEMS, Problem
from implicit_adam.rules import RULES, AbstractRule

HORIZON = {"bilinear": 0.5, "digits": 0.1, "quadratic": 1.0}
# How far a settled slope may lie from order + 1: the leading order bends more at the same step sizes.
TOLERANCE = {0: 0.15}
DEFAULT_TOLERANCE = 0.1


@dataclass(frozen=True)
class VerifyConfig:
    """What to check. None leaves a value to the default named beside it."""

    problems: tuple[str, ...] = ("bilinear", "digits")
    optimizers: tuple[str, ...] = ("adam", "rmsprop")
    eps_placements: tuple[str, ...] = ("inside", "outside")
    # The theorem's regime needs h times memory small; with .9 and .999 it begins at far smaller h.
    beta: float = 0.5
    rho: float = 0.7
    # None: 1e-3 inside the root and its square root outside, so that both floor the denominator alike.
    eps: float | None = None
    # None: one per problem, see HORIZON.
    horizon: float | None = None
    step_counts: tuple[int, ...] = (48, 96, 192, 384, 768)
    orders: tuple[int, ...] = (0, 1)
    # None: Tsit5, one step an interval.
    solver: diffrax.AbstractSolver | None = None
    seed: int = 0
    dtype: str = "float64"


class Case(NamedTuple):
    """One optimizer on one problem, before it is run."""

    problem: str
    optimizer: str
    placement: str | None
    rule: AbstractRule
    horizon: float

    @property
    def label(self) -> str:
        """E.g. `Adam, eps inside`."""
        name = type(self.rule).__name__
        return name if self.placement is None else f"{name}, eps {self.placement}"


class Outcome(NamedTuple):
    """A case with its measured orders and what they say of the theorem, per order of the flow."""

    case: Case
    study: Convergence
    verdict: dict[int, str]


def cases(config: VerifyConfig) -> Iterator[Case]:
    """Every problem with every optimizer and, where it has an eps, every placement of it."""
    for problem in config.problems:
        horizon = HORIZON[problem] if config.horizon is None else config.horizon
        for optimizer in config.optimizers:
            for placement in _placements(config, optimizer):
                rule = _rule(config, optimizer, placement, horizon / config.step_counts[-1])
                yield Case(problem, optimizer, placement, rule, horizon)


def run(config: VerifyConfig, callback: Callable[[Case, int], None] | None = None) -> Iterator[Outcome]:
    """The outcome of each case, as it comes; `callback(case, steps)` after each finished run."""
    loaded = {name: _problem(config, name) for name in config.problems}
    for case in cases(config):
        problem, done = loaded[case.problem], 0

        def advance(steps: int, _: int, case: Case = case) -> None:
            nonlocal done
            if callback is not None:
                callback(case, steps - done)
            done = steps

        study = convergence(
            case.rule,
            problem.loss,
            problem.params,
            horizon=case.horizon,
            step_counts=config.step_counts,
            orders=config.orders,
            batches=problem.batches,
            solver=config.solver,
            callback=advance,
        )
        yield Outcome(case, study, {order: verdict(study, order) for order in config.orders})


def verdict(study: Convergence, order: int) -> str:
    """What a measured slope says of `error = O(h^(order+1))`: it decides only once it has settled."""
    if not study.asymptotic[order]:
        return "not yet asymptotic"
    distance = abs(study.slope[order] - (order + 1))
    return "holds" if distance <= TOLERANCE.get(order, DEFAULT_TOLERANCE) else "contradicted"


def hyperparameters(optimizer: str) -> tuple[str, ...]:
    """The names of an optimizer's own hyperparameters, without the step size."""
    return tuple(field.name for field in fields(RULES[optimizer]) if field.name != "h")


def hyperparameter_values(case: Case) -> dict[str, float | bool]:
    """The same with their values."""
    values = {name: getattr(case.rule, name) for name in hyperparameters(case.optimizer)}
    return {name: value if isinstance(value, bool) else float(value) for name, value in values.items()}


def as_json(config: VerifyConfig, outcomes: list[Outcome]) -> dict[str, Any]:
    """The config and everything measured, as plain numbers and strings (NaN and infinity as null)."""
    return {
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "step_counts": list(config.step_counts),
        "seed": config.seed,
        "cases": [_outcome_as_json(outcome) for outcome in outcomes],
    }


def _placements(config: VerifyConfig, optimizer: str) -> tuple[str | None, ...]:
    return config.eps_placements if "eps_in_sqrt" in hyperparameters(optimizer) else (None,)


def _rule(config: VerifyConfig, optimizer: str, placement: str | None, h: float) -> AbstractRule:
    inside = placement != "outside"
    default_eps = 1e-3 if inside else 1e-3**0.5
    values = {
        "beta": config.beta,
        "rho": config.rho,
        "eps": default_eps if config.eps is None else config.eps,
        "eps_in_sqrt": inside,
    }
    chosen = {name: values[name] for name in hyperparameters(optimizer) if name in values}
    build: Any = RULES[optimizer]
    return build(h, **chosen)


def _problem(config: VerifyConfig, name: str) -> Problem:
    problem = PROBLEMS[name](seed=config.seed) if name == "digits" else PROBLEMS[name]()
    cast = jax.tree.map(lambda x: x.astype(config.dtype), (problem.params, problem.batches))
    return problem._replace(params=cast[0], batches=cast[1])


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    case, study = outcome.case, outcome.study
    return {
        "problem": case.problem,
        "optimizer": case.optimizer,
        "hyperparameters": hyperparameter_values(case),
        "horizon": case.horizon,
        "h": study.h.tolist(),
        "steps": study.steps.tolist(),
        "rounding_floor": study.rounding_floor.tolist(),
        "orders": {str(order): _order_as_json(outcome, order) for order in study.error},
    }


def _order_as_json(outcome: Outcome, order: int) -> dict[str, Any]:
    study = outcome.study
    return {
        "error": [_number(x) for x in study.error[order]],
        "max_norm_error": [_number(x) for x in study.max_norm_error[order]],
        "local_slope": [_number(x) for x in study.local_slope[order]],
        "slope": _number(study.slope[order]),
        "slope_stderr": _number(study.slope_stderr[order]),
        "constant": _number(study.constant[order]),
        "asymptotic": bool(study.asymptotic[order]),
        "verdict": outcome.verdict[order],
    }


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
