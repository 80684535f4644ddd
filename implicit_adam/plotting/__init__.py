"""Plots of results with matplotlib, which is imported when first needed; nothing is computed here.

Every function draws on the Axes it is given, or on a new Figure, and returns the Figure.
"""

from implicit_adam.plotting.convergence import plot_convergence as plot_convergence
from implicit_adam.plotting.convergence import plot_studies as plot_studies
from implicit_adam.plotting.curves import plot_curves as plot_curves
from implicit_adam.plotting.curves import plot_parts as plot_parts
from implicit_adam.plotting.curves import plot_trend as plot_trend
from implicit_adam.plotting.diagnosis import plot_errors as plot_errors
from implicit_adam.plotting.diagnosis import plot_layers as plot_layers
from implicit_adam.plotting.diagnosis import plot_probe as plot_probe
from implicit_adam.plotting.plane import plot_distances as plot_distances
from implicit_adam.plotting.plane import plot_level_sets as plot_level_sets
from implicit_adam.plotting.plane import plot_path as plot_path
from implicit_adam.plotting.style import COLOURS as COLOURS
from implicit_adam.plotting.style import MARKERS as MARKERS
from implicit_adam.plotting.style import STYLE as STYLE
from implicit_adam.plotting.style import SYMBOLS as SYMBOLS
from implicit_adam.plotting.style import flow_name as flow_name
from implicit_adam.plotting.style import shades as shades
from implicit_adam.plotting.sweeps import plot_curve as plot_curve
from implicit_adam.plotting.sweeps import plot_heat_map as plot_heat_map
from implicit_adam.plotting.sweeps import plot_sweep as plot_sweep

__all__ = [
    "COLOURS",
    "MARKERS",
    "STYLE",
    "SYMBOLS",
    "flow_name",
    "plot_convergence",
    "plot_curve",
    "plot_curves",
    "plot_distances",
    "plot_errors",
    "plot_heat_map",
    "plot_layers",
    "plot_level_sets",
    "plot_parts",
    "plot_path",
    "plot_probe",
    "plot_studies",
    "plot_sweep",
    "plot_trend",
    "shades",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)
