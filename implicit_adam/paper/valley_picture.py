"""The picture of Figures 2 and 3: the shifts, a small panel for each value, and the trajectories."""

from typing import Any

import numpy as np

from implicit_adam.paper.level_sets import draw_level_sets
from implicit_adam.paper.valley import BilinearConfig, Family, Varied
from implicit_adam.plotting.panels import short, styled
from implicit_adam.plotting.plane import plot_path
from implicit_adam.plotting.style import COLOURS, shades

CROSS = (0.75**0.5, 0.75**0.5)
LINES: dict[str, dict[str, Any]] = {
    "adam_sum": {"color": "0.7", "linewidth": 4.5, "label": "Adam"},
    "flow_sum": {"color": COLOURS[1], "linewidth": 1.4, "label": "order 1, as far as it is valid"},
    "second_sum": {"color": COLOURS[2], "linewidth": 1.4, "linestyle": "--", "label": "order 2"},
    "carried_sum": {"color": "k", "linewidth": 1.0, "label": "carried memory"},
}


@styled
def picture(config: BilinearConfig, found: tuple[Family, ...]) -> Any:
    """A row for each family: the shift of the one-norm from the plain flow's per value, and the plane."""
    from matplotlib.figure import Figure

    count = max(len(family.values) for family in found)
    figure = Figure(figsize=(1.35 * count + 3.6, 3.0 * len(found)), layout="constrained")
    parts = figure.subfigures(len(found), 1, squeeze=False)[:, 0]
    for i, (part, varied, family) in enumerate(zip(parts, config.families, found, strict=True)):
        axes = part.subplots(1, count + 1, width_ratios=[1] * count + [2.4], squeeze=False)[0]
        _shifts(axes[:count], varied, family)
        _plane(axes[-1], varied, family)
        if i == 0:
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=len(LINES))
    return figure


def _shifts(axes: Any, varied: Varied, family: Family) -> None:
    """Draw the shifts as small panels with the same scale."""
    shares = {name: 100 * (getattr(family, name) / family.plain_sum - 1) for name in LINES}
    adam = shares["adam_sum"][np.isfinite(shares["adam_sum"])]
    low, high = min(adam.min(), 0), max(adam.max(), 0)
    room = 0.15 * (high - low)
    for i, (ax, value) in enumerate(zip(axes, family.values, strict=False)):
        for name, look in LINES.items():
            ax.semilogx(family.levels, shares[name][i], **look)
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        ax.invert_xaxis()
        ax.set(ylim=(low - room, high + room), title=f"{short(varied.name)} = {value:g}")
        ax.set_xticks([10, 1], labels=["10", "1"])
        ax.minorticks_off()
        if i:
            ax.tick_params(labelleft=False)
    for ax in axes[len(family.values) :]:
        ax.set_axis_off()
    axes[0].set_ylabel(r"$\|\nabla E\|_1$ beyond the plain flow's (%)")
    axes[len(family.values) // 2].set_xlabel(
        r"level $c = 4\theta_1\theta_2 - 3$, on the way down to the valley"
    )


def _plane(plane: Any, varied: Varied, family: Family) -> None:
    """Draw the trajectories, with an inset where they meet the valley."""
    draw_level_sets(plane, (0.3, 0.6), (2.95, 3.65))
    low, high = _around(family)
    inset = plane.inset_axes((0.6, 0.06, 0.38, 0.4))
    draw_level_sets(inset, low, high)
    for i, colour in enumerate(shades(len(family.values))):
        plot_path(family.adam[i], plane, label=f"{varied.values[i]:g}", colour=colour)
        plot_path(family.flow[i], plane, dashed=True)
        plot_path(family.adam[i], inset, colour=colour)
    inset.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="", ylabel="")
    inset.locator_params(nbins=2)
    inset.tick_params(labelsize=6, labeltop=True, labelbottom=False, bottom=False, top=True, pad=1)
    inset.spines[:].set_visible(True)
    plane.indicate_inset_zoom(inset, edgecolor="0.3")
    plane.plot(*CROSS, "x", color="k", markersize=7, markeredgewidth=1.8, zorder=5)
    fixed = ", ".join(f"{short(name)} = {value:g}" for name, value in varied.fixed if name != "eps")
    plane.set_title(f"Adam's paths; {fixed}\n(dashed: order 1; cross: least one-norm)", fontsize=8)
    plane.legend(title=short(varied.name), loc="upper left", fontsize=7)


def _around(family: Family) -> tuple[tuple[float, float], tuple[float, float]]:
    """A square around the meeting points."""
    met = family.met[np.isfinite(family.met).all(axis=1)]
    middle, half = (met.min(axis=0) + met.max(axis=0)) / 2, 0.75 * max(np.ptp(met, axis=0).max(), 0.02)
    return tuple(middle - half), tuple(middle + half)
