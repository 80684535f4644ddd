"""Beyond Figures 4 and 5: with a large step the norm's hill comes before the memories exist.

With bias correction, the average of squared gradients after n steps is over n steps, however close rho is to
1. If a hill comes in less than 1/(1-rho) steps, the averages for all such rho look back to the start alike.
The first correction expands the memory in its length and says nothing about such a hill; the equation with
carried memory predicts it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.paper.norms.figures45 import QUICK, SUBJECT
from implicit_adam.paper.norms.figures45 import picture as trends_picture
from implicit_adam.paper.norms.norm_trends import TrendConfig, Trends, predicted_claim, stable
from implicit_adam.paper.norms.norm_trends import run as trends_run
from implicit_adam.paper.norms.trends import Measurement, trend_claim
from implicit_adam.paper.training.network_runs import NetworkConfig

_EARLY = NetworkConfig(
    beta=(0.99,),
    rho=(0.97, 0.98, 0.99, 0.995, 0.998, 0.999),
    h=1e-3,
    epochs=300,
    seeds=(0, 1, 2, 3),
    test_every=5,
)


_TRENDS = TrendConfig("rho", 1, _EARLY)


@dataclass(frozen=True)
class EarlyConfig:
    """Ten times the step size of Figures 4 to 6; curves are averaged less, since the hills come quickly."""

    trends: TrendConfig = _TRENDS


def run(config: EarlyConfig, advance: Advance) -> Trends:
    """All runs of the config."""
    return trends_run(config.trends, advance)


def claims(config: EarlyConfig, found: Trends) -> tuple[Claim, ...]:
    """The claims that the hills come early, that their trend is reversed, and that this is predicted."""
    trends, beta = config.trends, float(found.runs.beta[0])
    count = found.epoch * (1 - np.maximum(found.values[:, None], beta))
    finite = np.isfinite(count).all()
    return (
        Claim(
            "beyond the paper",
            "With ten times the step the hills come before the memories are full.",
            "in every run the top comes before two memories of the longer one of the two have passed "
            "(after that in every run: it did not hold)",
            f"after {np.min(count):.2f} to {np.max(count):.2f} memories",
            decided(held=finite and (count < 2).all(), refuted=finite and (count >= 2).all()),
        ),
        trend_claim(
            "beyond the paper",
            "Then a larger rho makes the hill lower, the opposite of what the theorem says of short "
            "memories.",
            Measurement("rho", found.values, found.height, stable(found.regime)),
            -1,
            trends.alpha,
            "mean heights " + ", ".join(f"{mean:.2f}" for mean in found.height.mean(axis=1)),
        ),
        predicted_claim(trends, found),
    )


def picture(config: EarlyConfig, found: Trends) -> Any:
    """The same panels as in Figure 4."""
    return trends_picture(config.trends, found)


_QUICK = replace(_EARLY, **QUICK | {"epochs": 200, "test_every": 5}, rho=(0.97, 0.99, 0.999))
EARLY_HILLS = Experiment(
    "Beyond Figures 4 and 5: hills that come before the memories",
    SUBJECT,
    EarlyConfig(),
    EarlyConfig(TrendConfig("rho", 1, _QUICK)),
    run,
    claims,
    picture,
    "The settings at which an earlier version of this report found the trends of Figures 4 to 6 the other "
    "way round: h 1e-3, beta .99.",
)
