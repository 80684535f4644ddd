"""Theorem 3.1, checked: the order of the plain, the corrected and the higher flows on real input."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any, NamedTuple

import diffrax
import jax
import numpy as np
import optax

from implicit_adam.checks import check_batches
from implicit_adam.convergence import Convergence, convergence
from implicit_adam.problems import PROBLEMS, Problem
from implicit_adam.rules import RULES, AbstractOptimizer, AbstractRule, Optax

HORIZON = {"bilinear": 0.5, "digits": 0.1, "quadratic": 1.0}
# The same for optimizers that move by gradients and not by about one a unit of time.
UNSCALED = ("gradient-descent", "heavy-ball", "nesterov")
UNSCALED_HORIZON = {"bilinear": 0.02, "digits": 1.0, "quadratic": 1.0}
# The size of a gradient component, over which a smooth sign should turn to be seen.
GRADIENT = {"bilinear": 30.0, "digits": 0.03, "quadratic": 1.0}
STEP_COUNTS = (48, 96, 192, 384, 768)
# Beyond order 1 an evaluation in mini-batches runs the optimizer again over all the steps it remembers: fewer
# steps, and a shorter time on fewer digits.
HIGH_ORDER_STEP_COUNTS = (32, 64, 128, 256)
HIGH_ORDER_HORIZON = {"digits": 0.02}
HIGH_ORDER_SAMPLES = 100
# Hyperparameters that only some optimizers have, with memories as short as those of the config.
OWN: dict[str, dict[str, float]] = {
    "lion": {"beta1": 0.5, "beta2": 0.7},
    "adamw": {"weight_decay": 0.1},
    "ademamix": {"beta_slow": 0.7, "alpha": 0.5},
}
# How far a settled slope may lie from order + 1: the other orders bend more at the same step sizes.
TOLERANCE = {1: 0.1}
DEFAULT_TOLERANCE = 0.15
SCHEDULES = ("cyclic", "shuffled")
PACKAGES = ("jax", "numpy", "optax", "diffrax", "equinox")
# How little local slopes may still move where they contradict the theorem.
STILL = 0.03


@dataclass(frozen=True)
class VerifyConfig:
    """What to check. None leaves a value to the default named beside it.

    An optimizer is a name in `RULES` or one of the keys of `transformations`.
    """

    problems: tuple[str, ...] = ("bilinear", "digits")
    optimizers: tuple[str, ...] = ("adam", "rmsprop")
    eps_placements: tuple[str, ...] = ("inside", "outside")
    # The theorem's regime needs h times memory small; with .9 and .999 it begins at far smaller h.
    beta: float = 0.5
    rho: float = 0.7
    # None: 1e-3 inside the root and its square root outside, so that both floor the denominator alike.
    eps: float | None = None
    # None: one per problem, see HORIZON and, beyond order 1, HIGH_ORDER_HORIZON.
    horizon: float | None = None
    # None: STEP_COUNTS or, beyond order 1, HIGH_ORDER_STEP_COUNTS.
    step_counts: tuple[int, ...] | None = None
    orders: tuple[int, ...] = (0, 1)
    # None: Tsit5, one step an interval.
    solver: diffrax.AbstractSolver | None = None
    # The order of the mini-batches: one of SCHEDULES. It means nothing to a problem of one loss.
    schedule: str = "cyclic"
    seed: int = 0
    dtype: str = "float64"
    # Optax transformations of learning rate 1, and how many past steps their fields look back (None: all).
    transformations: Mapping[str, optax.GradientTransformation] = field(default_factory=dict)
    window: int | None = None

    @property
    def high_order(self) -> bool:
        """Whether a flow beyond the paper's is asked for."""
        return max(self.orders) > 1

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of steps of every case."""
        if self.step_counts is not None:
            return self.step_counts
        return HIGH_ORDER_STEP_COUNTS if self.high_order else STEP_COUNTS


class Case(NamedTuple):
    """One optimizer on one problem, before it is run."""

    problem: str
    optimizer: str
    placement: str | None
    rule: AbstractOptimizer
    horizon: float

    @property
    def label(self) -> str:
        """E.g. `Adam, eps inside`."""
        name = self.optimizer if isinstance(self.rule, Optax) else type(self.rule).__name__
        return name if self.placement is None else f"{name}, eps {self.placement}"


class Outcome(NamedTuple):
    """A case with its measured orders and what they say of the theorem, per order of the flow."""

    case: Case
    study: Convergence
    verdict: dict[int, str]


def cases(config: VerifyConfig) -> Iterator[Case]:
    """Every problem with every optimizer and, where it has an eps, every placement of it."""
    for problem in config.problems:
        for optimizer in config.optimizers:
            horizon = _horizon(config, problem, optimizer) if config.horizon is None else config.horizon
            for placement in _placements(config, optimizer):
                rule = _rule(config, problem, optimizer, placement)
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
            step_counts=config.counts,
            orders=config.orders,
            batches=problem.batches,
            schedule=_schedule(config, problem),
            solver=config.solver,
            callback=advance,
        )
        yield Outcome(case, study, {order: verdict(case.rule, study, order) for order in config.orders})


def _schedule(config: VerifyConfig, problem: Problem) -> np.ndarray | None:
    """None for cyclic; else every epoch in an order of its own, drawn by the seed."""
    m = check_batches(problem.batches)
    if config.schedule == "cyclic" or m == 1:
        return None
    epochs = -(-max(config.counts) // m)
    rng = np.random.default_rng(config.seed)
    return rng.permuted(np.tile(np.arange(m), (epochs, 1)), axis=1).ravel()


def verdict(rule: AbstractOptimizer, study: Convergence, order: int) -> str:
    """What a measured slope says of `error = O(h^(order+1))`: it decides only once it has settled.

    A memory that never fades (Adagrad) spans the whole run: h times memory does not go to zero with h, and
    the theorem promises nothing.
    """
    if isinstance(rule, AbstractRule) and not all(kernel.forgets for kernel in rule.kernels(0)):
        return "outside the theorem"
    if not study.asymptotic[order]:
        return "not yet asymptotic"
    tolerance = TOLERANCE.get(order, DEFAULT_TOLERANCE)
    if abs(study.slope[order] - (order + 1)) <= tolerance:
        return "holds"
    # A contradiction asks for more: slopes that stand still, and not just beside the theorem's.
    limit, last = study.limiting_slope[order], study.local_slope[order][-1]
    stands_still = abs(limit - last) <= STILL
    return "contradicted" if stands_still and abs(limit - (order + 1)) > tolerance else "not yet asymptotic"


def hyperparameters(optimizer: str) -> tuple[str, ...]:
    """The names of an optimizer's own hyperparameters, without the step size."""
    rule = RULES.get(optimizer, Optax)
    return tuple(x.name for x in fields(rule) if x.name not in ("h", "tx", "window"))


def hyperparameter_values(case: Case) -> dict[str, float | bool]:
    """The same with their values."""
    values = {name: getattr(case.rule, name) for name in hyperparameters(case.optimizer)}
    return {name: value if isinstance(value, bool) else float(value) for name, value in values.items()}


def as_json(config: VerifyConfig, outcomes: list[Outcome]) -> dict[str, Any]:
    """The steps, the seed and everything measured, as plain numbers and strings (NaN as null)."""
    return {
        "versions": {package: version(package) for package in PACKAGES},
        "solver": "Tsit5" if config.solver is None else type(config.solver).__name__,
        "dtype": config.dtype,
        "window": config.window,
        "step_counts": list(config.counts),
        "schedule": config.schedule,
        "seed": config.seed,
        "cases": [_outcome_as_json(outcome) for outcome in outcomes],
    }


def _horizon(config: VerifyConfig, problem: str, optimizer: str) -> float:
    if optimizer in UNSCALED:
        return UNSCALED_HORIZON[problem]
    return (HORIZON | HIGH_ORDER_HORIZON if config.high_order else HORIZON)[problem]


def _placements(config: VerifyConfig, optimizer: str) -> tuple[str | None, ...]:
    return config.eps_placements if "eps_in_sqrt" in hyperparameters(optimizer) else (None,)


def _rule(config: VerifyConfig, problem: str, optimizer: str, placement: str | None) -> AbstractOptimizer:
    """With h = 1, which the study replaces."""
    if optimizer in config.transformations:
        return Optax(1.0, config.transformations[optimizer], config.window)
    inside = placement != "outside"
    smooth_sign = optimizer in ("lion", "signum")
    default_eps = GRADIENT[problem] if smooth_sign else 1e-3 if inside else 1e-3**0.5
    values = {
        "beta": config.beta,
        "rho": config.rho,
        "eps": default_eps,
        "eps_in_sqrt": inside,
        **OWN.get(optimizer, {}),
    }
    if config.eps is not None:
        values["eps"] = config.eps
    chosen = {name: values[name] for name in hyperparameters(optimizer) if name in values}
    build: Any = RULES[optimizer]
    return build(1.0, **chosen)


def _problem(config: VerifyConfig, name: str) -> Problem:
    chosen: dict[str, int] = {"seed": config.seed} if name == "digits" else {}
    if name == "digits" and config.high_order:
        chosen["samples"] = HIGH_ORDER_SAMPLES
    problem = PROBLEMS[name](**chosen)
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
        "travelled": [_number(x) for x in study.travelled],
        "orders": {str(order): _order_as_json(outcome, order) for order in study.error},
    }


def _order_as_json(outcome: Outcome, order: int) -> dict[str, Any]:
    study = outcome.study
    return {
        "error": [_number(x) for x in study.error[order]],
        "max_norm_error": [_number(x) for x in study.max_norm_error[order]],
        "local_slope": [_number(x) for x in study.local_slope[order]],
        "slope": _number(study.slope[order]),
        "limiting_slope": _number(study.limiting_slope[order]),
        "slope_stderr": _number(study.slope_stderr[order]),
        "constant": _number(study.constant[order]),
        "asymptotic": bool(study.asymptotic[order]),
        "verdict": outcome.verdict[order],
    }


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
