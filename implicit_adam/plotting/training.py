"""Pictures of training: the bias along a run, the three regimes, Figures 4 to 6."""

from typing import Any

import numpy as np

from implicit_adam.bias.regimes import REGIMES
from implicit_adam.paper.along_a_run import Along, AlongConfig
from implicit_adam.paper.figure6 import Figure6, Figure6Config
from implicit_adam.paper.figures45 import TrendConfig, Trends, stable
from implicit_adam.paper.hills import smoothed
from implicit_adam.paper.three_regimes import CAUSES, RegimesConfig, ThreeRegimes
from implicit_adam.plotting.curves import plot_curves, plot_parts, plot_trend
from implicit_adam.plotting.panels import NORM, panels, short, styled
from implicit_adam.plotting.style import COLOURS, greek, shades, symbol


@styled
def along(config: AlongConfig, found: Along) -> Any:
    """A row for each placement of eps: the parts of the field; how young memories are forgotten; the sign of
    the bias and the size of eps; the loss.
    """
    figure, rows = panels(len(config.placements), 4, 3.6, 2.8)
    for i, (placement, row) in enumerate(zip(config.placements, rows, strict=True)):
        _along(config, Along(found.n, *(values[i] for values in found[1:])), placement, row)
    return figure


def _along(config: AlongConfig, found: Along, placement: str, row: Any) -> None:
    parts, young, signs, loss = row
    later = found.n > 0
    plot_parts(
        found.n[later],
        {
            "memory": found.memory[later],
            "discreteness": found.discreteness[later],
            "transient": found.transient[later],
        },
        parts,
    )
    parts.set(
        ylabel="norm / norm of the leading part", title=greek(f"eps {placement}: parts of the correction")
    )
    young.semilogy(found.n, found.transient_at_start, color=COLOURS[2])
    young.axvline(config.memories / (1 - config.rho), color="0.6", linewidth=0.8, zorder=0)
    young.annotate(
        rf"$n = {config.memories}/(1-\rho)$",
        (config.memories / (1 - config.rho), 1),
        xytext=(4, -4),
        textcoords="offset points",
        va="top",
    )
    young.set(xlabel="step $n$", ylabel="norm / norm of what it changes")
    young.set(title="the transient, at the start point")
    size = "g_j^2" if placement == "inside" else "|g_j|"
    signs.plot(found.n, found.alignment, color=COLOURS[0], label=r"cosine of bias and $\nabla$" + NORM)
    signs.plot(found.n, found.negative, color=COLOURS[1], label="share of negative braces")
    signs.plot(found.n, found.eps_small, color=COLOURS[2], label=rf"share of ${size} > 100\,\varepsilon$")
    signs.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    # Room for the legend above what shares and cosines can be.
    signs.set(
        xlabel="step $n$", ylim=(-1.05, 1.95), yticks=(-1, -0.5, 0, 0.5, 1), title="the sign of the bias"
    )
    signs.legend(loc="upper right")
    loss.semilogy(found.n, found.loss, color=COLOURS[1])
    loss.set(xlabel="step $n$", ylabel="loss $E$", title="the run")


@styled
def regimes(config: RegimesConfig, found: ThreeRegimes) -> Any:
    """The losses of one seed, a row for each placement of eps and a panel for each regime."""
    figure, rows = panels(len(config.placements), len(REGIMES), 3.2, 2.8)
    for row, placement, loss in zip(rows, config.placements, found.loss, strict=True):
        _regimes(config, loss, placement, row)
    return figure


def _regimes(config: RegimesConfig, loss: np.ndarray, placement: str, row: Any) -> None:
    for ax, name, cause, pairs, losses in zip(row, REGIMES, CAUSES, config.pairs, loss, strict=True):
        for (beta, rho), curve, colour in zip(pairs, losses[:, 0], shades(len(pairs)), strict=True):
            ax.semilogy(curve, color=colour, linewidth=0.9, label=rf"$\beta = {beta:g}$, $\rho = {rho:g}$")
        ax.set(xlabel="step $n$", title=greek(f"expected: {name},\nas {cause}"))
        ax.legend()
    row[0].set_ylabel(greek(f"loss $E$, eps {placement}"))


@styled
def trends(config: TrendConfig, found: Trends) -> Any:
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


@styled
def figure6(config: Figure6Config, found: Figure6) -> Any:
    """The norm over the epochs, averaged as its shape is read, and the floor below which it cannot fall."""
    figure, ((left, right),) = panels(1, 2, 3.9, 3.2)
    by_beta, by_rho = found.left.norm[:, 0], found.right.norm[0]
    fixed_rho, fixed_beta = found.left.rho[0], found.right.beta[0]
    _norms(left, config, by_beta, "beta", found.left.beta, f"{short('rho')} = {fixed_rho:g}")
    _norms(right, config, by_rho, "rho", found.right.rho, f"{short('beta')} = {fixed_beta:g}")
    for ax, runs, network in ((left, found.left, config.left), (right, found.right, config.right)):
        ax.axhline(int(runs.p) * network.eps**0.5, color="0.5", linestyle=":", linewidth=1, label=FLOOR)
        ax.legend(loc="lower left")
    return figure


FLOOR = r"$p\sqrt{\varepsilon}$"


def _norms(
    ax: Any, config: Figure6Config, norms: np.ndarray, name: str, values: np.ndarray, title: str
) -> None:
    curves = smoothed(norms, config.fine)
    epochs = np.arange(curves.shape[-1]) + 1 + (norms.shape[-1] - curves.shape[-1]) / 2
    labelled = {f"{short(name)} = {value:g}": curve for value, curve in zip(values, curves, strict=True)}
    plot_curves(epochs, labelled, ax)
    ax.set(xlabel="epoch", ylabel=NORM, title=title, yscale="log", xscale="log")
