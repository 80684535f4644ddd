"""Calls of wrong types, which a type checker refuses before our own words do: in a process without one."""

import subprocess
import sys

REFUSED = """
for call, words in CALLS:
    try:
        call()
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
"""


def check_refused(program):
    """A program that defines CALLS, pairs of a call and of words of the `ValueError` that it must raise."""
    subprocess.run([sys.executable, "-c", program + REFUSED], check=True)
