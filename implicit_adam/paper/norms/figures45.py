"""Figures 4 and 5: the height of the norm's hills and the test accuracy, against rho and against beta."""

from dataclasses import replace
from typing import Any

import numpy as np

from implicit_adam.paper.claims import Experiment
from implicit_adam.paper.norms.norm_trends import TrendConfig, Trends, claims, run
from implicit_adam.paper.training.network_runs import NetworkConfig
from implicit_adam.plotting.curves import plot_trend
from implicit_adam.plotting.panels import NORM, panels, short, styled
from implicit_adam.plotting.style import COLOURS, symbol

SUBJECT = "a small network on digits"
QUICK = {"epochs": 100, "seeds": (0, 1), "train": 100, "channels": 4, "blocks": 1}
CAVEAT = (
    "A small network on 8 x 8 digits, far from the paper's ResNets on CIFAR: it shows what the effect "
    "looks like here, and no more. eps stands inside the root, as in Definition 1.1. The settings follow a "
    "principle that was fixed before the runs: rho >= beta, and hills that come after five memories of "
    "what is varied, for all but a few values that are run, too, and judged apart. The step and the range "
    "of values were taken from runs of two seeds, in which the hills came after 130 to 250 epochs. That a "
    "prediction is judged against the height of the hill was decided after these, too: late in training, "
    "at the edge of stability, the iterates alternate, and a momentary norm is no smooth one. Hills that "
    "come before the memories exist are an experiment of their own (early-hills). On a GPU the paper's "
    "setting runs with --dataset, --data-dir and --model."
)
_RHO = NetworkConfig(beta=(0.9,), rho=(0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 0.999))
_BETA = NetworkConfig(beta=(0.8, 0.9, 0.94, 0.96, 0.98, 0.99), rho=(0.999,))


@styled
def picture(config: TrendConfig, found: Trends) -> Any:
    """The norm at the hill (or at a given loss), measured and predicted, and the best accuracy."""
    figure, ((heights, accuracies),) = panels(1, 2, 3.9, 3.2)
    kept = found.counting(config)
    plot_trend(found.values, found.height, heights, kept=kept)
    place = np.arange(len(found.values))
    if np.isfinite(found.predicted).any():
        mean = found.predicted.mean(axis=1)
        heights.plot(
            place, mean, "x", color=COLOURS[0], markersize=8, zorder=4, label="as the equation predicts"
        )
        heights.legend(loc="best")
    plot_trend(found.values, 100 * found.accuracy, accuracies, kept=kept)
    for ax in (heights, accuracies):
        if kept.any() and not kept.all():
            last = np.flatnonzero(kept)[-1] + 0.5
            ax.axvspan(last, len(kept) - 0.5, color="0.93", zorder=0, linewidth=0)
    heights.set(xlabel=symbol(config.varied), ylabel=f"{NORM} at {config.event}")
    accuracies.set(xlabel=symbol(config.varied), ylabel="best test accuracy (%)")
    fixed, value = (
        ("beta", config.network.beta[0]) if config.varied == "rho" else ("rho", config.network.rho[0])
    )
    seeds = len(config.network.seeds)
    words = f"{short(fixed)} = {value:g}" + (f"; mean of {seeds} seeds (grey)" if seeds > 1 else "")
    note = f"; hollow: unstable, or {config.event} before {config.memories:g} memories"
    figure.suptitle(words if kept.all() else words + note)
    return figure


def both_figures(
    rho: NetworkConfig,
    beta: NetworkConfig,
    quick: dict[str, Any],
    *,
    which: str = "",
    level: float = 0.0,
    **rest: Any,
) -> tuple[Experiment, Experiment]:
    """Figure 4, against the values of rho in its network, and Figure 5, against those of beta.

    `which` is added to their titles. `quick` changes the network of a quick run, which also has only every
    second value; `rest` are further fields of the experiments.
    """

    def figure(number: int, varied: str, sign: int, network: NetworkConfig) -> Experiment:
        few = replace(network, **quick, **{varied: getattr(network, varied)[::2]})
        whole, less = (TrendConfig(varied, sign, one, level=level) for one in (network, few))
        title = f"Figure {number}{which}: the norm and the accuracy against {varied}"
        return Experiment(title, config=whole, quick=less, run=run, picture=picture, **rest)

    return figure(4, "rho", 1, rho), figure(5, "beta", -1, beta)


FIGURE4, FIGURE5 = both_figures(_RHO, _BETA, QUICK, subject=SUBJECT, claims=claims, caveat=CAVEAT)
