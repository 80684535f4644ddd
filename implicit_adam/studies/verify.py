"""Checks Theorem 3.1: measures the orders of the plain, the corrected and the higher flows on real input."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.checks.batches import check_batches
from implicit_adam.fields.mini_batch.history_sum import window
from implicit_adam.losses.problems import Problem, build_problem
from implicit_adam.measures.convergence import Convergence, convergence
from implicit_adam.rules import AbstractOptimizer, AbstractRule, Optax, rule_named
from implicit_adam.rules.hyperparameters import ALLOWED, DECAY, POSITIVE_DECAY
from implicit_adam.vectors import ravel

STEP_COUNTS = (48, 96, 192, 384, 768)
# Large enough that the memory and the optimizer's own first steps are short compared with the run.
CARRIED_STEP_COUNTS = (96, 192, 384, 768, 1536)
# Beyond order 1 an evaluation in mini-batches runs the optimizer again over all the steps it remembers; so
# there are fewer steps, a shorter time and fewer digits.
HIGH_ORDER_STEP_COUNTS = (32, 64, 128, 256)
HIGH_ORDER_SAMPLES = 100
SCHEDULES = ("cyclic", "shuffled")
OUTSIDE = "outside the theorem"


@dataclass(frozen=True)
class VerifyConfig:
    """The optimizers, problems and settings to check; None takes the default named beside the field.

    An optimizer is a name that `rule_named` knows or one of the keys of `transformations`.
    """

    problems: tuple[str, ...] = ("bilinear", "digits")
    optimizers: tuple[str, ...] = ("adam", "rmsprop")
    eps_placements: tuple[str, ...] = ("inside", "outside")
    # The theorem needs h times memory to be small; with .9 and .999 its regime begins at far smaller h.
    beta: float = 0.5
    rho: float = 0.7
    # None: 1e-3 inside the root and its square root outside, which bound the denominator alike.
    eps: float | None = None
    # None: the problem's own.
    horizon: float | None = None
    # None: STEP_COUNTS or, beyond order 1, HIGH_ORDER_STEP_COUNTS, or CARRIED_STEP_COUNTS.
    step_counts: tuple[int, ...] | None = None
    orders: tuple[int, ...] = (0, 1)
    # The flows with carried memory in place of the expanded ones, in full batch. The decays are those at the
    # largest step size; at smaller h they are adjusted so that memories last equally long in time.
    carried: bool = False
    # None: Tsit5, one step per interval.
    solver: diffrax.AbstractSolver | None = None
    # The order of the mini-batches: one of SCHEDULES. It has no effect on a problem without mini-batches.
    schedule: str = "cyclic"
    seed: int = 0
    dtype: str = "float64"
    # Optax transformations of learning rate 1, and how many past steps their fields look back (None: all).
    transformations: Mapping[str, optax.GradientTransformation] = field(default_factory=dict)
    window: int | None = None

    @property
    def high_order(self) -> bool:
        """Whether a flow of order 2 or higher is asked for."""
        return max(self.orders) > 1

    @property
    def counts(self) -> tuple[int, ...]:
        """The step counts for every case."""
        if self.step_counts is not None:
            return self.step_counts
        if self.carried:
            return CARRIED_STEP_COUNTS
        return HIGH_ORDER_STEP_COUNTS if self.high_order else STEP_COUNTS


class Case(NamedTuple):
    """One optimizer on one problem, with the time T of its runs."""

    problem: Problem
    optimizer: str
    placement: str | None
    rule: AbstractOptimizer
    horizon: float

    @property
    def label(self) -> str:
        """The name of the case, e.g. `Adam, eps inside`."""
        name = self.optimizer if isinstance(self.rule, Optax) else type(self.rule).__name__
        return name if self.placement is None else f"{name}, eps {self.placement}"


class Outcome(NamedTuple):
    """A case with its measured orders and, for each order of the flow, the verdict on the theorem."""

    case: Case
    study: Convergence
    verdict: dict[int, str]


def cases(config: VerifyConfig) -> Iterator[Case]:
    """All cases: every problem with every optimizer and, if it has an eps, every placement of eps."""
    for name in config.problems:
        problem = _problem(config, name)
        for optimizer in config.optimizers:
            for placement in _placements(config, optimizer):
                rule = _rule(config, problem, optimizer, placement)
                horizon = _horizon(config, problem, rule) if config.horizon is None else config.horizon
                yield Case(problem, optimizer, placement, rule, horizon)


def run(config: VerifyConfig, callback: Callable[[Case, int], None] | None = None) -> Iterator[Outcome]:
    """Run every case and yield its outcome; calls `callback(case, steps)` after each finished run."""
    for case in cases(config):
        problem, done = case.problem, 0

        def advance(steps: int, _: int, case: Case = case) -> None:
            nonlocal done
            if callback is not None:
                callback(case, steps - done)
            done = steps

        study = convergence(
            _as_long_for_every_step_size(config, case) if config.carried else case.rule,
            problem.mean_loss if config.carried else problem.loss,
            problem.params,
            horizon=case.horizon,
            step_counts=config.counts,
            orders=config.orders,
            batches=None if config.carried else problem.batches,
            schedule=_schedule(config, problem),
            carried=config.carried,
            solver=config.solver,
            callback=advance,
        )
        yield Outcome(case, study, {order: verdict(case.rule, study, order) for order in config.orders})


def _as_long_for_every_step_size(config: VerifyConfig, case: Case) -> Callable[[Any], AbstractOptimizer]:
    """The optimizer as a function of h with h / (1 - d) fixed; its decays d are those at the largest h."""
    rule, largest = case.rule, case.horizon / config.counts[0]
    decays = [
        x.name for x in fields(rule) if x.metadata.get(ALLOWED) in (DECAY[ALLOWED], POSITIVE_DECAY[ALLOWED])
    ]

    def at(h: Any) -> AbstractOptimizer:
        changed = {name: 1 - (1 - getattr(rule, name)) * h / largest for name in decays}
        return replace(rule, h=h, **changed)

    return at


def _schedule(config: VerifyConfig, problem: Problem) -> np.ndarray | None:
    """None for "cyclic", otherwise a new random order every epoch, drawn with the seed."""
    m = check_batches(problem.batches)
    if config.schedule == "cyclic" or m == 1 or config.carried:
        return None
    epochs = -(-max(config.counts) // m)
    rng = np.random.default_rng(config.seed)
    return rng.permuted(np.tile(np.arange(m), (epochs, 1)), axis=1).ravel()


def verdict(rule: AbstractOptimizer, study: Convergence, order: int) -> str:
    """The verdict of a study on `error = O(h^(order+1))`, see `asymptotics`.

    A memory that never fades (Adagrad) spans the whole run, so the theorem does not apply.
    """
    return OUTSIDE if never_fades(rule) and not study.carried else study.verdict[order]


def never_fades(rule: AbstractOptimizer) -> bool:
    """Whether one of the optimizer's memories keeps old gradients for ever."""
    return isinstance(rule, AbstractRule) and not np.isfinite(window(rule.kernels(0)))


def hyperparameters(kind: type[AbstractOptimizer]) -> tuple[str, ...]:
    """The names of an optimizer's own hyperparameters, without the step size."""
    return tuple(x.name for x in fields(kind) if x.name not in ("h", "tx", "window"))


def kind_of(config: VerifyConfig, optimizer: str) -> type[AbstractOptimizer]:
    """The class of an optimizer of the config."""
    return Optax if optimizer in config.transformations else rule_named(optimizer)


def hyperparameter_values(case: Case) -> dict[str, float | bool]:
    """The optimizer's own hyperparameters, without the step size, with their values."""
    values = {name: getattr(case.rule, name) for name in hyperparameters(type(case.rule))}
    return {name: value if isinstance(value, bool) else float(value) for name, value in values.items()}


def _horizon(config: VerifyConfig, problem: Problem, rule: AbstractOptimizer) -> float:
    if _moves_by_gradients(rule, problem):
        chosen = problem.gradient_horizon
    else:
        chosen = problem.short_horizon if config.high_order else problem.horizon
    return problem.horizon if chosen is None else chosen


def _moves_by_gradients(rule: AbstractOptimizer, problem: Problem) -> bool:
    """Whether a gradient a thousand times as large gives a far larger first update, unlike in Adam."""
    tx = rule.transformation()

    def first_update(size: float) -> jax.Array:
        gradient = jax.tree.map(lambda x: jnp.full_like(x, size * problem.gradient), problem.params)
        with jax.numpy_dtype_promotion("standard"):
            return ravel(tx.update(gradient, tx.init(problem.params), problem.params)[0])

    none, once, thousandfold = (first_update(size) for size in (0.0, 1.0, 1000.0))
    return bool(jnp.linalg.norm(thousandfold - none) > 30 * jnp.linalg.norm(once - none))


def _placements(config: VerifyConfig, optimizer: str) -> tuple[str | None, ...]:
    return config.eps_placements if "eps_in_sqrt" in hyperparameters(kind_of(config, optimizer)) else (None,)


def _rule(config: VerifyConfig, problem: Problem, optimizer: str, placement: str | None) -> AbstractOptimizer:
    """The optimizer of a case, with h = 1, which the study replaces."""
    if optimizer in config.transformations:
        return Optax(1.0, config.transformations[optimizer], config.window)
    kind: Any = rule_named(optimizer)
    own, inside = dict(kind.study), placement != "outside"
    if "eps" in own:
        own["eps"] *= problem.gradient
    values = {
        "beta": config.beta,
        "rho": config.rho,
        "eps": 1e-3 if inside else 1e-3**0.5,
        "eps_in_sqrt": inside,
        **own,
    }
    if config.eps is not None:
        values["eps"] = config.eps
    chosen = {name: values[name] for name in hyperparameters(kind) if name in values}
    return kind(1.0, **chosen)


def _problem(config: VerifyConfig, name: str) -> Problem:
    problem = build_problem(
        name, seed=config.seed, **({"samples": HIGH_ORDER_SAMPLES} if config.high_order else {})
    )
    cast = jax.tree.map(lambda x: x.astype(config.dtype), (problem.params, problem.batches))
    return problem._replace(params=cast[0], batches=cast[1])
