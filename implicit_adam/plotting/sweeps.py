"""Plots of sweeps: curves over one axis, heat maps over two."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from implicit_adam.plotting.style import COLOURS, MARKERS, STYLE, new_axes, symbol
from implicit_adam.sweeps import SweepResult


def plot_sweep(result: SweepResult, names: str | Sequence[str], *, title: str = "") -> Any:
    """Plot a sweep, a panel per variable: curves over one axis, heat maps over two, rows over a third.

    Raises `ValueError` for results with more than three axes; select from `to_xarray()` first.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = (names,) if isinstance(names, str) else names
    _check_result(result)
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
    """Plot a variable over the only axis of a sweep; points that are not finite are left out.

    Raises `ValueError` for other sweeps and unknown variables.
    """
    values = _variable(result, name, axes=1)
    ax = new_axes() if ax is None else ax
    x = result.coords[result.dims[0]]
    ax.plot(x, values, MARKERS[0] + "-", color=COLOURS[1], linewidth=1)
    _scales(ax, x=x)
    finite = values[np.isfinite(values)]
    if finite.size and 0 < 100 * finite.min() < finite.max():
        ax.set_yscale("log")
    ax.set(xlabel=symbol(result.dims[0]), ylabel=symbol(name))
    return ax.figure


def plot_heat_map(result: SweepResult, name: str, ax: Any = None, *, index: tuple[int, ...] = ()) -> Any:
    """Plot a variable over the first two axes of a sweep as a heat map; `index` fixes the others.

    Each point is a cell whose edges lie half way to its neighbours, on a logarithmic axis at the geometric
    mean. If the variable changes sign, the colours diverge at zero, stretched by a root so that both signs
    show, and a line marks the zero. Cells that are not finite stay grey. Raises `ValueError` for sweeps over
    fewer or more axes and for unknown variables.
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
    image = ax.pcolormesh(cell_edges(x), cell_edges(y), values, rasterized=True, **kwargs)
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


def _check_result(result: Any) -> None:
    if not isinstance(result, SweepResult):
        msg = f"result must be what ia.sweep or ia.SweepResult.load returns, got a {type(result).__name__}"
        raise ValueError(msg)  # noqa: TRY004


def _variable(result: SweepResult, name: str, axes: int) -> np.ndarray:
    _check_result(result)
    variables = result.variables()
    if not set(result.dims) <= set(result.coords):
        msg = (
            "the sweep is a table of points, which lie along no axis; sweep a product {name: values, ..}, "
            "or draw the columns of to_pandas()"
        )
        raise ValueError(msg)
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
    if np.iscomplexobj(variables[name]):
        msg = f"{name!r} is complex; return its real and imaginary parts by name, or its absolute value"
        raise ValueError(msg)
    return variables[name].astype(float)


def is_logarithmic(values: np.ndarray) -> bool:
    """Whether positive values are spaced more evenly in ratio than in difference."""
    if len(values) < 3 or not (values > 0).all():
        return False
    ratios, differences = np.diff(np.log(values)), np.diff(values)
    return bool(np.std(ratios) / np.mean(ratios) < np.std(differences) / np.mean(differences))


def cell_edges(values: np.ndarray) -> np.ndarray:
    """The edges (len + 1,) of cells around increasing values: half way between neighbours, on their scale."""
    if is_logarithmic(values):
        return np.exp(_half_way(np.log(values)))
    return _half_way(values.astype(float))


def _half_way(values: np.ndarray) -> np.ndarray:
    if len(values) == 1:
        # A cell without neighbours may have any width.
        return values[0] + np.array([-0.5, 0.5]) * (abs(values[0]) or 1.0)
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])


def _scales(ax: Any, **coords: np.ndarray) -> None:
    """Make axes logarithmic where the values are; if there are few short values, they become the ticks."""
    from matplotlib.ticker import NullLocator

    for which, values in coords.items():
        axis = getattr(ax, f"{which}axis")
        if is_logarithmic(values):
            getattr(ax, f"set_{which}scale")("log")
        labels = [f"{value:g}" for value in values]
        if len(values) <= 6 and max(map(len, labels)) <= 6:
            axis.set_ticks(values, labels=labels)
            axis.set_minor_locator(NullLocator())
