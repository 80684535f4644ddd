"""Plots of what a run is doing: the rows of a probe, and a diagnosis."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from implicit_adam.diagnosis.verdict import PREDICTS
from implicit_adam.plotting.style import COLOURS, new_axes

# Fields of a probe's rows: label and line.
PARTS = {
    "speed": ("velocity", {"color": "k"}),
    "memory": ("memory", {"color": COLOURS[0], "linestyle": "--"}),
    "decay": ("decay", {"color": COLOURS[2], "linestyle": "-."}),
    "step_correction": ("step", {"color": COLOURS[1], "linestyle": ":"}),
}


def plot_probe(rows: Sequence[Mapping[str, float]], ax: Any = None) -> Any:
    """Plot the sizes of the velocity and its parts in the `rows` of an `ia.Probe`, against the step.

    Sizes are relative to that of the instant, the velocity that the present gradient alone calls for. Parts
    that are zero throughout are left out.
    """
    ax = new_axes() if ax is None else ax
    steps = [row["step"] for row in rows]
    for name, (label, line) in PARTS.items():
        sizes = [row[name] for row in rows]
        if any(sizes):
            ax.plot(steps, sizes, label=label, **line)
    ax.set(xlabel="step", ylabel="size / instant", ylim=(0, None))
    ax.legend()
    return ax.figure


def plot_errors(found: Any, ax: Any = None) -> Any:
    """Plot the measured error of each equation in an `ia.diagnose` result, beside what counts as predicted.

    Errors are after the diagnosis's horizon, in per cent of the distance travelled; those not available are
    left out.
    """
    ax = new_axes() if ax is None else ax
    errors = {name: 100 * float(x) for name, x in found.error.items() if np.isfinite(float(x))}
    ax.barh(range(len(errors)), list(errors.values()), color="0.4")
    allowed = 100 * (PREDICTS + 2 * float(found.sampling_error))
    ax.axvline(allowed, color=COLOURS[0], linestyle="--", linewidth=1, label=f"predicts: {allowed:.2g} %")
    ax.set_yticks(range(len(errors)), list(errors))
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel=f"error after {found.horizon} steps (% of the distance)")
    ax.legend()
    return ax.figure


def plot_layers(found: Any, ax: Any = None) -> Any:
    """Plot for each array of parameters the size of memory and step over that of the instant.

    `found` is an `ia.diagnose` result.
    """
    ax = new_axes() if ax is None else ax
    sizes = {name: float(size) for name, (size, _) in found.layers.items()}
    names = [", ".join(re.findall(r"\w+", name)) for name in sizes]
    ax.barh(range(len(sizes)), list(sizes.values()), color="0.4")
    ax.set_yticks(range(len(sizes)), names)
    ax.invert_yaxis()
    ax.set(xlabel="memory and step / instant", title=f"after {found.step} steps")
    return ax.figure
