"""`implicit-adam COMMAND`: parse, run, and turn bad usage into words and exit status 2."""

import argparse
import sys
from collections.abc import Sequence

import jax

from implicit_adam.cli.verify import add_verify

BAD_USAGE = 2

DESCRIPTION = """\
What does an optimizer implicitly do? Its iterates follow a modified differential equation, known by
Theorem 3.1 of "On the Implicit Bias of Adam" to O(h^2). This program checks such claims by running them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    # The program's own choice; the library never touches precision.
    jax.config.update("jax_enable_x64", val=True)
    try:
        return options.run(options)
    except (ValueError, ImportError) as error:
        print(f"implicit-adam: {error}", file=sys.stderr)
        return BAD_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="implicit-adam",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  implicit-adam verify\n\n`implicit-adam verify --help` says more.",
    )
    add_verify(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    return parser
