"""Figure 6: the perturbed one-norm of the full-batch gradient over the epochs, for several beta and rho."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.paper.figures45 import CAVEAT, QUICK, SUBJECT, stable
from implicit_adam.paper.hills import has_hill, height, smoothed
from implicit_adam.paper.training.cifar_runs import CifarConfig
from implicit_adam.paper.training.network_runs import NetworkConfig, NetworkRuns
from implicit_adam.paper.trends import Measurement, trend_claim
from implicit_adam.plotting.curves import plot_curves
from implicit_adam.plotting.panels import NORM, panels, short, styled

_LEFT = NetworkConfig(beta=(0.9, 0.95, 0.97, 0.99), rho=(0.999,), blocks=3, seeds=(0, 1, 2))
_RIGHT = NetworkConfig(beta=(0.97,), rho=(0.97, 0.98, 0.99, 0.999), blocks=3, seeds=(0, 1, 2))


@dataclass(frozen=True)
class Figure6Config:
    """The paper's rho on the left and its beta on the right; a deeper network than in Figures 4 and 5."""

    left: NetworkConfig | CifarConfig = _LEFT
    right: NetworkConfig | CifarConfig = _RIGHT
    # Curves are averaged over this share of the epochs before the top of their hill is looked for,
    smoothing: float = 0.01
    # and over this one before their shape is read: the first fall of networks this quick is shorter.
    fine: float = 0.002
    # By how much a curve must rise and fall to have a hill.
    hill: float = 0.1
    alpha: float = 0.05


class Figure6(NamedTuple):
    """The runs of both panels."""

    left: NetworkRuns
    right: NetworkRuns


def run(config: Figure6Config, advance: Advance) -> Figure6:
    """Both panels, one after the other."""
    left = config.left.trained(lambda share: advance(share / 2))
    return Figure6(left, config.right.trained(lambda share: advance((1 + share) / 2)))


def claims(config: Figure6Config, found: Figure6) -> tuple[Claim, ...]:
    """What the paper reads off its curves."""
    left = Measurement("beta", found.left.beta, found.left.norm[:, 0], stable(found.left.regime[:, 0]))
    right = Measurement("rho", found.right.rho, found.right.norm[0], stable(found.right.regime[0]))
    kept = np.concatenate([panel.measured[panel.kept] for panel in (left, right)])
    return (
        _hills(config, kept.reshape(-1, kept.shape[-1])),
        _ordered(config, left),
        _heights(config, "The hills are higher with smaller beta.", left, -1),
        _heights(config, "The hills are higher with larger rho.", right, 1),
        _bounded(config, found),
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
    measured = "fewer than three stable values"
    if enough:
        measured = "least and most of the seeds: " + ", ".join(
            f"{share.min():.0%} to {share.max():.0%} (beta {low:g} and {high:g})"
            for share, low, high in zip(shares, beta, beta[1:], strict=False)
        )
    return Claim(
        "Figure 6, left",
        "Throughout most of the training, the larger beta the smaller the norm.",
        "in every seed the larger of two neighbouring stable beta, of which there are three or more, has "
        f"the smaller norm, averaged over {config.smoothing:.0%} of the epochs, at more than half of them "
        "(the larger norm so in every seed and pair: it did not hold)",
        measured,
        decided(held=enough and shares.min() > 0.5, refuted=enough and opposite.min() > 0.5),
    )


def _heights(config: Figure6Config, statement: str, curves: Measurement, sign: int) -> Claim:
    heights = height(smoothed(curves.measured, config.smoothing), config.hill)
    means = ", ".join(f"{mean:.4g}" for mean in heights.mean(axis=1))
    return trend_claim(
        f"Figure 6, {'left' if curves.name == 'beta' else 'right'}",
        statement,
        curves._replace(measured=heights),
        sign,
        config.alpha,
        f"means over the seeds {means} for {curves.name} = {', '.join(f'{x:g}' for x in curves.values)}",
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
    left=replace(_LEFT, **QUICK, beta=(0.9, 0.97, 0.99)),
    right=replace(_RIGHT, **QUICK, rho=(0.97, 0.99, 0.999)),
)


FLOOR = r"$p\sqrt{\varepsilon}$"


@styled
def picture(config: Figure6Config, found: Figure6) -> Any:
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


def _norms(
    ax: Any, config: Figure6Config, norms: np.ndarray, name: str, values: np.ndarray, title: str
) -> None:
    curves = smoothed(norms, config.fine)
    epochs = np.arange(curves.shape[-1]) + 1 + (norms.shape[-1] - curves.shape[-1]) / 2
    labelled = {f"{short(name)} = {value:g}": curve for value, curve in zip(values, curves, strict=True)}
    plot_curves(epochs, labelled, ax)
    ax.set(xlabel="epoch", ylabel=NORM, title=title, yscale="log", xscale="log")


FIGURE6 = Experiment(
    "Figure 6: the norm over the epochs", SUBJECT, Figure6Config(), _QUICK, run, claims, picture, CAVEAT
)
