"""`implicit-adam reproduce`: every figure, table and claim of the paper, run again, with a report."""

import argparse
import contextlib
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from implicit_adam.cli.arguments import add_format, folder, integers, require
from implicit_adam.cli.report import Done, report, written_by
from implicit_adam.cli.updated_report import can_be_updated, updated
from implicit_adam.datasets import CIFAR
from implicit_adam.files import check_writable, named_leaves
from implicit_adam.networks import MODELS, choices
from implicit_adam.networks.named import ACTIVATIONS, DTYPES
from implicit_adam.networks.normalisation import NORMALISATIONS
from implicit_adam.paper.claims import Experiment
from implicit_adam.paper.reproduce import BY_NAME_ONLY, EXPERIMENTS, PAPER_SETTINGS, PaperSetting, on_cifar
from implicit_adam.paper.training.cifar_runs import CifarConfig
from implicit_adam.paper.training.network_runs import NetworkConfig
from implicit_adam.sweeps.maker import cores

REPRODUCE = """\
Run the figures, the table and the claims of "On the Implicit Bias of Adam" again, and say of each claim
whether it held, did not hold, or is not decided here, by a stated criterion. Writes report.md and, for each
experiment, NAME.npz (its arrays) and NAME.png (its picture). Without names it runs all experiments of the
paper, which takes 23 minutes on two cores. With --quick it takes three minutes, enough to see that
everything runs, but too little for verdicts on networks. If the folder already has the report of another
command, only the parts of the named experiments are replaced, each with its own command, time and versions;
runs with --quick or on CIFAR are never mixed with others."""

REPRODUCE_EXAMPLES = """\
examples:
  implicit-adam reproduce
  implicit-adam reproduce --quick --out quick
  implicit-adam reproduce figure2 figure3 theorem
  implicit-adam reproduce figure4 --out reproduce    (brings its part of that report up to date)
  implicit-adam reproduce practical-settings    (beyond the paper; 15 minutes)
  implicit-adam reproduce edge                  (through the edge of stability; 15 minutes)
  implicit-adam reproduce spread                (the spread of mini-batch runs; 5 minutes)
  implicit-adam reproduce leaderboard           (which equation for which settings; 8 minutes)
  implicit-adam reproduce figure4 --dataset cifar10 --data-dir cifar-10-batches-bin --seeds 0,1,2

the paper's own setting, on a GPU:
  With --dataset, Figures 4 to 6 train a network on CIFAR in full batches, accumulated over micro-batches,
  from the official binary files. Each run is kept under OUT/runs, and the same command continues where it
  was stopped. A trend needs at least two seeds. Choices of normalisation: ghost (statistics of each
  micro-batch, as in the paper's code), exact (of the whole batch, in one piece), frozen (measured at the
  start), group or layer.

experiments:
{experiments}

exit status:
  0    the report is written, whatever the verdicts
  2    bad usage, or a file cannot be written
  130  interrupted; the report has the experiments that were finished"""


OUT = "reproduce"
_TRAINING = CifarConfig.training
CIFAR_OPTIONS: dict[str, dict[str, Any]] = {
    "dataset": {"choices": tuple(CIFAR), "help": "train on CIFAR instead of the digits"},
    "data_dir": {"metavar": "DIR", "help": "folder of the official binary files"},
    "model": {"choices": tuple(MODELS), "help": "default: as in the paper, resnet50 or resnet101"},
    "normalisation": {"choices": tuple(NORMALISATIONS), "help": "default: the model's, ghost for ResNets"},
    "activation": {"choices": tuple(ACTIVATIONS), "help": "default: the model's, relu for ResNets"},
    "dtype": {"choices": DTYPES, "help": f"dtype of the forward pass (default: {_TRAINING.dtype})"},
    "width": {"type": int, "help": "channels of the first layer (default: the model's)"},
    "micro_batch": {
        "type": int,
        "metavar": "N",
        "help": f"images per micro-batch (default: {_TRAINING.micro_batch})",
    },
    "epochs": {
        "type": int,
        "metavar": "N",
        "help": f"full-batch steps per run (default: {_TRAINING.epochs})",
    },
    "test_every": {
        "type": int,
        "metavar": "N",
        "help": f"test after every N epochs (default: {_TRAINING.test_every})",
    },
    "h": {"type": float, "help": "step size (default: as in the paper, 7.5e-5 or 1e-4)"},
    "seeds": {"type": integers, "metavar": "N,N", "help": "seeds, one run for each (default: 0,1)"},
    "allow_partial": {
        "action": "store_const",
        "const": True,
        "help": "accept files with fewer records than the official ones",
    },
}


def add_reproduce(commands: Any) -> None:
    experiments = "\n".join(f"  {name:<18} {experiment.title}" for name, experiment in EXPERIMENTS.items())
    command = commands.add_parser(
        "reproduce",
        help="re-check every figure, table and claim of the paper",
        description=REPRODUCE,
        epilog=REPRODUCE_EXAMPLES.format(experiments=experiments),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_reproduce)
    add = command.add_argument
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"the experiments to run (default: all but {', '.join(BY_NAME_ONLY)})",
    )
    add("--quick", action="store_true", help="small settings, to see in three minutes that everything runs")
    cifar = command.add_argument_group("CIFAR (only with --dataset)")
    for name, given in CIFAR_OPTIONS.items():
        cifar.add_argument(f"--{name.replace('_', '-')}", **given)
    add(
        "--out",
        type=folder,
        metavar="DIR",
        help=f"folder of the report (default: {OUT} or, with --quick, {OUT}-quick)",
    )
    add_format(command)


def _reproduce(options: argparse.Namespace) -> int:
    out = options.out or Path(f"{OUT}-quick" if options.quick else OUT)
    experiments = _experiments(options, out)
    require("matplotlib", "tqdm", "sklearn", "scipy")
    command = shlex.join(["implicit-adam", *options.given])
    check_writable("--out", out)
    before = _report_to_update(out / "report.md", command, options)
    _use_all_cores()
    done: dict[str, Done] = {}
    try:
        for name, experiment in experiments.items():
            done[name] = _run(
                name,
                experiment,
                experiment.quick if options.quick else experiment.config,
                out,
                options.format,
            )
            # Written after every experiment, so that an interrupted run leaves its results.
            missing = [name for name in experiments if name not in done]
            if before is None:
                text = report(done, command, quick=options.quick, missing=missing)
            else:
                text = updated(before, done, command, tuple(EXPERIMENTS))
            (out / "report.md").write_text(text)
    except KeyboardInterrupt:
        runs = "; the same command goes on with the runs in it" if options.dataset else ""
        print(
            f"\nwhat was finished ({', '.join(done) or 'no experiment'}) is in {out}{runs}", file=sys.stderr
        )
        raise
    print(f"written: {out / 'report.md'}")
    return 0


def _report_to_update(path: Path, command: str, options: argparse.Namespace) -> str | None:
    """The text of another command's report in which the named parts are to be replaced, or None.

    Raises `ValueError` if another report would be overwritten, which may have taken days, or mixed with runs
    of small settings or on CIFAR.
    """
    if not path.exists():
        return None
    text = path.read_text()
    if any(written_by(command) in line for line in text.splitlines()[:6]):
        return None
    if options.names and not options.quick and not options.dataset and can_be_updated(text):
        return text
    msg = f"{path} was written by another command: name another --out, or remove it"
    raise ValueError(msg)


def _experiments(options: argparse.Namespace, out: Path) -> dict[str, Experiment]:
    """The experiments to run by name; raises `ValueError` for anything wrong with the options."""
    known = tuple(PAPER_SETTINGS) if options.dataset else tuple(EXPERIMENTS)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        about = " with --dataset" if options.dataset else ""
        msg = f"unknown experiment {', '.join(unknown)}; known{about} are {', '.join(known)}"
        raise ValueError(msg)
    names = tuple(dict.fromkeys(options.names)) or tuple(name for name in known if name not in BY_NAME_ONLY)
    if options.dataset is None:
        for name in CIFAR_OPTIONS:
            if getattr(options, name) is not None:
                msg = f"--{name.replace('_', '-')} has no effect without --dataset; leave it out"
                raise ValueError(msg)
        return {name: EXPERIMENTS[name] for name in names}
    if options.quick:
        msg = "--quick has no effect with --dataset; give fewer --epochs"
        raise ValueError(msg)
    return {name: on_cifar(name, lambda *setting: _cifar(options, out, *setting)) for name in names}


def _cifar(
    options: argparse.Namespace, out: Path, network: NetworkConfig, paper: PaperSetting
) -> CifarConfig:
    if options.data_dir is None:
        msg = f"--dataset {options.dataset} needs --data-dir, the folder of its official binary files"
        raise ValueError(msg)
    given = {name: value for name in CIFAR_OPTIONS if (value := getattr(options, name)) is not None}
    chosen = choices(
        given.get("model", paper.model),
        normalisation=options.normalisation,
        activation=options.activation,
        dtype=given.get("dtype", _TRAINING.dtype),
        width=options.width,
    )
    own = {name: given[name] for name in ("micro_batch", "epochs", "test_every") if name in given}
    config = CifarConfig(
        options.data_dir,
        str(out / "runs"),
        network.beta,
        network.rho,
        given.get("h", paper.h),
        options.dataset,
        seeds=given.get("seeds", CifarConfig.seeds),
        allow_partial=bool(options.allow_partial),
        training=replace(_TRAINING, **chosen._asdict(), **own),
    )
    config.load()
    return config


def _run(name: str, experiment: Experiment, config: Any, out: Path, picture: str) -> Done:
    from tqdm.auto import tqdm

    started = time.perf_counter()
    with tqdm(total=100, unit="%", desc=name, leave=False, disable=None, bar_format=_BAR) as bar:

        def advance(share: float) -> None:
            bar.update(100 * share - bar.n)

        found = experiment.run(config, advance)
    claims = experiment.claims(config, found)
    arrays: Any = dict(named_leaves(found, "/"))
    np.savez_compressed(out / f"{name}.npz", **arrays)
    pictures = {name: experiment.picture(config, found)}
    pictures |= {f"{name}-{more}": one for more, one in experiment.more_pictures(config, found).items()}
    for stem, one in pictures.items():
        one.savefig(out / f"{stem}.{picture}", dpi=150)
    seconds = time.perf_counter() - started
    print(f"\n{experiment.title}  ({seconds:.0f} s)")
    for claim in claims:
        print(
            f"  {claim.verdict:>16}  {claim.source}: {claim.statement}\n{'':20}{claim.measured}", flush=True
        )
    return Done(experiment, config, claims, seconds, picture, experiment.tables(config, found))


_BAR = "{l_bar}{bar}| {elapsed} < {remaining}"


def _use_all_cores() -> None:
    """Make one JAX device per CPU core for sweeps; does nothing once devices exist, or on accelerators."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores())
