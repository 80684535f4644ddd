"""The axes of `implicit-adam sweep` and the function that it evaluates, with all checks of the options."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from implicit_adam.checks.numbers import check_count
from implicit_adam.checks.studies import check_horizon
from implicit_adam.losses.problems import PROBLEMS
from implicit_adam.rules import rule_named
from implicit_adam.studies import ready_sweeps as sweeps

HYPERPARAMETERS = ("h", "beta", "rho", "eps")
DEFAULTS = {"h": 1e-3}
ORDERS = (0, 1)


def split(options: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The axes to sweep and the fixed values, by the names of the rule's hyperparameters."""
    given = {name: getattr(options, name) for name in HYPERPARAMETERS if getattr(options, name) is not None}
    for name, values in options.set:
        if name in given:
            msg = f"--set {name}: given twice"
            raise ValueError(msg)
        given[name] = values
    known = [
        field.name for field in fields(rule_named(options.optimizer)) if field.type not in (bool, "bool")
    ]
    for name in given:
        if name not in known:
            msg = f"{options.optimizer} has no hyperparameter {name}; it has {', '.join(known)}"
            raise ValueError(msg)
    if options.seed is not None:
        if (options.seed != np.round(options.seed)).any() or (options.seed < 0).any():
            msg = "--seed must be integers >= 0"
            raise ValueError(msg)
        given["seed"] = options.seed.astype(int)
    axes = {name: values for name, values in given.items() if len(values) > 1}
    if not axes:
        msg = "nothing to sweep; give at least one option several values, e.g. --beta 0:0.98:32"
        raise ValueError(msg)
    fixed = {name: values[0].item() for name, values in given.items() if len(values) == 1}
    return axes, {**DEFAULTS, **fixed} if "h" not in axes else fixed


def study(
    options: argparse.Namespace, axes: dict[str, np.ndarray], fixed: dict[str, float]
) -> tuple[Callable[..., Any], Callable[..., float] | None]:
    """fn for `sweep`, and the cost of its lanes; raises `ValueError` for anything wrong with the options."""
    placement: dict[str, Any] = {}
    if options.eps_placement is not None:
        if "eps_in_sqrt" not in [field.name for field in fields(rule_named(options.optimizer))]:
            msg = f"--eps-placement has no effect on {options.optimizer}; leave it out"
            raise ValueError(msg)
        placement["eps_in_sqrt"] = options.eps_placement == "inside"
    constants = {name: value for name, value in fixed.items() if name != "seed"}

    def build(**point: Any) -> Any:
        return rule_named(options.optimizer)(**constants, **point, **placement)

    swept = {name: values for name, values in axes.items() if name != "seed"}
    for pick in (np.argmin, np.argmax):
        build(**{name: values[pick(values)] for name, values in swept.items()})
    alone = {"bias", "order"} & set(options.observable)
    if alone and len(options.observable) > 1:
        msg = f"--observable {alone.pop()} stands alone; the others are measured along runs"
        raise ValueError(msg)
    if options.orders is not None and "order" not in alone:
        msg = "--orders belongs to --observable order; leave it out"
        raise ValueError(msg)
    if "order" in alone and "h" in axes:
        msg = "--observable order sets h = T / steps itself; leave --h out"
        raise ValueError(msg)
    check_horizon(options.horizon)
    if alone and ("seed" in axes or "seed" in fixed):
        msg = f"--seed has no effect on --observable {alone.pop()}; leave it out"
        raise ValueError(msg)
    longest = max(axes.get("h", [fixed.get("h", 0.0)]))
    if not alone and options.horizon < longest / 2:
        msg = f"--horizon {options.horizon:g} is less than one step of h = {longest:g}"
        raise ValueError(msg)
    problem, seed = PROBLEMS[options.problem](), fixed.get("seed")
    if problem.start is None and ("seed" in axes or seed is not None):
        msg = f"--seed has no effect on {options.problem}; leave it out"
        raise ValueError(msg)
    if "bias" in alone:
        return sweeps.bias_at(build, problem), None
    if "order" in alone:
        kwargs = {
            "horizon": options.horizon,
            "step_counts": options.steps,
            "orders": options.orders or ORDERS,
        }
        return sweeps.order_at(build, problem, **kwargs), None
    if problem.start is not None and seed is not None:
        problem = problem._replace(params=problem.start(int(seed)))
    check_count("--every", options.every)
    at = sweeps.observables_at(
        build, problem, options.observable, horizon=options.horizon, every=options.every
    )
    return at, sweeps.run_length(fixed.get("h", DEFAULTS["h"])) if "h" in axes else None
