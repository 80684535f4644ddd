"""The command line, `implicit-adam`: the only part that prints."""

from implicit_adam.cli.main import main as main
