"""Errors as text."""

import numpy as np


def error(x: float) -> str:
    """A relative error as text; infinite for a run that overflowed."""
    return "diverges" if np.isinf(x) else percent(x)


def percent(x: float) -> str:
    """A relative error as a percentage with two digits."""
    if not x < 100:
        return "not run" if np.isnan(x) else "more than a hundredfold"
    return f"{x:.0%}" if x >= 0.1 else f"{100 * x:.2g}%" if x >= 1e-6 else "below 0.0001%"
