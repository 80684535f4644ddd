"""`implicit-adam sweep`: observables over a grid of hyperparameters, as arrays and a picture."""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from implicit_adam.checks.numbers import check_count
from implicit_adam.checks.studies import check_horizon
from implicit_adam.cli.arguments import add_format, axis, folder, integers, names, require, rule_name, setting
from implicit_adam.fields.vector_field import HIGHEST_ORDER
from implicit_adam.files import check_writable
from implicit_adam.losses.problems import PROBLEMS
from implicit_adam.measures.observables import OBSERVABLES
from implicit_adam.plotting import plot_sweep
from implicit_adam.rules import RULES, rule_named
from implicit_adam.studies import ready_sweeps as sweeps
from implicit_adam.sweeps import SweepResult, sweep
from implicit_adam.sweeps.lanes import device_mesh

HYPERPARAMETERS = ("h", "beta", "rho", "eps")
DEFAULTS = {"h": 1e-3}
CHUNKS = 16
ORDERS = (0, 1)

SWEEP = """\
Evaluate over a grid of hyperparameters, as one compiled program over all devices: the sign and size of the
implicit bias (`bias`), the order of the plain and the corrected flow (`order`), or observables of a run to
time T (loss, norms of the gradient, distance to the flow, sharpness). Writes sweep.npz (load it with
ia.SweepResult.load), sweep.json and a picture, sweep.png: curves over one axis, a heat map over two."""

SWEEP_EXAMPLES = """\
examples:
  implicit-adam sweep --beta 0:0.98:32 --rho 0:0.98:32 --eps 1e-6
  implicit-adam sweep --observable order --beta 0:0.8:8 --rho 0.5,0.7,0.9 --horizon 0.5 --steps 100,200,400
  implicit-adam sweep --problem digits --observable loss,two_norm --h log:1e-3:1e-1:9 --seed 0,1,2 --horizon 1
  implicit-adam sweep --problem digits --optimizer adamw --set weight_decay=0,0.1,1 --observable loss

values:
  0.5:0.99:16      16 values from 0.5 to 0.99        0.9,0.99,0.999   these three
  log:1e-4:1e-2:8  8 values with equal ratios        0.9              one value, not swept

observables:
{observables}

An interrupted run (Ctrl-C, kill) keeps its finished chunks in OUT/chunks; --resume continues from there."""


def add_sweep(commands: Any) -> None:
    observables = "\n".join(f"  {name:<19}{one.words}" for name, one in OBSERVABLES.items())
    command = commands.add_parser(
        "sweep",
        help="evaluate observables over a grid of hyperparameters",
        description=SWEEP,
        epilog=SWEEP_EXAMPLES.format(observables=observables),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_sweep)
    add = command.add_argument
    studies = ["bias", "order", *OBSERVABLES]
    add("--problem", choices=sorted(PROBLEMS), default="bilinear", help="the loss (default: bilinear)")
    add(
        "--optimizer",
        type=rule_name,
        default="adam",
        metavar="NAME",
        help=f"{', '.join(RULES)}, or a rule of your own as module:Class (default: adam)",
    )
    add(
        "--observable",
        type=names(studies),
        default=("bias",),
        metavar="NAME[,NAME]",
        help=f"{', '.join(studies)}; bias and order only alone (default: bias)",
    )
    for name in HYPERPARAMETERS:
        add(f"--{name}", type=axis, metavar="VALUES", help=f"values of {name} (default: the optimizer's)")
    add("--seed", type=axis, metavar="VALUES", help="integer seeds for problems with a random start")
    add(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="values of any other hyperparameter of the optimizer",
    )
    add(
        "--eps-placement",
        choices=("inside", "outside"),
        help="sqrt(s + eps) or sqrt(s) + eps (default: the optimizer's)",
    )
    add("--horizon", type=float, default=0.5, metavar="T", help="time T = steps * h of a run (default: 0.5)")
    add(
        "--steps",
        type=integers,
        default=(100, 200, 400),
        metavar="N,N,N",
        help="step counts for `order` (default: 100,200,400)",
    )
    add(
        "--orders",
        type=integers,
        metavar="N,N",
        help=f"orders of the flows for `order`, 0 to {HIGHEST_ORDER} (default: 0,1)",
    )
    add("--every", type=int, default=1, metavar="K", help="observe every K-th step only (default: 1)")
    add("--chunk", type=int, metavar="N", help="grid points to run at a time (default: a sixteenth of all)")
    add("--devices", type=int, metavar="N", help="use N devices; a CPU is split into N (default: all)")
    add("--resume", action="store_true", help="continue from the chunks that an earlier run left in OUT")
    add("--netcdf", action="store_true", help="also write sweep.nc (needs xarray)")
    add("--out", type=folder, default=Path("sweep"), metavar="DIR", help="output folder (default: sweep)")
    add_format(command)


def _sweep(options: argparse.Namespace) -> int:
    mesh = _mesh(options.devices)
    axes, fixed = _split(options)
    point, cost = _study(options, axes, fixed)
    require("matplotlib", "tqdm")
    require(*(["xarray"] if options.netcdf else []), extra="sweeps")
    lanes = int(np.prod([len(values) for values in axes.values()]))
    size = -(-lanes // CHUNKS) if options.chunk is None else check_count("--chunk", options.chunk)
    out = check_writable("--out", options.out)
    chunks = out / "chunks"
    if not options.resume:
        for old in chunks.glob("*.npz"):
            old.unlink()
    try:
        result = sweep(point, axes, chunk_size=size, checkpoint=chunks, mesh=mesh, cost=cost)
    except KeyboardInterrupt:
        again = shlex.join(["implicit-adam", *_arguments(options), "--resume"])
        print(f"\nfinished chunks are kept in {chunks}. To go on:\n  {again}", file=sys.stderr)
        raise
    _write(out, options, result, axes, fixed)
    return 0


def _write(
    out: Path,
    options: argparse.Namespace,
    result: SweepResult,
    axes: dict[str, Any],
    fixed: dict[str, Any],
) -> None:
    result.save(out / "sweep.npz")
    picture = out / f"sweep.{options.format}"
    written = [out / "sweep.npz", out / "sweep.json", picture]
    if options.netcdf:
        result.to_xarray().to_netcdf(out / "sweep.nc")
        written.append(out / "sweep.nc")
    about = {
        "problem": options.problem,
        "optimizer": options.optimizer,
        "observable": options.observable,
        "axes": {name: values.tolist() for name, values in axes.items()},
        "fixed": fixed,
        "horizon": options.horizon,
        "steps": options.steps,
        "orders": options.orders or ORDERS,
        "every": options.every,
    }
    (out / "sweep.json").write_text(json.dumps(about, indent=1) + "\n")
    shown = _shown(options)
    title = f"{options.optimizer} on {options.problem}"
    plot_sweep(result, shown, title=title).savefig(picture)
    for name in shown:
        values = result.variables()[name]
        finite = values[np.isfinite(values)]
        span = f"{finite.min():.4g} .. {finite.max():.4g}" if finite.size else "nothing finite"
        print(f"{name}: {span} over {result.ok.size} points, {int((~result.ok).sum())} of them not finite")
    print(f"written: {', '.join(map(str, written))}")


def _shown(options: argparse.Namespace) -> tuple[str, ...]:
    """The names of the saved variables that are drawn in the picture."""
    if options.observable == ("bias",):
        return ("factor",)
    if options.observable == ("order",):
        return tuple(f"slope_{order}" for order in options.orders or ORDERS)
    return tuple(f"last_{name}" for name in options.observable)


def _split(options: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict[str, float]]:
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


def _study(
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


def _mesh(count: int | None) -> Mesh | None:
    if count is None:
        return None
    check_count("--devices", count)
    # JAX refuses once devices exist; then the existing ones are used.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    if len(jax.devices()) < count:
        msg = f"--devices {count}: there are only {len(jax.devices())}"
        raise ValueError(msg)
    return device_mesh(devices=jax.devices()[:count])


def _arguments(options: argparse.Namespace) -> Sequence[str]:
    """The command-line arguments as given, without --resume."""
    return [argument for argument in options.given if argument != "--resume"]
