"""Plots of a flow's error against the step size."""

from typing import Any

import numpy as np

from implicit_adam.measures.convergence import Convergence
from implicit_adam.plotting.style import COLOURS, MARKERS, STYLE, flow_name, greek, log_ticks, new_axes


def plot_convergence(study: Convergence, ax: Any = None, *, title: str = "") -> Any:
    """Plot the errors against h on log-log axes, each with a reference line of slope order + 1."""
    if not isinstance(study, Convergence):
        msg = f"study must be what ia.convergence returns, got a {type(study).__name__}"
        raise ValueError(msg)  # noqa: TRY004
    alone = ax is None
    ax = new_axes() if alone else ax
    for order, error in study.error.items():
        colour = COLOURS[order % len(COLOURS)]
        marker = MARKERS[order % len(MARKERS)]
        ax.loglog(study.h, error, marker, color=colour, label=flow_name(order, carried=study.carried))
        reference = error[-1] * (study.h / study.h[-1]) ** (order + 1)
        ax.loglog(study.h, reference, "-", color=colour, linewidth=1, alpha=0.6, zorder=0)
        middle = len(study.h) // 2
        if np.isfinite(study.slope[order]) and np.isfinite(error[middle]):
            ax.annotate(
                f"slope {study.slope[order]:.2f}",
                (study.h[middle], error[middle]),
                xytext=(0, 7),
                textcoords="offset points",
                ha="right",
                color=colour,
            )
    ax.set(title=title, xlabel=r"step size $h$")
    ax.set_ylabel(r"$\sup_n \|\tilde\theta(nh) - \theta^{(n)}\|$")
    log_ticks(ax)
    if alone:
        ax.legend()
    return ax.figure


def plot_studies(studies: dict[str, dict[str, Convergence]]) -> Any:
    """Plot several studies with `plot_convergence`: one row per outer key, one panel per inner key."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows, columns = len(studies), max(len(row) for row in studies.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * columns + 0.8, 2.3 * rows + 0.8), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex="row", sharey="row")
        for panels, (row, by_name) in zip(axes, studies.items(), strict=True):
            for ax in panels[len(by_name) :]:
                ax.set_visible(False)
            for ax, (name, study) in zip(panels, by_name.items(), strict=False):
                plot_convergence(study, ax, title=greek(f"{row}: {name}"))
            for ax in panels[1:]:
                ax.set_ylabel("")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        shown = next(iter(next(iter(studies.values())).values())).error
        labels = [f"{label} (line: slope {order + 1})" for label, order in zip(labels, shown, strict=True)]
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels) if columns > 1 else 1)
    return figure
