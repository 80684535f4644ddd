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


def short(name: str) -> str:
    """The letter of a hyperparameter, as a formula."""
    return {"h": "$h$", "beta": r"$\beta$", "rho": r"$\rho$"}[name]
