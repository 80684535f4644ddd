"""`implicit-adam diagnose`: what an optimizer does along a run, and what a change would do."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.checks.imported import imported
from implicit_adam.checks.numbers import check_count
from implicit_adam.cli.arguments import integers
from implicit_adam.cli.optax_names import PREFIX, parse_optax
from implicit_adam.diagnosis.advise import LOOKS, advise
from implicit_adam.diagnosis.diagnose import diagnose
from implicit_adam.files import check_writable
from implicit_adam.losses.problems import PROBLEMS, Problem
from implicit_adam.rules import RULES, Optax, rule_named
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.optimizer_run import advanced

DESCRIPTION = """\
Run an optimizer on a problem and say, after given numbers of steps, what it is doing there: which equation
predicts its next steps (measured), what its memories contribute, whether they increase or reduce the one-norm
of the gradient, and how close the edge of stability is. Takes a minute per optimizer on two cores, most of
it compilation."""

# Over how many steps, where --advise does not tell.
ADVISE = 200

EXAMPLES = """\
examples:
  implicit-adam diagnose
  implicit-adam diagnose --problem digits --optimizer adam --h 1e-3 --steps 50,500 --out run.jsonl
  implicit-adam diagnose --optimizer 'optax:adamw(weight_decay=0.1)' --h 3e-3
  implicit-adam diagnose --problem mymodule:problem --optimizer rmsprop --rho 0.99
  implicit-adam diagnose --problem digits --steps 200 --advise 100

A problem of your own is a function that returns (loss, params) or (loss, params, batches), in a module that
Python can import or that is in the current folder."""


def add_diagnose(commands: Any) -> None:
    command = commands.add_parser(
        "diagnose",
        help="say what an optimizer is doing along a run, and which equation predicts it",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_run)
    add = command.add_argument
    problems = f"{', '.join(PROBLEMS)}, or your own as module:function (default: digits)"
    add("--problem", default="digits", metavar="NAME", help=problems)
    optimizers = f"{', '.join(RULES)}, {PREFIX}NAME(argument=value), or a rule of your own as module:Class"
    add("--optimizer", default="adam", metavar="NAME", help=f"{optimizers} (default: adam)")
    add("--h", type=float, default=1e-3, help="the step size (default: 1e-3)")
    for name in ("beta", "rho", "eps"):
        add(f"--{name}", type=float, help=f"{name} of the optimizer (default: as in optax)")
    add("--full-batch", action="store_true", help="train on the mean over the mini-batches as one loss")
    steps = "numbers of steps after which to diagnose (default: 20,200)"
    add("--steps", type=integers, default=(20, 200), metavar="N,N", help=steps)
    add("--horizon", type=int, default=20, metavar="N", help="how many steps to predict (default: 20)")
    add(
        "--advise",
        type=int,
        nargs="?",
        const=ADVISE,
        metavar="N",
        help="also predict what another step size, memory or batch size would do to the loss after N more "
        f"steps (default: {ADVISE}); takes ten to forty seconds more to compile",
    )
    add("--out", type=Path, metavar="FILE", help="append all numbers to FILE, one JSON object per line")


def _run(options: argparse.Namespace) -> int:
    out: Path | None = options.out
    if out is not None:
        check_writable("the folder of --out", out.parent)
    rule, problem = _rule(options), _problem(options.problem)
    loss, batches = problem.loss, problem.batches
    if options.full_batch:
        loss, batches = problem.mean_loss, None
    if options.advise is not None:
        check_count("--advise", options.advise, least=LOOKS)
    looks = sorted({check_count("--steps", n) for n in options.steps})
    params, state, done = problem.params, None, 0
    for n in looks:
        print(f"{rule} on {problem.name}, step {n} ..", file=sys.stderr, flush=True)
        params, state = advanced(rule, loss, params, state, n - done, batches=batches, first=done)
        done = n
        found = diagnose(
            rule, loss, params, opt_state=state, batches=batches, horizon=options.horizon, step=n
        )
        print(f"after {n} steps\n{found}\n", flush=True)
        row = {"optimizer": str(rule), "problem": problem.name, "verdict": found.verdict}
        row |= {"equation": found.equation} | found.numbers()
        try:
            if options.advise is not None:
                advice = advise(
                    rule, loss, params, opt_state=state, batches=batches, steps=options.advise, step=n
                )
                print(f"{advice}\n", flush=True)
                row |= {"advice": advice.verdict}
                row |= {f"advice/{name}": x for name, x in advice.numbers().items()}
        finally:
            # Where the advice is refused, the diagnosis is kept.
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    return 0


def _rule(options: argparse.Namespace) -> AbstractOptimizer:
    given = {name: getattr(options, name) for name in ("beta", "rho", "eps")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.optimizer.startswith(PREFIX):
        if given:
            msg = f"--{next(iter(given))}: an optax optimizer takes its own arguments in its name, as b1=0.9"
            raise ValueError(msg)
        return Optax(options.h, parse_optax(options.optimizer))
    kind = rule_named(options.optimizer)
    unknown = set(given) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        msg = f"--{min(unknown)}: {kind.__name__} has no {min(unknown)}"
        raise ValueError(msg)
    values: dict[str, Any] = {"h": options.h, **given}
    return kind(**values)


def _problem(name: str) -> Problem:
    if name in PROBLEMS:
        return PROBLEMS[name]()
    made = imported(
        name,
        f"unknown problem {name!r}; known are {', '.join(PROBLEMS)}, and your own as module:function",
        "name a function as module:function, for example mine:problem of ./mine.py",
    )()
    if not (isinstance(made, tuple) and len(made) in (2, 3)):
        msg = f"{name}() must return (loss, params) or (loss, params, batches), got {type(made).__name__}"
        raise ValueError(msg)
    return Problem(name, made[0], jax.tree.map(jnp.asarray, made[1]), *made[2:])
