"""Shared by the pictures in `paper/`: panels in the package's style, and short names."""

import functools
from collections.abc import Callable
from typing import Any

from implicit_adam.plotting.style import STYLE

Picture = Callable[[Any, Any], Any]
NORM = r"$\|\nabla E\|_{1,\varepsilon}$"


def styled(picture: Picture) -> Picture:
    """Decorator: draw the whole picture in the package's matplotlib style."""

    @functools.wraps(picture)
    def drawn(config: Any, found: Any) -> Any:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return picture(config, found)

    return drawn


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A Figure and its Axes (rows, columns); `width` and `height` are those of one panel, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def paired_panels(count: int, columns: int, width: float, height: float) -> tuple[Any, list[tuple[Any, Any]]]:
    """A Figure and `count` pairs of Axes, the second below the first, at most `columns` pairs in a row."""
    rows, columns = -(-count // columns), min(count, columns)
    figure, axes = panels(2 * rows, columns, width, height)
    pairs = [
        (axes[2 * row, column], axes[2 * row + 1, column]) for row in range(rows) for column in range(columns)
    ]
    for pair in pairs[count:]:
        for ax in pair:
            ax.set_axis_off()
    return figure, pairs[:count]


def short(name: str) -> str:
    """The letter of a hyperparameter, as a formula."""
    return {"h": "$h$", "beta": r"$\beta$", "rho": r"$\rho$"}[name]
