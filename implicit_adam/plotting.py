"""Arrays to matplotlib figures; nothing is computed here, and matplotlib is imported when first needed.

Every function draws on the Axes it is given, or on a new Figure, and returns the Figure.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from implicit_adam.convergence import Convergence
from implicit_adam.sweeps import SweepResult

# Okabe & Ito's colours, told apart by colour-blind readers, in the order of the flows' orders.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
NAMES = {0: "plain flow", 1: "corrected flow"}

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.markersize": 4.5,
    "savefig.dpi": 200,
}


def flow_name(order: int) -> str:
    """What a flow of this order is called in tables and legends."""
    return NAMES.get(order, f"order-{order} flow")


def plot_convergence(study: Convergence, ax: Any = None, *, title: str = "") -> Any:
    """The errors against h on log-log axes, each with a reference line of its theorem's slope."""
    alone = ax is None
    ax = _new_axes() if alone else ax
    for order, error in study.error.items():
        colour = COLOURS[order % len(COLOURS)]
        marker = MARKERS[order % len(MARKERS)]
        ax.loglog(study.h, error, marker, color=colour, label=flow_name(order))
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
    ax.xaxis.set_minor_formatter("")
    if alone:
        ax.legend()
    return ax.figure


def plot_studies(studies: dict[str, dict[str, Convergence]]) -> Any:
    """A grid of `plot_convergence`: one row per outer key, one panel per inner key."""
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
                plot_convergence(study, ax, title=f"{row}: {name}")
            for ax in panels[1:]:
                ax.set_ylabel("")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        labels = [f"{label} (line: slope {i + 1})" for i, label in enumerate(labels)]
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _new_axes() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(4, 3.2), layout="constrained").subplots()


SYMBOLS = {
    "h": r"step size $h$",
    "beta": r"$\beta$",
    "rho": r"$\rho$",
    "eps": r"$\varepsilon$",
    "factor": r"mean of the braces of (4)",
    "slope_0": "local slope, plain flow",
    "slope_1": "local slope, corrected flow",
}


def plot_sweep(result: SweepResult, names: Sequence[str], *, title: str = "") -> Any:
    """A panel for each variable: curves over one axis, heat maps over two, a row for each value of a third.

    Raises `ValueError` for results with more than three axes: select from `to_xarray()` first.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if len(result.dims) > 3:
        msg = f"a picture takes up to three axes, got {', '.join(result.dims)}; fix some of them"
        raise ValueError(msg)
    third = "".join(result.dims[2:])
    rows = result.coords[third] if third else [None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(names) + 0.6, 3 * len(rows) + 0.4), layout="constrained")
        axes = figure.subplots(len(rows), len(names), squeeze=False)
        for row, (panels, value) in enumerate(zip(axes, rows, strict=True)):
            for ax, name in zip(panels, names, strict=True):
                if len(result.dims) == 1:
                    plot_curve(result, name, ax)
                else:
                    plot_heat_map(result, name, ax, index=() if value is None else (row,))
                if value is not None:
                    ax.set_title(f"{_symbol(third)} = {value:g}")
        figure.suptitle(title)
    return figure


def plot_curve(result: SweepResult, name: str, ax: Any = None) -> Any:
    """A variable over the only axis of a sweep; points that are not finite are left out."""
    ax = _new_axes() if ax is None else ax
    x, values = result.coords[result.dims[0]], result.variables()[name]
    ax.plot(x, values, MARKERS[0] + "-", color=COLOURS[1], linewidth=1)
    _scales(ax, x=x)
    if (values[np.isfinite(values)] > 0).all() and np.nanmax(values) > 100 * np.nanmin(values):
        ax.set_yscale("log")
    ax.set(xlabel=_symbol(result.dims[0]), ylabel=_symbol(name))
    return ax.figure


def plot_heat_map(result: SweepResult, name: str, ax: Any = None, *, index: tuple[int, ...] = ()) -> Any:
    """A variable over the first two axes of a sweep, `index` fixing the others.

    Where it changes sign the colours diverge at zero, stretched by a root so that both signs show, and a line
    marks the zero; what is not finite stays grey.
    """
    from matplotlib.colors import FuncNorm

    ax = _new_axes() if ax is None else ax
    first, second = result.dims[:2]
    x, y = result.coords[first], result.coords[second]
    values = np.ma.masked_invalid(result.variables()[name][(slice(None), slice(None), *index)].T)
    signed = values.count() and values.min() < 0 < values.max()
    kwargs: dict[str, Any] = {"cmap": "cividis"}
    largest = float(abs(values).max()) if signed else 0.0
    if signed:
        stretch = (lambda v: np.cbrt(v / largest), lambda v: v**3 * largest)
        kwargs = {"cmap": "RdBu_r", "norm": FuncNorm(stretch, -largest, largest)}
    image = ax.pcolormesh(x, y, values, shading="nearest", rasterized=True, **kwargs)
    if signed and min(values.shape) > 1:
        ax.contour(x, y, values, [0.0], colors="k", linewidths=1.2)
    ax.set_facecolor("0.8")
    _scales(ax, x=x, y=y)
    ax.set(xlabel=_symbol(first), ylabel=_symbol(second))
    colours = ax.figure.colorbar(image, ax=ax, label=_symbol(name))
    if signed:
        ticks = [-largest, -largest / 8, 0, largest / 8, largest]
        colours.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        colours.ax.minorticks_off()
    return ax.figure


def _scales(ax: Any, **coords: np.ndarray) -> None:
    """Logarithmic where the values are spaced by equal ratios; few other values are marked themselves."""
    for which, values in coords.items():
        if len(values) > 2 and (values > 0).all() and np.ptp(np.diff(np.log(values))) < 1e-6:
            getattr(ax, f"set_{which}scale")("log")
        elif len(values) <= 6:
            getattr(ax, f"set_{which}ticks")(values)


def _symbol(name: str) -> str:
    return SYMBOLS.get(name, name.replace("_", " "))
