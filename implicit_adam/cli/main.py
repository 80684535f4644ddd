"""`implicit-adam COMMAND`: parses the arguments, runs the command, and reports errors with an exit status."""

import argparse
import sys
from collections.abc import Sequence

import jax

from implicit_adam import __version__
from implicit_adam.cli.diagnose import add_diagnose
from implicit_adam.cli.optax_table import add_optax
from implicit_adam.cli.reproduce import add_reproduce
from implicit_adam.cli.sweep import add_sweep
from implicit_adam.cli.verify import add_verify

BAD_USAGE, INTERRUPTED = 2, 130

DESCRIPTION = """\
What does an optimizer implicitly do? Its iterates follow a modified differential equation up to O(h^2)
(Theorem 3.1 of "On the Implicit Bias of Adam"). This program checks such claims by running them."""


EPILOG = """\
examples:
  implicit-adam verify
  implicit-adam diagnose --problem digits --optimizer adam --h 1e-3 --steps 200
  implicit-adam reproduce --quick
  implicit-adam sweep --beta 0:0.98:32 --rho 0:0.98:32 --eps 1e-6

`implicit-adam COMMAND --help` describes each command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        options = _parser().parse_args(given)
        options.given = given
    except SystemExit as stop:
        return int(stop.code or 0)
    # This is the program's choice; the library never sets the precision.
    jax.config.update("jax_enable_x64", val=True)
    try:
        return options.run(options)
    except (ValueError, ImportError, OSError) as error:
        print("\n".join([f"implicit-adam: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("implicit-adam: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="implicit-adam",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_verify(commands)
    add_diagnose(commands)
    add_sweep(commands)
    add_reproduce(commands)
    add_optax(commands)
    return parser
