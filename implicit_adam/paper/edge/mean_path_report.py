"""The mean path at the edge as an experiment of the report: a table, verdicts, a picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from implicit_adam.paper.claims import Claim, Experiment, Table, decided
from implicit_adam.paper.edge.claims import CENTRE, EIGENVALUE, LOSS
from implicit_adam.paper.edge.mean_path import (
    CARRIED,
    CENTRAL,
    CLOSURE,
    EQUATIONS,
    NEARBY,
    OPTIMIZER,
    Case,
    MeanPathConfig,
    MeanPaths,
    Off,
    run,
)
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS

LINES: dict[str, dict[str, Any]] = {
    OPTIMIZER: {"color": "0.7", "linewidth": 3.0},
    NEARBY: {"color": "0.5", "linewidth": 0.8, "linestyle": ":"},
    CARRIED: {"color": COLOURS[0], "linewidth": 1.0},
    CLOSURE: {"color": "k", "linewidth": 1.2},
    CENTRAL: {"color": COLOURS[1], "linewidth": 1.2, "linestyle": "--"},
}


def claims(config: MeanPathConfig, found: MeanPaths) -> tuple[Claim, ...]:
    """Three claims for each optimizer: mean path, mean loss, top eigenvalue."""
    return tuple(claim for case in config.cases for claim in _of(str(case), found.off[str(case)]))


def _of(case: str, off: dict[str, Off]) -> Iterator[Claim]:
    wanted = (
        ("mean path", CENTRE, "of the distance travelled", lambda one: one.centre),
        ("mean loss", LOSS, "of the optimizer's", lambda one: np.abs(one.loss - 1)),
        ("top eigenvalue", EIGENVALUE, "of the optimizer's", lambda one: np.abs(one.eigenvalue - 1)),
    )
    for what, close, of, error in wanted:
        largest = error(off[CENTRAL]).max()
        yield Claim(
            "beyond the paper",
            f"{case}: the central flow has the {what} of the optimizer in every stretch.",
            f"within {close:.0%} {of} (by more: it did not hold)",
            "; ".join(f"{name}: at most {error(off[name]).max():.2%}" for name in EQUATIONS),
            decided(held=largest <= close, refuted=largest > close),
        )


def tables(config: MeanPathConfig, found: MeanPaths) -> tuple[Table, ...]:
    """The errors for every optimizer and equation: the largest and the median over the stretches."""
    head = ("optimizer", "equation", "mean path, of the distance", "mean loss", "top eigenvalue")
    rows = tuple(
        (str(case), name, *map(_both, _errors(found.off[str(case)][name])))
        for case in config.cases
        for name in EQUATIONS
    )
    return (Table("Errors in stretches: at most / in the median", head, rows),)


def _errors(off: Off) -> tuple[np.ndarray, ...]:
    return off.centre, np.abs(off.loss - 1), np.abs(off.eigenvalue - 1)


def _both(errors: np.ndarray) -> str:
    return f"{errors.max():.2%} / {np.median(errors):.2%}"


@styled
def picture(config: MeanPathConfig, found: MeanPaths) -> Any:
    """Mean loss, eigenvalue and error of the mean path, a row for each optimizer."""
    figure, axes = panels(len(config.cases), 3, 2.6, 2.1)
    for row, case in zip(axes, config.cases, strict=True):
        _row(row, config, case, found)
    for first, last, title in zip(
        axes[0], axes[-1], ("mean loss", "eigenvalue / threshold", "error / distance"), strict=True
    ):
        first.set_title(title)
        last.set_xlabel("step")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _row(row: Any, config: MeanPathConfig, case: Case, found: MeanPaths) -> None:
    own, off = found.optimizer[str(case)], found.off[str(case)]
    steps = np.arange(3 * config.mean / 2, case.steps, config.mean)
    one = np.ones_like(own.loss)
    for name, line in LINES.items():
        its = Off(one, one, one) if name == OPTIMIZER else off[name]
        row[0].semilogy(steps, its.loss * own.loss, label=name, **line)
        row[1].plot(steps, its.eigenvalue * own.eigenvalue, **line)
        if name != OPTIMIZER:
            row[2].semilogy(steps, its.centre, **line)
    row[0].set_ylabel(case.rule + "\n" + ", ".join(f"{x:g}" for x in case.arguments))
    row[1].axhline(1, color="0.85", linewidth=0.8, zorder=0)
    row[2].axhline(CENTRE, color="0.85", linewidth=0.8, zorder=0)


CENTRAL_FLOW = Experiment(
    "Beyond the theorem: the central flow at the edge of stability",
    "a small network on digits",
    MeanPathConfig(),
    MeanPathConfig(cases=(Case("GradientDescent", (0.25,), 60),), samples=30, mean=20),
    run,
    claims,
    picture,
    "Squared loss, full batch. Everything is a mean over a stretch of steps, of the optimizer over its "
    "iterates, so that bursts, whose moment no equation of the mean knows, are averaged over. The central "
    "flow of gradient descent and RMSProp is due to Cohen et al. (2024), that of Adam is this library's. Its "
    "top eigenvalue is the threshold itself; of an optimizer with several eigenvalues that fluctuate about "
    "the threshold the largest one is above it in the mean.",
    tables,
)
