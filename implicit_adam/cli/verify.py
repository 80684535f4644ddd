"""`implicit-adam verify`: checks Theorem 3.1, with a table, a JSON file and a picture."""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax.numpy as jnp

from implicit_adam.checks.numbers import check_count
from implicit_adam.checks.runs import check_orders
from implicit_adam.checks.studies import check_horizon, check_step_counts, check_wide_dtype
from implicit_adam.cli.arguments import add_format, folder, integers, names, require
from implicit_adam.cli.optax_names import PREFIX, parse_optax
from implicit_adam.fields.carried.carried_field import HIGHEST_CARRIED_ORDER
from implicit_adam.fields.vector_field import HIGHEST_ORDER
from implicit_adam.files import check_writable
from implicit_adam.losses.problems import PROBLEMS, problem_options
from implicit_adam.measures.convergence import Convergence
from implicit_adam.plotting import flow_name, plot_studies
from implicit_adam.rules import RULES, rule_named
from implicit_adam.studies import verify
from implicit_adam.studies.verify import Case, Outcome, VerifyConfig
from implicit_adam.studies.verify_json import as_json

HOLDS, CONTRADICTED, UNDECIDED = 0, 1, 3
# The usual hyperparameters, at which the expanded flows are outside their range.
PRACTICAL = {"beta": 0.9, "rho": 0.999, "eps": 1e-8}
# Only with bias correction: without it, the first steps with a long memory are too large for any equation.
CARRIED_OPTIMIZERS = ("adam", "nadam")

SOLVERS: dict[str, Callable[[], diffrax.AbstractSolver]] = {
    "tsit5": diffrax.Tsit5,
    "dopri8": diffrax.Dopri8,
    "bosh3": diffrax.Bosh3,
    "heun": diffrax.Heun,
    "kvaerno5": diffrax.Kvaerno5,
}

VERIFY = """\
Run the optimizer and its flows from the same start, for several step sizes h and a fixed time T, and measure
with which power of h their distance shrinks: about 1 for the plain (sign-type) flow, about 2 for the
corrected flow, and one more for every further term of the modified equation (--orders).
Without arguments: Adam and RMSProp, eps inside and outside the square root, on the paper's bilinear model
and on a small network trained on real digits in mini-batches; about two minutes on two cores."""

VERIFY_EXAMPLES = """\
examples:
  implicit-adam verify
  implicit-adam verify --orders 0,1,2
  implicit-adam verify --carried
  implicit-adam verify --problem bilinear --optimizer adam --beta 0.9 --rho 0.95 --steps 500,1000,2000,4000
  implicit-adam verify --problem bilinear --optimizer 'optax:rmsprop(decay=0.7,eps=1.0,momentum=0.5)'
  implicit-adam verify --problem digits --optimizer heavy-ball --beta 0.8 --horizon 0.05 --out results

reading the result:
  A slope counts once its local values have settled where h is small. If a case is "not yet asymptotic", the
  reason follows in brackets. Usually the remedy is a smaller h (more --steps, a shorter --horizon) or a
  shorter memory: h / (1 - beta) and h / (1 - rho) must be small compared with T. An error that shrinks faster
  than the theorem says also "holds". "contradicted" means that the slope has settled at a smaller power of h,
  and that nothing else explains it.

exit status:
  0  every slope is what the theorem says      1  a settled slope contradicts it
  2  bad usage, or nowhere to write            3  a slope has not settled: nothing is decided there"""


def add_verify(commands: Any) -> None:
    default = VerifyConfig()
    command = commands.add_parser(
        "verify",
        help="check the order of Theorem 3.1 numerically",
        description=VERIFY,
        epilog=VERIFY_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_verify)
    add, listed = command.add_argument, ",".join
    add(
        "--problem",
        type=names(PROBLEMS),
        default=default.problems,
        metavar="NAME[,NAME]",
        help=f"{', '.join(PROBLEMS)} (default: {listed(default.problems)})",
    )
    add(
        "--optimizer",
        type=names(RULES, accepts=lambda name: name.startswith(PREFIX) or rule_named(name) is not None),
        metavar="NAME[,NAME]",
        help=f"{', '.join(RULES)}, {PREFIX}NAME(argument=value), or a rule of your own as module:Class "
        f"(default: {listed(default.optimizers)})",
    )
    add(
        "--eps-placement",
        choices=("inside", "outside", "both"),
        help="sqrt(s + eps) or sqrt(s) + eps (default: both)",
    )
    add("--window", type=int, metavar="N", help="past steps that an optax: field uses (default: all)")
    add("--beta", type=float, help=f"decay of the average of gradients (default: {default.beta})")
    add("--rho", type=float, help=f"decay of the average of squared gradients (default: {default.rho})")
    add("--eps", type=float, help="stability constant (default: 1e-3 inside the root, 1e-3**0.5 outside)")
    add("--horizon", type=float, metavar="T", help="time T = steps * h (default: the problem's own)")
    add(
        "--orders",
        type=integers,
        default=default.orders,
        metavar="Q,Q",
        help=f"orders of the flows: 0 (plain), 1 (the paper's), 2, .. {HIGHEST_ORDER} (default: 0,1); "
        f"beyond 1 on {verify.HIGH_ORDER_SAMPLES} samples and for a shorter time, since every evaluation in "
        "mini-batches runs over all remembered steps: two minutes for 0,1,2",
    )
    add(
        "--carried",
        action="store_true",
        help="check the equation with carried memory in place of the flows, in full batch; beta and rho "
        "(default 0.9, 0.999; eps 1e-8) are those at the largest h, and at smaller h memories last equally "
        f"long in time (default optimizers: {listed(CARRIED_OPTIMIZERS)})",
    )
    counts = listed(map(str, default.counts)), listed(map(str, verify.HIGH_ORDER_STEP_COUNTS))
    add(
        "--steps",
        type=integers,
        metavar="N,N,N",
        help=f"three or more increasing step counts (default: {counts[0]}; beyond order 1: {counts[1]})",
    )
    add(
        "--solver",
        choices=sorted(SOLVERS),
        default="tsit5",
        help="diffrax solver, one step per interval; kvaerno5 is implicit and adapts its steps "
        "(default: tsit5)",
    )
    add(
        "--schedule",
        choices=verify.SCHEDULES,
        help="the same order of mini-batches in every epoch, or a new one (default: cyclic)",
    )
    add("--seed", type=int, help="for problems with a random start or random data (default: 0)")
    add(
        "--dtype",
        choices=("float64", "float32"),
        default=default.dtype,
        help="float32 is refused: the flow and the optimizer would round alike (default: float64)",
    )
    add(
        "--out",
        type=folder,
        default=Path("verify"),
        metavar="DIR",
        help="folder for verify.json and the picture, verify.png (default: verify)",
    )
    add_format(command)


def _verify(options: argparse.Namespace) -> int:
    config = _verify_config(options)
    plan = list(verify.cases(config))
    for case in plan:
        case.rule.astype(jnp.dtype(config.dtype))
    require("matplotlib", "tqdm")
    out = check_writable("--out", options.out)

    from tqdm.auto import tqdm

    started = time.perf_counter()
    outcomes: list[Outcome] = []
    total = sum(config.counts) * len(plan)
    with tqdm(total=total, unit="step", leave=False, mininterval=0.5, disable=None) as bar:

        def advance(case: Case, steps: int) -> None:
            bar.set_description(f"{case.problem.name}: {case.label}", refresh=False)
            bar.update(steps)

        for outcome in verify.run(config, advance):
            outcomes.append(outcome)
            bar.clear()
            print(_table(outcome), flush=True)

    (out / "verify.json").write_text(json.dumps(as_json(config, outcomes), indent=1) + "\n")
    picture = out / f"verify.{options.format}"
    plot_studies(_by_problem(outcomes)).savefig(picture)
    status = _status(outcomes)
    print(_summary(outcomes, status, time.perf_counter() - started))
    print(f"written: {out / 'verify.json'}, {picture}")
    return status


def _verify_config(options: argparse.Namespace) -> VerifyConfig:
    """The `VerifyConfig` of the options; raises `ValueError` for anything wrong with them."""
    if options.optimizer is None:
        options.optimizer = CARRIED_OPTIMIZERS if options.carried else VerifyConfig().optimizers
    rules = [rule_named(name) for name in options.optimizer if not name.startswith(PREFIX)]
    known = {name for rule in rules for name in verify.hyperparameters(rule)}
    for name, needs in (("beta", "beta"), ("rho", "rho"), ("eps", "eps"), ("eps_placement", "eps_in_sqrt")):
        if getattr(options, name) is not None and needs not in known:
            msg = f"--{name.replace('_', '-')} has no effect on {', '.join(options.optimizer)}; leave it out"
            raise ValueError(msg)
    for name, needs in (("seed", "seed"), ("schedule", "batches")):
        meant = any(needs in problem_options(problem) for problem in options.problem)
        if getattr(options, name) is not None and not meant:
            msg = f"--{name} has no effect on {', '.join(options.problem)}; leave it out"
            raise ValueError(msg)
    transformations = {name: parse_optax(name) for name in options.optimizer if name.startswith(PREFIX)}
    if options.window is not None:
        check_count("--window", options.window)
        if not transformations:
            msg = f"--window has no effect on {', '.join(options.optimizer)}; leave it out"
            raise ValueError(msg)
    check_wide_dtype(jnp.dtype(options.dtype))
    check_orders(options.orders, HIGHEST_CARRIED_ORDER if options.carried else HIGHEST_ORDER)
    if options.carried and (options.schedule or options.window):
        msg = "--carried is in full batch and looks back for ever: leave out --schedule and --window"
        raise ValueError(msg)
    if options.steps is not None:
        check_step_counts(options.steps)
    if options.seed is not None:
        check_count("--seed", options.seed, least=0)
    if options.horizon is not None:
        check_horizon(options.horizon)
    given = {
        name: getattr(options, name)
        for name in ("beta", "rho", "eps", "horizon", "seed", "schedule")
        if getattr(options, name) is not None
    }
    if options.carried:
        given = {**PRACTICAL, **given, "carried": True}
    placements = ("inside", "outside")
    if options.eps_placement in placements:
        placements = (options.eps_placement,)
    return dataclasses.replace(
        VerifyConfig(),
        problems=options.problem,
        optimizers=options.optimizer,
        eps_placements=placements,
        step_counts=options.steps,
        orders=tuple(dict.fromkeys(options.orders)),
        solver=SOLVERS[options.solver](),
        dtype=options.dtype,
        transformations=transformations,
        window=options.window,
        **given,
    )


def _table(outcome: Outcome) -> str:
    case, study, orders = outcome.case, outcome.study, list(outcome.study.error)
    values = verify.hyperparameter_values(case)
    numbers = [f"{name} {value:g}" for name, value in values.items() if not isinstance(value, bool)]
    lines = [
        f"\n{case.problem.name}: {case.label}  ({', '.join([*numbers, f'T {case.horizon:g}'])})",
        f"  {'h':>10} {'steps':>7}" + "".join(f" {_name(study, q):>16} {'slope':>6}" for q in orders),
    ]
    for i, (h, steps) in enumerate(zip(study.h, study.steps, strict=True)):
        slopes = [f"{study.local_slope[q][i - 1]:6.2f}" if i else " " * 6 for q in orders]
        errors = "".join(
            f" {study.error[q][i]:16.3e} {slope}" for q, slope in zip(orders, slopes, strict=True)
        )
        lines.append(f"  {h:10.3e} {steps:7d}{errors}")
    for q in orders:
        measured = f"slope {study.slope[q]:.3f} +- {study.slope_stderr[q]:.3f}"
        why = study.why[q] if outcome.verdict[q] == study.verdict[q] else ""
        lines.append(
            f"  {_name(study, q)}: {measured}, theory {q + 1}: {outcome.verdict[q]}" + f" ({why})" * bool(why)
        )
    return "\n".join(lines)


def _name(study: Convergence, order: int) -> str:
    return flow_name(order, carried=study.carried)


def _summary(outcomes: list[Outcome], status: int, seconds: float) -> str:
    words = {
        HOLDS: "every slope is what the theorem says",
        CONTRADICTED: "a settled slope contradicts the theorem",
        UNDECIDED: "something is left undecided; --help says how to go on",
    }
    verdicts = [word for outcome in outcomes for word in outcome.verdict.values()]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
    return f"\n{len(verdicts)} slopes: {counts}. So {words[status]}. ({seconds:.0f} s)"


def _status(outcomes: list[Outcome]) -> int:
    verdicts = {word for outcome in outcomes for word in outcome.verdict.values()}
    if "contradicted" in verdicts:
        return CONTRADICTED
    return HOLDS if verdicts == {"holds"} else UNDECIDED


def _by_problem(outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    studies: dict[str, dict[str, Any]] = {}
    for case, study, _ in outcomes:
        studies.setdefault(case.problem.name, {})[case.label] = study
    return studies
