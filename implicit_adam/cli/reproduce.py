"""`implicit-adam reproduce`: every figure, table and claim of the paper, run again, with a report."""

import argparse
import contextlib
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from implicit_adam.checks import check_writable
from implicit_adam.cli.arguments import require
from implicit_adam.cli.report import Done, report
from implicit_adam.experiments.claims import Item, named_arrays
from implicit_adam.experiments.reproduce import ITEMS
from implicit_adam.plotting.paper import PICTURES

REPRODUCE = """\
Run the figures, the table and the claims of "On the Implicit Bias of Adam" again and say of each claim
whether
it held, did not hold, or is not decided here, by a stated criterion. Writes report.md and, for each item,
NAME.npz (its arrays) and NAME.png. All items take under half an hour on two cores, --quick under three
minutes:
enough to see that everything runs, too little for the networks to show what they do."""

REPRODUCE_EXAMPLES = """\
examples:
  implicit-adam reproduce
  implicit-adam reproduce --quick --out quick
  implicit-adam reproduce figure2 figure3 theorem

items:
{items}

The exit status is 0 once the report is written, whatever the verdicts; 2 after bad usage."""


def add_reproduce(commands: Any) -> None:
    items = "\n".join(f"  {name:<10} {item.title}" for name, item in ITEMS.items())
    command = commands.add_parser(
        "reproduce",
        help="re-check every figure, table and claim of the paper",
        description=REPRODUCE,
        epilog=REPRODUCE_EXAMPLES.format(items=items),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_reproduce)
    add = command.add_argument
    add("names", nargs="*", metavar="NAME", help="which items (default: all)")
    add("--quick", action="store_true", help="small settings, for a look in three minutes")
    add("--out", default="reproduce", metavar="DIR", help="folder of the report (default: reproduce)")


def _reproduce(options: argparse.Namespace) -> int:
    unknown = [name for name in options.names if name not in ITEMS]
    if unknown:
        msg = f"unknown item {', '.join(unknown)}; known are {', '.join(ITEMS)}"
        raise ValueError(msg)
    require("matplotlib", "tqdm", "sklearn", "scipy")
    folder = check_writable("--out", Path(options.out))
    _use_all_cores()
    done: dict[str, Done] = {}
    for name in options.names or ITEMS:
        item = ITEMS[name]
        done[name] = _run(name, item, item.quick if options.quick else item.config, folder)
        # After every item, so that an interrupted run leaves what it found.
        (folder / "report.md").write_text(report(done, shlex.join(["implicit-adam", *options.given])))
    print(f"written: {folder / 'report.md'}")
    return 0


def _run(name: str, item: Item, config: Any, folder: Any) -> Done:
    from tqdm.auto import tqdm

    started = time.perf_counter()
    with tqdm(total=100, unit="%", desc=name, leave=False, file=sys.stderr, bar_format=_BAR) as bar:

        def advance(share: float) -> None:
            bar.update(100 * share - bar.n)

        found = item.run(config, advance)
    claims = item.claims(config, found)
    arrays: Any = named_arrays(found)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    PICTURES[name](config, found).savefig(folder / f"{name}.png", dpi=150)
    seconds = time.perf_counter() - started
    print(f"\n{item.title}  ({seconds:.0f} s)")
    for claim in claims:
        print(
            f"  {claim.verdict:>16}  {claim.source}: {claim.statement}\n{'':20}{claim.measured}", flush=True
        )
    return Done(item, config, claims, seconds)


_BAR = "{l_bar}{bar}| {elapsed} < {remaining}"


def _use_all_cores() -> None:
    """One device a core for the sweeps; refused once devices exist, and without effect on accelerators."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)
