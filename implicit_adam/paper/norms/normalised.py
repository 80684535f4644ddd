"""Figures 4 and 5 on a network with batch normalisation, as the paper's ResNets have.

On the small images its norm falls from the start, without a hill. So its curves are compared where the loss
has first fallen to a tenth of that of a uniform guess.
"""

from math import log
from typing import Any

import numpy as np

from implicit_adam.paper.claims import Claim, decided
from implicit_adam.paper.norms import norm_trends
from implicit_adam.paper.norms.figures45 import QUICK, both_figures
from implicit_adam.paper.norms.hills import smoothed, top
from implicit_adam.paper.norms.norm_trends import TrendConfig, Trends, stable
from implicit_adam.paper.training.network_runs import NetworkConfig


def claims(config: TrendConfig, found: Trends) -> tuple[Claim, ...]:
    """The claims of the figure, at a given loss, after that on why they are not judged at the hill."""
    return (_no_hill(config, found), *norm_trends.claims(config, found))


def _no_hill(config: TrendConfig, found: Trends) -> Claim:
    norm = np.take(found.runs.norm, 0, axis=0 if config.varied == "rho" else 1)[stable(found.regime)]
    hill = np.isfinite(top(smoothed(norm, config.smoothing), config.hill))
    return Claim(
        "beyond the paper",
        "With batch normalisation this network's norm has no hill.",
        f"no stable curve, averaged over {config.smoothing:.0%} of the epochs, rises by {config.hill:.0%} "
        "above its lowest value before (all of them do: it did not hold)",
        f"{hill.sum()} of {hill.size} curves rise",
        decided(held=hill.size > 0 and not hill.any(), refuted=hill.size > 0 and hill.all()),
    )


SUBJECT = "a small batch-normalised network on digits"
_WHY = (
    "A small network on 8 x 8 digits, with batch normalisation over all training images, so that the loss is "
    "one smooth function of the parameters. eps stands inside the root. That there is no hill was seen in "
    "runs of two seeds, and the level of the loss was chosen then, before any trend was looked at: a tenth "
    "of the loss of a uniform guess. A first run had half the step and 500 epochs, after which the accuracy "
    "still rose where rho was large, so that it seemed to fall with rho; so the step was doubled and the "
    "runs are longer."
)
_LEVEL = log(10) / 10
_NETWORK: dict[str, Any] = {"normalised": True, "h": 6e-4, "epochs": 700, "seeds": (0, 1, 2, 3)}
_RHO = NetworkConfig(beta=(0.9,), rho=(0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 0.999), **_NETWORK)
_BETA = NetworkConfig(beta=(0.8, 0.9, 0.94, 0.96, 0.98, 0.99), rho=(0.999,), **_NETWORK)

FIGURE4_NORMALISED, FIGURE5_NORMALISED = both_figures(
    _RHO,
    _BETA,
    QUICK | {"h": 5e-3},
    which=" with batch normalisation",
    level=_LEVEL,
    subject=SUBJECT,
    claims=claims,
    caveat=_WHY,
)
