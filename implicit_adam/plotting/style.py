"""The style of all pictures: colours for colour-blind readers, and the paper's symbols as labels."""

import re
from typing import Any

NAMES = {0: "plain flow", 1: "corrected flow"}
CARRIED_NAMES = {0: "carried, plain", 1: "carried memory"}


def flow_name(order: int, *, carried: bool = False) -> str:
    """The name of a flow of this order in tables and legends."""
    return CARRIED_NAMES[order] if carried else NAMES.get(order, f"order-{order} flow")


# Okabe & Ito's colours, which colour-blind readers can tell apart, indexed by the order of the flow.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.titlesize": 9,
    "lines.markersize": 4.5,
    "savefig.dpi": 200,
}

SYMBOLS = {
    "h": r"step size $h$",
    "beta": r"$\beta$",
    "rho": r"$\rho$",
    "eps": r"$\varepsilon$",
    "factor": r"mean of the braces of (4)",
    **{f"slope_{order}": f"local slope, {flow_name(order)}" for order in range(4)},
}


def symbol(name: str) -> str:
    """The label of a hyperparameter or measurement."""
    return SYMBOLS.get(name, name.replace("_", " "))


def greek(text: str) -> str:
    """The text with the paper's letters in place of the names of hyperparameters."""
    signs = {"beta": r"$\beta$", "rho": r"$\rho$", "eps": r"$\varepsilon$", ">=": r"$\geq$", ">": "$>$"}
    return re.sub("|".join(rf"(?<!\w){sign}(?!\w)" for sign in signs), lambda m: signs[m[0]], text)


def new_axes() -> Any:
    """The Axes of a new Figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(4, 3.2), layout="constrained").subplots()


def log_ticks(ax: Any) -> None:
    """Label the ticks at 1, 2 and 5 of every decade of a logarithmic x axis, if there are few decades."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    ax.xaxis.set_minor_formatter(NullFormatter())
    if high < 50 * low:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(9, 9)))


def shades(count: int) -> list[Any]:
    """Colours for the values of one hyperparameter, in order from dark to bright."""
    from matplotlib import colormaps

    return [colormaps["cividis"](0.9 * i / max(1, count - 1)) for i in range(count)]
