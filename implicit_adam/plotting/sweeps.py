"""Results over a grid: curves over one axis, heat maps over two."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from implicit_adam.plotting.style import COLOURS, MARKERS, STYLE, new_axes, symbol
from implicit_adam.sweeps import SweepResult


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
                    ax.set_title(f"{symbol(third)} = {value:g}")
        figure.suptitle(title)
    return figure


def plot_curve(result: SweepResult, name: str, ax: Any = None) -> Any:
    """A variable over the only axis of a sweep; points that are not finite are left out.

    Raises `ValueError` for other sweeps and unknown variables.
    """
    values = _variable(result, name, axes=1)
    ax = new_axes() if ax is None else ax
    x = result.coords[result.dims[0]]
    ax.plot(x, values, MARKERS[0] + "-", color=COLOURS[1], linewidth=1)
    _scales(ax, x=x)
    if (values[np.isfinite(values)] > 0).all() and np.nanmax(values) > 100 * np.nanmin(values):
        ax.set_yscale("log")
    ax.set(xlabel=symbol(result.dims[0]), ylabel=symbol(name))
    return ax.figure


def plot_heat_map(result: SweepResult, name: str, ax: Any = None, *, index: tuple[int, ...] = ()) -> Any:
    """A variable over the first two axes of a sweep, `index` fixing the others.

    Where it changes sign the colours diverge at zero, stretched by a root so that both signs show, and a line
    marks the zero; what is not finite stays grey. Raises `ValueError` for sweeps over fewer or more axes and
    for unknown variables.
    """
    from matplotlib.colors import FuncNorm

    found = _variable(result, name, axes=2 + len(index))
    ax = new_axes() if ax is None else ax
    first, second = result.dims[:2]
    x, y = result.coords[first], result.coords[second]
    values = np.ma.masked_invalid(found[(slice(None), slice(None), *index)].T)
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
    ax.set(xlabel=symbol(first), ylabel=symbol(second))
    colours = ax.figure.colorbar(image, ax=ax, label=symbol(name))
    if signed:
        ticks = [-largest, -largest / 8, 0, largest / 8, largest]
        colours.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        colours.ax.minorticks_off()
    return ax.figure


def _variable(result: SweepResult, name: str, axes: int) -> np.ndarray:
    variables = result.variables()
    if name not in variables:
        msg = f"the sweep has no variable {name!r}; it has {', '.join(variables)}"
        raise ValueError(msg)
    shape, dims = variables[name].shape, ", ".join(result.dims) or "none"
    if len(shape) != axes or len(result.dims) != axes:
        msg = (
            f"{name!r} has the shape {shape} over the axes {dims}; a curve takes one axis, a heat map two "
            "and an index for every further one, with one number a point"
        )
        raise ValueError(msg)
    return variables[name]


def _scales(ax: Any, **coords: np.ndarray) -> None:
    """Logarithmic where the values are spaced by equal ratios; few other values are marked themselves."""
    for which, values in coords.items():
        if len(values) > 2 and (values > 0).all() and np.ptp(np.diff(np.log(values))) < 1e-6:
            getattr(ax, f"set_{which}scale")("log")
        elif len(values) <= 6:
            getattr(ax, f"set_{which}ticks")(values)
