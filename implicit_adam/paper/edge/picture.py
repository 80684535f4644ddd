"""The picture of Adam and the equations at the edge of stability."""

from typing import Any

import numpy as np

from implicit_adam.paper.edge.claims import CENTRE
from implicit_adam.paper.edge.runs import ADAM, CARRIED, CLOSURE, NEARBY, Curves, Edge, EdgeConfig
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS

LINES: dict[str, dict[str, Any]] = {
    ADAM: {"color": "0.7", "linewidth": 3.0},
    NEARBY: {"color": "0.5", "linewidth": 0.8, "linestyle": ":"},
    CARRIED: {"color": COLOURS[0], "linewidth": 1.0},
    CLOSURE: {"color": "k", "linewidth": 1.2},
}


@styled
def picture(config: EdgeConfig, found: Edge) -> Any:
    """Loss, eigenvalue over threshold, amplitude and error, a row for each network."""
    figure, axes = panels(len(config.networks), 4, 2.6, 2.1)
    for row, network in zip(axes, config.networks, strict=True):
        _row(row, config, found.steps, found.curves[network])
        row[0].set_ylabel(network)
    titles = (f"loss, mean of {config.mean} steps", "eigenvalue / threshold", "amplitude", "error / distance")
    for first, last, title in zip(axes[0], axes[-1], titles, strict=True):
        first.set_title(title)
        last.set_xlabel("step")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _row(row: Any, config: EdgeConfig, steps: np.ndarray, curves: dict[str, Curves]) -> None:
    ends = np.arange(config.mean, config.steps + 1, config.mean)
    for name, line in LINES.items():
        one = curves[name]
        row[0].semilogy(ends - config.mean / 2, one.mean_loss, label=name, **line)
        row[1].plot(ends, one.eigenvalue, **line)
        row[2].semilogy(steps, np.where(one.amplitude > 0, one.amplitude, np.nan), **line)
        if name != ADAM:
            row[3].semilogy(ends, one.error, **line)
    row[1].axhline(1, color="0.85", linewidth=0.8, zorder=0)
    row[3].axhline(CENTRE, color="0.85", linewidth=0.8, zorder=0)
