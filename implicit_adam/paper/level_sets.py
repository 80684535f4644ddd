"""Level sets 4 theta_1 theta_2 - 3 = c of the bilinear model, and where paths (steps, 2) cross them."""

from typing import Any

import numpy as np

from implicit_adam.plotting.plane import plot_level_sets


def level_of(points: np.ndarray) -> np.ndarray:
    """The level c = 4 theta_1 theta_2 - 3 of every point."""
    return 4 * points[:, 0] * points[:, 1] - 3


def going_down(points: np.ndarray) -> np.ndarray:
    """(steps,) a mask that is true until the level of a path first rises."""
    return np.logical_and.accumulate(np.diff(level_of(points), prepend=np.inf) < 0)


def sums_at(points: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """theta_1 + theta_2 where a path with a falling level crosses the levels; NaN beyond its last level."""
    level = level_of(points)
    sums = np.interp(levels, level[::-1], points.sum(axis=1)[::-1])
    return np.where(levels >= level[-1], sums, np.nan)


def meeting_point(points: np.ndarray) -> np.ndarray:
    """The point where the level first falls to zero, interpolated linearly between two steps."""
    level = level_of(points)
    below = np.flatnonzero(level <= 0)
    if len(below) == 0:
        return np.full(2, np.nan)
    k = below[0]
    share = level[k - 1] / (level[k - 1] - level[k])
    return points[k - 1] + share * (points[k] - points[k - 1])


def draw_level_sets(ax: Any, low: tuple[float, float], high: tuple[float, float]) -> None:
    x, y = np.linspace(low[0], high[0], 200), np.linspace(low[1], high[1], 200)
    # The signed root of the loss, up to a factor, has the level sets of the loss, but evenly spaced.
    plot_level_sets(x, y, 4 * x[None] * y[:, None] - 3, ax, minimum=0.0)
