"""Figure 6: the perturbed one-norm of the full-batch gradient over the epochs, for several beta and rho."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from implicit_adam.experiments.claims import Advance, Claim, Item, decided
from implicit_adam.experiments.figures45 import CAVEAT, QUICK, stable
from implicit_adam.experiments.hills import has_hill, height, smoothed
from implicit_adam.experiments.training.cifar_runs import CifarConfig
from implicit_adam.experiments.training.network_runs import NetworkConfig, NetworkRuns
from implicit_adam.experiments.trends import in_words, judged, trend

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
    """The four things the paper reads off its curves."""
    by_beta, by_rho = found.left.norm[:, 0], found.right.norm[0]
    beta_kept, rho_kept = stable(found.left.regime[:, 0]), stable(found.right.regime[0])
    kept = np.concatenate(
        [panel.reshape(-1, panel.shape[-1]) for panel in (by_beta[beta_kept], by_rho[rho_kept])]
    )
    means = smoothed(by_beta[beta_kept], config.smoothing).mean(axis=1)
    return (
        _hills(config, kept),
        _ordered(found.left.beta[beta_kept], means),
        _heights(config, "beta", found.left.beta, by_beta, beta_kept, -1),
        _heights(config, "rho", found.right.rho, by_rho, rho_kept, 1),
        _bounded(config, found),
    )


def _hills(config: Figure6Config, curves: np.ndarray) -> Claim:
    def share(smoothing: float) -> float:
        hills = [has_hill(curve, config.hill) for curve in smoothed(curves, smoothing)]
        return float(np.mean(hills)) if hills else np.nan

    fine, coarse = share(config.fine), share(config.smoothing)
    return Claim(
        "Figure 6",
        "The norm decreases, then rises again, and then decreases further.",
        f"at least three quarters of the stable curves, averaged over {config.fine:.1%} of the epochs, do so "
        f"by {config.hill:.0%} each time (at most one quarter: it did not hold)",
        f"{fine:.0%} of {len(curves)} curves; "
        f"averaged over {config.smoothing:.0%} of the epochs, {coarse:.0%}",
        decided(held=fine >= 0.75, refuted=fine <= 0.25),
    )


def _ordered(beta: np.ndarray, means: np.ndarray) -> Claim:
    shares = [float((after < before).mean()) for before, after in pairwise(means)]
    measured = ", ".join(
        f"{share:.0%} ({low:g} to {high:g})" for share, low, high in zip(shares, beta, beta[1:], strict=False)
    )
    return Claim(
        "Figure 6, left",
        "Throughout most of the training, the larger beta the smaller the norm.",
        "for every pair of neighbouring stable beta the larger has the smaller norm (mean over the seeds) "
        "at more than half of the epochs (for every pair at less than half: it did not hold)",
        measured or "fewer than two stable values",
        decided(held=shares and min(shares) > 0.5, refuted=shares and max(shares) < 0.5),
    )


def _heights(
    config: Figure6Config, name: str, values: np.ndarray, curves: np.ndarray, kept: np.ndarray, sign: int
) -> Claim:
    heights = height(smoothed(curves, config.smoothing))
    result = trend(heights[kept].T)
    means = ", ".join(f"{mean:.4g}" for mean in heights.mean(axis=1))
    left_out = ", ".join(f"{value:g}" for value in values[~kept]) or "none"
    return Claim(
        f"Figure 6, {'left' if name == 'beta' else 'right'}",
        f"The hills are higher with {'smaller beta' if name == 'beta' else 'larger rho'}.",
        f"the rank correlation with {name} of the norm at the top of its hill has this sign with p < "
        f"{config.alpha:g} (as in Figures 4 and 5)",
        f"{in_words(result)}; means over the seeds {means} for {name} = "
        f"{', '.join(f'{value:g}' for value in values)}; unstable and left out: {left_out}",
        judged(result, sign, config.alpha),
    )


def _bounded(config: Figure6Config, found: Figure6) -> Claim:
    floors = [
        float(np.nanmin(runs.norm)) / (int(runs.p) * network.eps**0.5)
        for runs, network in ((found.left, config.left), (found.right, config.right))
    ]
    # In float32 the sum of p equal terms is rounded.
    least = min(floors)
    return Claim(
        "section 5",
        "The perturbed one-norm is bounded from below by p sqrt(eps).",
        "the smallest finite value in any run is at least p sqrt(eps), up to float32 rounding (1e-5)",
        f"smallest value {least:.6f} p sqrt(eps)",
        decided(held=least >= 1 - 1e-5, refuted=least < 1 - 1e-5),
    )


_QUICK = Figure6Config(
    left=replace(_LEFT, **QUICK, beta=(0.9, 0.97, 0.99)),
    right=replace(_RIGHT, **QUICK, rho=(0.97, 0.99, 0.999)),
)
FIGURE6 = Item("Figure 6: the norm over the epochs", Figure6Config(), _QUICK, run, claims, CAVEAT)
