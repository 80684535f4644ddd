"""Plots of measurements along runs, and of their dependence on a hyperparameter."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from implicit_adam.plotting.style import COLOURS, MARKERS, new_axes, shades


def plot_curves(x: np.ndarray, curves: Mapping[str, np.ndarray], ax: Any = None) -> Any:
    """Plot curves (seeds, len(x)), by label, each as its mean and a band from the lowest to the highest seed.

    The labels are in the order of a hyperparameter, which the colours follow.
    """
    ax = new_axes() if ax is None else ax
    for (label, curve), colour in zip(curves.items(), shades(len(curves)), strict=True):
        curve = np.atleast_2d(curve)
        ax.plot(x, curve.mean(axis=0), color=colour, linewidth=1.2, label=label)
        if len(curve) > 1:
            ax.fill_between(x, curve.min(axis=0), curve.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    ax.legend()
    return ax.figure


def plot_trend(values: Any, measured: Any, ax: Any = None, *, kept: Any = None) -> Any:
    """Plot measurements (values, seeds) against evenly spaced values: the mean, and in grey every seed.

    `kept` (values,), if given, marks the means that count; the others are drawn hollow.
    """
    ax = new_axes() if ax is None else ax
    measured = np.asarray(measured, float).reshape(len(values), -1)
    hollow = np.zeros(len(values), bool) if kept is None else ~np.asarray(kept, bool)
    place, mean = np.arange(len(values)), measured.mean(axis=1)
    look = {"color": COLOURS[1], "markersize": 6, "zorder": 3}
    ax.plot(place, mean, color=COLOURS[1], linewidth=1.2, zorder=2)
    ax.plot(place[~hollow], mean[~hollow], MARKERS[0], **look)
    ax.plot(place[hollow], mean[hollow], MARKERS[0], markerfacecolor="white", **look)
    if measured.shape[1] > 1:
        ax.plot(place, measured, ".-", color="0.7", markersize=4, linewidth=0.6, zorder=1)
    ax.set_xticks(place, labels=[f"{value:g}" for value in values])
    return ax.figure


def plot_parts(n: np.ndarray, parts: Mapping[str, np.ndarray], ax: Any = None) -> Any:
    """Plot the parts of a field against the step number, on a logarithmic scale."""
    ax = new_axes() if ax is None else ax
    for i, (name, part) in enumerate(parts.items()):
        ax.semilogy(n, part, color=COLOURS[i % len(COLOURS)], linewidth=1.2, label=name)
    ax.set(xlabel="step $n$")
    ax.legend()
    return ax.figure
