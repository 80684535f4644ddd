"""Figures 4 and 5: the height of the norm's hills and the test accuracy, against rho and against beta.

The height is the perturbed one-norm of the full-batch gradient, smoothed a little, at the top of its hill
(`hills`), the accuracy the best on the test data. As in the paper, runs outside the stable oscillation regime
are left out: a value of the hyperparameter at which any seed leaves it is left out for all seeds.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from implicit_adam.measures.training_regime import REGIMES
from implicit_adam.paper.claims import Advance, Claim, Experiment
from implicit_adam.paper.hills import height, smoothed
from implicit_adam.paper.training.cifar_runs import CifarConfig
from implicit_adam.paper.training.network_runs import NetworkConfig, NetworkRuns
from implicit_adam.paper.trends import Measurement, in_words, trend, trend_claim
from implicit_adam.plotting.curves import plot_trend
from implicit_adam.plotting.panels import NORM, panels, short, styled
from implicit_adam.plotting.style import symbol


@dataclass(frozen=True)
class TrendConfig:
    """`varied` is "beta" or "rho", `sign` that of the norm's trend in the paper; accuracy has the other."""

    varied: str
    sign: int
    network: NetworkConfig | CifarConfig
    # Curves are averaged over this share of the epochs before their hill is looked for.
    smoothing: float = 0.01
    # By how much a curve must rise to have a hill.
    hill: float = 0.1
    # The other reading of the paper's words: the largest norm after this share of the epochs.
    initial: float = 0.1
    # A trend counts with p < alpha.
    alpha: float = 0.05


class Trends(NamedTuple):
    """Axes (values, seeds): the height of the hill (NaN without one), the best accuracy, and the index of the
    regime; `late` is the largest norm after the initial share of the epochs.
    """

    values: np.ndarray
    height: np.ndarray
    late: np.ndarray
    accuracy: np.ndarray
    regime: np.ndarray
    runs: NetworkRuns


def run(config: TrendConfig, advance: Advance) -> Trends:
    """All runs of the hyperparameter and the seeds."""
    return summary(config, config.network.trained(advance))


def summary(config: TrendConfig, runs: NetworkRuns) -> Trends:
    """The two measurements of the figure."""
    fixed = 0 if config.varied == "rho" else 1
    norm, right, regime = (np.take(x, 0, axis=fixed) for x in (runs.norm, runs.accuracy, runs.regime))
    first = int(config.initial * norm.shape[-1])
    return Trends(
        values=getattr(runs, config.varied),
        height=height(smoothed(norm, config.smoothing), config.hill),
        late=norm[..., first:].max(axis=-1),
        accuracy=right.max(axis=-1),
        regime=regime,
        runs=runs,
    )


def stable(regime: np.ndarray) -> np.ndarray:
    """(values, seeds) -> (values,): whether every seed stays in the stable oscillation regime."""
    return (regime == REGIMES.index("stable oscillation")).all(axis=1)


def claims(config: TrendConfig, found: Trends) -> tuple[Claim, ...]:
    """The two panels of the figure."""
    figure = {"rho": "Figure 4", "beta": "Figure 5"}[config.varied]
    values, kept = found.values, stable(found.regime)
    words = {1: "increase", -1: "decrease"}
    late = in_words(trend(found.late[kept].T))
    return (
        trend_claim(
            figure,
            f"Increasing {config.varied} seems to {words[config.sign]} the perturbed one-norm at the peak of "
            "its hill.",
            Measurement(config.varied, values, found.height, kept),
            config.sign,
            config.alpha,
            f"{_ends('height', values, found.height)}; of the largest norm after the first "
            f"{config.initial:.0%} of the epochs: {late}",
        ),
        trend_claim(
            figure,
            f"Increasing {config.varied} seems to {words[-config.sign]} the best test accuracy.",
            Measurement(config.varied, values, found.accuracy, kept),
            -config.sign,
            config.alpha,
            _ends("accuracy", values, found.accuracy),
        ),
    )


def _ends(name: str, values: np.ndarray, measured: np.ndarray) -> str:
    """Mean and, of several seeds, spread at the first and the last value."""
    seeds = measured.shape[1]
    spread = [f" +- {x:.2g}" for x in measured.std(axis=1, ddof=1)] if seeds > 1 else [""] * len(values)
    ends = (0, len(values) - 1)
    parts = " and ".join(f"{measured[i].mean():.4g}{spread[i]} at {values[i]:g}" for i in ends)
    return (
        f"{name} {parts} ({'one seed' if seeds == 1 else f'mean and standard deviation over {seeds} seeds'})"
    )


SUBJECT = "a small network on digits"
QUICK = {"epochs": 300, "seeds": (0, 1, 2), "train": 200, "channels": 6, "blocks": 1}
CAVEAT = (
    "A small network on 8 x 8 digits, far from the paper's ResNets on CIFAR: it shows what the effect looks "
    "like here, and no more. eps stands inside the root, as in Definition 1.1. "
    "All settings were fixed before the first run but for two, where both readings "
    "are given: the height of a hill was to be the largest norm after the first tenth of the epochs, which "
    "in networks as quick as these cuts the hills off; and the shape of the curves (Figure 6) was to be "
    "read after averaging over 1% of the epochs, which swallows their first fall. On a GPU the paper's "
    "setting runs with --dataset, --data-dir and --model."
)
_RHO = NetworkConfig(beta=(0.99,), rho=(0.97, 0.98, 0.99, 0.995, 0.998, 0.999))
_BETA = NetworkConfig(beta=(0.9, 0.95, 0.97, 0.98, 0.99, 0.995), rho=(0.999,))


@styled
def picture(config: TrendConfig, found: Trends) -> Any:
    """The height of the hills and the best accuracy against the hyperparameter."""
    figure, ((heights, accuracies),) = panels(1, 2, 3.6, 3.0)
    kept = stable(found.regime)
    plot_trend(found.values, found.height, heights, kept=kept)
    plot_trend(found.values, 100 * found.accuracy, accuracies, kept=kept)
    heights.set(xlabel=symbol(config.varied), ylabel=f"{NORM} at the top of its hill")
    accuracies.set(xlabel=symbol(config.varied), ylabel="best test accuracy (%)")
    fixed, value = (
        ("beta", config.network.beta[0]) if config.varied == "rho" else ("rho", config.network.rho[0])
    )
    seeds = len(config.network.seeds)
    words = (
        f"{short(fixed)} = {value:g}; mean of {seeds} seeds (grey)"
        if seeds > 1
        else f"{short(fixed)} = {value:g}"
    )
    figure.suptitle(words if kept.all() else f"{words}; hollow: not stable")
    return figure


FIGURE4, FIGURE5 = (
    Experiment(
        title,
        SUBJECT,
        TrendConfig(varied, sign, network),
        TrendConfig(varied, sign, replace(network, **QUICK, **{varied: getattr(network, varied)[::2]})),
        run,
        claims,
        picture,
        CAVEAT,
    )
    for title, varied, sign, network in (
        ("Figure 4: the norm and the accuracy against rho", "rho", 1, _RHO),
        ("Figure 5: the norm and the accuracy against beta", "beta", -1, _BETA),
    )
)
