"""The picture: the error of each equation on the worst problem of each kind of run, and its cost."""

from typing import Any

import numpy as np

from implicit_adam.paper.leaderboard.config import USUAL, Column, Leaderboard, LeaderboardConfig
from implicit_adam.paper.leaderboard.equations import FULL, MEAN, ORDERED
from implicit_adam.paper.leaderboard.race import DOES_NOT_APPLY, RAN
from implicit_adam.paper.leaderboard.tables import NAMES
from implicit_adam.plotting.panels import panels, styled

# Errors beyond the distance that the optimizer travels are shown as lost.
LOST = 1.0


@styled
def picture(config: LeaderboardConfig, found: Leaderboard) -> Any:
    """The error of each equation on the worst problem of each kind of run, and its cost per step."""
    from matplotlib.colors import LinearSegmentedColormap

    figure, ((errors, costs),) = panels(1, 2, 6.2, 3.9)
    figure.set_size_inches(13.5, 4.6)
    errors.get_gridspec().set_width_ratios((5, 1))
    worst = np.stack([_worst(error) for error in found.position], axis=1)
    colours = LinearSegmentedColormap.from_list("off", ["#009E73", "#F0E442", "#D55E00"])
    shown = np.log10(np.clip(worst, 1e-4, LOST))
    errors.imshow(np.where(np.isnan(worst), np.nan, shown), cmap=colours, vmin=-4, vmax=0, aspect="auto")
    for j, why in enumerate(found.why):
        for i, value in enumerate(worst[:, j]):
            ran = int((why[:, i] == RAN).sum())
            words = "n/a" if (why[:, i] == DOES_NOT_APPLY).all() else "too dear"
            if ran:
                words = _short(value) + ("" if ran == len(why) else f"\n({ran} of {len(why)})")
            errors.text(j, i, words, ha="center", va="center", fontsize=7)
    labels = [f"{column.setting.name}\n{_size(column)}" for column in config.columns]
    errors.set_xticks(range(len(labels)), labels, fontsize=7)
    errors.set_yticks(range(len(NAMES)), NAMES, fontsize=8)
    errors.spines[:].set_visible(False)
    errors.tick_params(length=0)
    _headings(errors, config)
    figure.suptitle(
        "How far off an equation is, in parts of the way that Adam goes: the worst problem of each kind of "
        "run",
        fontsize=10,
    )
    _costs(costs, config, found)
    return figure


def _worst(errors: np.ndarray) -> np.ndarray:
    """(competitors,) the largest error over the problems that were run."""
    largest = np.max(np.where(np.isnan(errors), -np.inf, errors), axis=0)
    return np.where(np.isnan(errors).all(axis=0), np.nan, largest)


def _short(x: float) -> str:
    if np.isinf(x):
        return "diverges"
    if x >= LOST:
        return f"{x:.0%}" if x < 10 else "> 1000%"
    if x >= 0.095:
        return f"{x:.0%}"
    return f"{100 * x:.1g}%" if x >= 1e-6 else "< 0.0001%"


def _size(column: Column) -> str:
    return "full batch" if column.kind == FULL else f"batches of {column.size}"


def _headings(ax: Any, config: LeaderboardConfig) -> None:
    kinds = [column.kind for column in config.columns]
    words = {
        FULL: "full batch",
        ORDERED: "batches in a given order",
        MEAN: "mean over random orders",
    }
    for kind, word in words.items():
        places = [i for i, other in enumerate(kinds) if other == kind]
        if not places:
            continue
        ax.text(np.mean(places), -0.62, word, ha="center", va="bottom", fontsize=8, fontweight="bold")
        if places[0]:
            ax.axvline(places[0] - 0.5, color="white", linewidth=5)


def _costs(ax: Any, config: LeaderboardConfig, found: Leaderboard) -> None:
    at = next(i for i, column in enumerate(config.columns) if column.kind == FULL and column.setting == USUAL)
    gradients = [
        np.median(x[np.isfinite(x)]) if np.isfinite(x).any() else np.nan for x in found.gradients[at].T
    ]
    places = np.arange(len(gradients))
    ax.barh(places, gradients, color="0.6", height=0.6)
    for place, value in zip(places, gradients, strict=True):
        if np.isfinite(value):
            ax.text(
                max(value, 1) * 1.3,
                place,
                f"{value:.2g}" if value < 100 else f"{value:.0f}",
                va="center",
                fontsize=7,
            )
    ax.axvline(1, color="k", linewidth=0.8)
    ax.set(xscale="log", ylim=(len(gradients) - 0.5, -0.5), xlim=(0.05, 1e6), yticks=[])
    ax.set_xlabel("gradients for a step of\nthe optimizer (which takes 1)", fontsize=8)
    ax.set_title("cost, full batch, usual", fontsize=8, fontweight="bold")
