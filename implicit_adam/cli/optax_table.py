"""`implicit-adam optax`: the order of each optax optimizer's modified equation, or why there is none."""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from implicit_adam.cli.arguments import folder, require
from implicit_adam.files import check_writable
from implicit_adam.studies import optax_examples, optax_table
from implicit_adam.studies.optax_table import (
    HORIZON,
    OUTSIDE,
    REFUSED,
    STEP_COUNTS,
    SUPPORTED,
    UNSETTLED,
    Row,
)

HELP = """\
Find out which optimizers and wrappers of the installed optax have a modified equation, as ia.Optax does, and
compare the flows of those with the optimizer itself. Writes optax.md; takes two to three minutes on two
cores."""

FILE = "optax.md"
COARSE, FINE = STEP_COUNTS[-2:]
HEAD = f"""\
# Optax's optimizers and their modified equations

Written by `implicit-adam optax` with optax {optax.__version__} and jax {jax.__version__}.

What has a modified equation is found by running it on random gradients, not by its name. Slopes: the power
of h of the largest distance between the optimizer at learning rate h and its flow, plain (order 0, theory 1)
and corrected (order 1, theory 2), between h = {HORIZON:g}/{COARSE} and {HORIZON:g}/{FINE},
on a small network in three mini-batches, float64. Error: that of order 1 at the smaller h, over the way
travelled. Memories are short (decays .5 to .7), so that h times memory is small; with the defaults' .999 the
same slopes need h some hundred times smaller.

* **{SUPPORTED}**: there is a modified equation, and both slopes are the theorem's.
* **{OUTSIDE}**: `ia.flow` runs and warns; the equation is formal. Over this short time its error may still be
  small, but it need not shrink as h^2.
* **{REFUSED}**: `ia.flow` raises a `ValueError` with the reason. `ia.iterate` runs all that need no more than
  the gradient.
* **{UNSETTLED}**: there is an equation and no reason against it, but the slopes are not the theorem's here.

"""
TABLE = """\
| optimizer | arguments | verdict | slope, order 0 | slope, order 1 | error | why |
|---|---|---|---|---|---|---|
"""
OPENINGS = (
    "this transformation's ",
    "this transformation is outside the theorem: ",
    "this transformation ",
)


def add_optax(commands: Any) -> None:
    """Add the command and its options."""
    words = "make a table of which optax optimizers have a modified equation"
    command = commands.add_parser("optax", help=words, description=HELP)
    command.set_defaults(run=_optax)
    command.add_argument(
        "--out", type=folder, default=Path("optax"), metavar="DIR", help=f"folder for {FILE} (default: optax)"
    )


def line(row: Row) -> str:
    """A row in Markdown, with the first sentence of the reason, up to a bracket."""
    numbers = [f"{x:.2f}" if math.isfinite(x) else "" for x in row.slope]
    error = f"{row.error:.0e}" if math.isfinite(row.error) else ""
    cells = [row.name, row.arguments, f"**{row.verdict}**", *numbers, error, _short(row.reason)]
    # In Markdown, two pairs of brackets in a row make a link.
    return f"| {' | '.join(cell.replace('|', '/').replace('][', ']&#91;') for cell in cells)} |"


def table(rows: Sequence[Row]) -> str:
    """The whole page `optax.md` in Markdown."""
    return HEAD + TABLE + "\n".join(line(row) for row in rows) + "\n"


def _short(reason: str) -> str:
    for start in (
        "this transformation's ",
        "this transformation is outside the theorem: ",
        "this transformation ",
    ):
        reason = reason.removeprefix(start)
    for end in (" (as ", " (a ", " (sam", ". ", "; "):
        reason = reason.split(end)[0]
    # Markdown would read it as a tag.
    return reason.replace("<locals>.", "")


def _optax(options: argparse.Namespace) -> int:
    require("tqdm")
    out = check_writable("--out", options.out)
    missing = sorted(set(optax_examples.names()) - set(optax_examples.entries()))
    if missing:
        print(f"not in the table, new in this optax: {', '.join(missing)}", file=sys.stderr)

    from tqdm.auto import tqdm

    started, rows = time.perf_counter(), []
    with tqdm(total=len(optax_examples.entries()), leave=False, file=sys.stderr) as bar:
        for row in optax_table.rows():
            rows.append(row)
            bar.set_description(row.name, refresh=False)
            bar.update()
    (out / FILE).write_text(table(rows))
    verdicts = [row.verdict for row in rows]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
    print(f"{counts} ({time.perf_counter() - started:.0f} s)")
    print(f"written: {out / FILE}")
    return 0
