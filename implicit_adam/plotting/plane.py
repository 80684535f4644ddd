"""Plots of runs in a plane of two parameters, and of the distance between flows and iterates."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from implicit_adam.plotting.style import COLOURS, flow_name, new_axes


def plot_level_sets(
    x: np.ndarray, y: np.ndarray, values: np.ndarray, ax: Any = None, *, minimum: float | None = None
) -> Any:
    """Plot contours of values (len(y), len(x)), with as many points between any two neighbouring levels.

    `minimum` is a level drawn thick.
    """
    ax = new_axes() if ax is None else ax
    levels = np.unique(np.quantile(values, np.linspace(0.02, 0.98, 14)))
    ax.contour(x, y, values, levels, colors="0.82", linewidths=0.7, linestyles="solid", zorder=0)
    if minimum is not None:
        ax.contour(x, y, values, [minimum], colors="0.35", linewidths=1.6, zorder=1)
    ax.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
    return ax.figure


def plot_path(
    points: np.ndarray, ax: Any = None, *, label: str = "", colour: Any = None, dashed: bool = False
) -> Any:
    """Plot a trajectory (points, 2): an optimizer as a line, a flow dashed (black by default) on top."""
    ax = new_axes() if ax is None else ax
    look: dict[str, Any] = {"linewidth": 1.6, "zorder": 3, "color": colour}
    if dashed:
        look = {"linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 4, "color": colour or "k"}
    ax.plot(points[:, 0], points[:, 1], label=label or None, **look)
    return ax.figure


def plot_distances(t: np.ndarray, distances: Mapping[int | str, np.ndarray], ax: Any = None) -> Any:
    """Plot the distance of flows to the iterates against time, keyed by the order of the flow or a name."""
    ax = new_axes() if ax is None else ax
    for i, (flow, distance) in enumerate(distances.items()):
        label = flow if isinstance(flow, str) else flow_name(flow)
        # The common start has distance zero.
        ax.semilogy(t[1:], distance[1:], color=COLOURS[i % len(COLOURS)], label=label)
    ax.set(xlabel=r"time $t = nh$", ylabel=r"$\|\tilde\theta(nh) - \theta^{(n)}\|$")
    ax.legend()
    return ax.figure
