"""Figure 6: the perturbed one-norm of the full-batch gradient over the epochs, for several beta and rho."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.paper.norms.figures45 import CAVEAT, QUICK, SUBJECT
from implicit_adam.paper.norms.hills import has_hill, smoothed
from implicit_adam.paper.norms.norm_trends import TrendConfig, Trends, predicted_claim, stable, summary
from implicit_adam.paper.norms.trends import Measurement, trend_claim
from implicit_adam.paper.training.cifar_runs import CifarConfig
from implicit_adam.paper.training.network_runs import NetworkConfig, NetworkRuns
from implicit_adam.plotting.curves import plot_curves
from implicit_adam.plotting.panels import NORM, panels, short, styled
from implicit_adam.plotting.style import shades

_DEEPER: dict[str, Any] = {"blocks": 3, "seeds": (0, 1, 2)}
_LEFT = NetworkConfig(beta=(0.8, 0.9, 0.94, 0.96), rho=(0.999,), **_DEEPER)
_RIGHT = NetworkConfig(beta=(0.9,), rho=(0.9, 0.92, 0.94, 0.96), **_DEEPER)


@dataclass(frozen=True)
class Figure6Config:
    """The left panel varies beta at the paper's rho, the right panel rho, on a deeper network than Figure 4.

    The fixed beta on the right is smaller than the paper's .97, whose own memory is 33 steps, to leave room
    for several rho.
    """

    left: NetworkConfig | CifarConfig = _LEFT
    right: NetworkConfig | CifarConfig = _RIGHT
    # Curves are averaged over this share of the epochs to find the top of their hill,
    smoothing: float = 0.01
    # and over this share to judge their shape, since the first fall of networks this quick is shorter.
    fine: float = 0.002
    # The relative rise and fall that make a hill.
    hill: float = 0.1
    # The height of a hill counts only if it comes after this many memory lengths (`figures45`).
    memories: float = 5.0
    alpha: float = 0.05

    def panel(self, varied: str) -> TrendConfig:
        """The config for judging one panel by the criteria of Figures 5 (beta) and 4 (rho)."""
        network = self.left if varied == "beta" else self.right
        sign = -1 if varied == "beta" else 1
        kept = {name: getattr(self, name) for name in ("smoothing", "hill", "memories", "alpha")}
        return TrendConfig(varied, sign, network, **kept)


class Figure6(NamedTuple):
    """The runs of the left and the right panel."""

    left: NetworkRuns
    right: NetworkRuns


def run(config: Figure6Config, advance: Advance) -> Figure6:
    """The runs of both panels, one after the other."""
    left = config.left.trained(lambda share: advance(share / 2))
    return Figure6(left, config.right.trained(lambda share: advance((1 + share) / 2)))


def claims(config: Figure6Config, found: Figure6) -> tuple[Claim, ...]:
    """The paper's claims about its curves, and the predictions by the equation with carried memory."""
    by_beta, by_rho = config.panel("beta"), config.panel("rho")
    left, right = summary(by_beta, found.left), summary(by_rho, found.right)
    curves = Measurement("beta", found.left.beta, found.left.norm[:, 0], left.counting(by_beta))
    kept = [
        norms[stable(panel.regime)]
        for norms, panel in ((found.left.norm[:, 0], left), (found.right.norm[0], right))
    ]
    together = np.concatenate(kept)
    return (
        _hills(config, together.reshape(-1, together.shape[-1])),
        _ordered(config, curves),
        _heights(by_beta, "The hills are higher with smaller beta.", left),
        _heights(by_rho, "The hills are higher with larger rho.", right),
        _bounded(config, found),
        *(
            predicted_claim(panel, trends)._replace(source=f"beyond the paper, {side}")
            for panel, trends, side in ((by_beta, left, "left"), (by_rho, right, "right"))
        ),
    )


def _hills(config: Figure6Config, curves: np.ndarray) -> Claim:
    def share(smoothing: float) -> float:
        if not len(curves) or not np.isfinite(curves).all():
            return np.nan
        return float(np.mean([has_hill(curve, config.hill) for curve in smoothed(curves, smoothing)]))

    fine, coarse = share(config.fine), share(config.smoothing)
    return Claim(
        "Figure 6",
        "The norm decreases, then rises again, and then decreases further.",
        f"at least three quarters of the stable curves, averaged over {config.fine:.1%} of the epochs, do so "
        f"by {config.hill:.0%} each time (at most one quarter: it did not hold)",
        f"{fine:.0%} of {len(curves)} curves; averaged over {config.smoothing:.0%} of the epochs, "
        f"{coarse:.0%}",
        decided(held=fine >= 0.75, refuted=fine <= 0.25),
    )


def _ordered(config: Figure6Config, curves: Measurement) -> Claim:
    beta, smooth = curves.values[curves.kept], smoothed(curves.measured[curves.kept], config.smoothing)
    # (pairs, seeds): at which share of the epochs the larger beta of a pair has the smaller or larger norm.
    shares, opposite = ((sign * np.diff(smooth, axis=0) > 0).mean(axis=-1) for sign in (-1, 1))
    enough = len(shares) > 1 and shares.size > 0
    measured = "fewer than three values that count"
    if enough:
        measured = "least and most of the seeds: " + ", ".join(
            f"{share.min():.0%} to {share.max():.0%} (beta {low:g} and {high:g})"
            for share, low, high in zip(shares, beta, beta[1:], strict=False)
        )
    return Claim(
        "Figure 6, left",
        "Throughout most of the training, the larger beta the smaller the norm.",
        "in every seed the larger of two neighbouring beta that count, of which there are three or more, has "
        f"the smaller norm, averaged over {config.smoothing:.0%} of the epochs, at more than half of them "
        "(the larger norm so in every seed and pair: it did not hold)",
        measured,
        decided(held=enough and shares.min() > 0.5, refuted=enough and opposite.min() > 0.5),
    )


def _heights(config: TrendConfig, statement: str, found: Trends) -> Claim:
    means = ", ".join(f"{mean:.4g}" for mean in found.height.mean(axis=1))
    return trend_claim(
        f"Figure 6, {'left' if config.varied == 'beta' else 'right'}",
        statement,
        Measurement(config.varied, found.values, found.height, found.counting(config)),
        config.sign,
        config.alpha,
        f"means over the seeds {means} for {config.varied} = {', '.join(f'{x:g}' for x in found.values)}",
    )


def _bounded(config: Figure6Config, found: Figure6) -> Claim:
    def least_of(runs: NetworkRuns, network: NetworkConfig | CifarConfig) -> float:
        finite = runs.norm[np.isfinite(runs.norm)]
        return float(finite.min()) / (int(runs.p) * network.eps**0.5) if finite.size else np.nan

    # In float32 the sum of p equal terms is rounded. Without a number in one panel nothing is known.
    least = float(np.min([least_of(found.left, config.left), least_of(found.right, config.right)]))
    return Claim(
        "section 5",
        "The perturbed one-norm, whose eps is inside the root, is bounded from below by p sqrt(eps).",
        "the smallest finite value in any run is at least p sqrt(eps), up to float32 rounding (1e-5)",
        f"smallest value {least:.6f} p sqrt(eps)",
        decided(held=least >= 1 - 1e-5, refuted=least < 1 - 1e-5),
    )


_QUICK = Figure6Config(
    left=replace(_LEFT, **QUICK, beta=(0.8, 0.9, 0.95)),
    right=replace(_RIGHT, **QUICK, rho=(0.9, 0.95, 0.98)),
)


FLOOR = r"$p\sqrt{\varepsilon}$"


@styled
def picture(config: Figure6Config, found: Figure6) -> Any:
    """Above, the averaged norm against the epochs, with its lower bound; below, relative changes of it.

    The changes are those with the value of the hyperparameter.
    """
    figure, ((left, right), (more_left, more_right)) = panels(2, 2, 3.9, 3.0)
    by_beta, by_rho = found.left.norm[:, 0], found.right.norm[0]
    fixed_rho, fixed_beta = found.left.rho[0], found.right.beta[0]
    _norms(left, config, by_beta, "beta", found.left.beta, f"{short('rho')} = {fixed_rho:g}")
    _norms(right, config, by_rho, "rho", found.right.rho, f"{short('beta')} = {fixed_beta:g}")
    for ax, runs in ((left, found.left), (right, found.right)):
        _predictions(ax, runs)
    _changes(more_left, config, by_beta, found.left.predicted[:, 0], "beta", found.left.beta)
    _changes(more_right, config, by_rho, found.right.predicted[0], "rho", found.right.rho)
    for ax, runs, network in ((left, found.left, config.left), (right, found.right, config.right)):
        ax.axhline(int(runs.p) * network.eps**0.5, color="0.5", linestyle=":", linewidth=1, label=FLOOR)
        ax.legend(loc="lower left")
    return figure


def _norms(
    ax: Any, config: Figure6Config, norms: np.ndarray, name: str, values: np.ndarray, title: str
) -> None:
    curves = smoothed(norms, config.fine)
    epochs = np.arange(curves.shape[-1]) + 1 + (norms.shape[-1] - curves.shape[-1]) / 2
    labelled = {f"{short(name)} = {value:g}": curve for value, curve in zip(values, curves, strict=True)}
    plot_curves(epochs, labelled, ax)
    ax.set(xlabel="epoch", ylabel=NORM, title=title, yscale="log", xscale="log")


def _changes(
    ax: Any, config: Figure6Config, norms: np.ndarray, predicted: np.ndarray, name: str, values: np.ndarray
) -> None:
    """Draw the norm relative to that of the first value, as the mean over seeds; dotted, the prediction."""
    curves = smoothed(norms, config.smoothing)
    changes = 100 * (curves / curves[:1] - 1).mean(axis=1)
    epochs = np.arange(curves.shape[-1]) + 1 + (norms.shape[-1] - curves.shape[-1]) / 2
    for change, value, colour in zip(changes, values, shades(len(values)), strict=True):
        ax.semilogx(epochs, change, color=colour, linewidth=1.4, label=f"{short(name)} = {value:g}")
    looks = predicted.shape[-1]
    if looks:
        expected = 100 * (predicted / predicted[:1] - 1).mean(axis=1)
        ax.semilogx(
            1 + np.arange(looks) * (norms.shape[-1] // looks), expected.T, ":", color="k", linewidth=1
        )
    # Late in a run, where norms are small and iterates alternate, their ratios are meaningless.
    hill = curves.mean(axis=(0, 1)) > curves.mean(axis=(0, 1)).max() / 4
    shown = changes[:, hill]
    ax.set(xlabel="epoch", ylabel=f"{NORM} against {short(name)} = {values[0]:g} (%)")
    ax.set_ylim(min(1.2 * shown.min(), -1), max(1.2 * shown.max(), 1))


def _predictions(ax: Any, runs: NetworkRuns) -> None:
    """Draw the prediction by the equation with carried memory, the mean over seeds, dotted in black."""
    looks = runs.predicted.shape[-1]
    if not looks:
        return
    means = runs.predicted.mean(axis=2).reshape(-1, looks)
    epochs = 1 + np.arange(looks) * (runs.norm.shape[-1] // looks)
    for i, mean in enumerate(means):
        label = "carried flow" if i == 0 else None
        ax.plot(epochs, mean, ":", color="k", linewidth=1, zorder=4, label=label)


FIGURE6 = Experiment(
    "Figure 6: the norm over the epochs", SUBJECT, Figure6Config(), _QUICK, run, claims, picture, CAVEAT
)
