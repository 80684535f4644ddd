"""`implicit-adam sweep`: observables over a grid of hyperparameters, as arrays and a picture."""

import argparse
import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from implicit_adam.checks.numbers import check_count
from implicit_adam.cli.arguments import (
    add_format,
    axis,
    folder,
    integers,
    names,
    part,
    require,
    rule_name,
    setting,
)
from implicit_adam.cli.sweep_study import HYPERPARAMETERS, ORDERS, split, study
from implicit_adam.fields.vector_field import HIGHEST_ORDER
from implicit_adam.files import check_writable
from implicit_adam.losses.problems import PROBLEMS
from implicit_adam.measures.observables import OBSERVABLES
from implicit_adam.plotting import plot_sweep
from implicit_adam.rules import RULES
from implicit_adam.sweeps import SweepResult, sweep
from implicit_adam.sweeps.lanes import device_mesh

CHUNKS = 16

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

Finished chunks are kept in OUT/chunks. The same command continues from there after Ctrl-C or kill, and shares
the work with others that run at the same time; a different sweep is refused there. As an array of eight Slurm
jobs (--array=0-7), and one afterwards that collects and draws:
  implicit-adam sweep --beta 0:0.98:64 --rho 0:0.98:64 --out DIR --part $SLURM_ARRAY_TASK_ID/8
  implicit-adam sweep --beta 0:0.98:64 --rho 0:0.98:64 --out DIR"""


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
    add(
        "--part",
        type=part,
        metavar="I/K",
        help="only the chunks I, I + K, .. (0/8 .. 7/8: eight parts); the command without it collects them",
    )
    add(
        "--no-same-bits",
        dest="same_bits",
        action="store_false",
        help="also use chunks made on other devices, which agree to rounding only (same_bits=False)",
    )
    add("--netcdf", action="store_true", help="also write sweep.nc (needs xarray)")
    add("--out", type=folder, default=Path("sweep"), metavar="DIR", help="output folder (default: sweep)")
    add_format(command)


def _sweep(options: argparse.Namespace) -> int:
    mesh = _mesh(options.devices)
    axes, fixed = split(options)
    point, cost = study(options, axes, fixed)
    require("matplotlib", "tqdm")
    require(*(["xarray"] if options.netcdf else []), extra="sweeps")
    lanes = int(np.prod([len(values) for values in axes.values()]))
    size = -(-lanes // CHUNKS) if options.chunk is None else check_count("--chunk", options.chunk)
    out = check_writable("--out", options.out)
    chunks = {"checkpoint": out / "chunks", "part": options.part, "same_bits": options.same_bits}
    try:
        result = sweep(point, axes, chunk_size=size, mesh=mesh, cost=cost, **chunks)
    except KeyboardInterrupt:
        again = shlex.join(["implicit-adam", *options.given])
        print(f"\nfinished chunks are kept in {chunks['checkpoint']}. To go on:\n  {again}", file=sys.stderr)
        raise
    if options.part is None:
        _write(out, options, result, axes, fixed)
    else:
        _say_what_was_done(options.part, result, out)
    return 0


def _say_what_was_done(part: tuple[int, int], result: SweepResult, out: Path) -> None:
    i, k = part
    print(
        f"part {i}/{k}: {result.ok.size} points, {int((~result.ok).sum())} of them not finite, are in "
        f"{out / 'chunks'}. The command without --part collects all parts and computes what is missing"
    )


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
