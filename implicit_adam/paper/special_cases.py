"""The paper's special cases: gradient descent, heavy ball, and Adam with a large eps.

Each has a modified loss E~ whose gradient flow the iterates follow up to O(h^2); they follow the flow of the
unmodified loss only up to O(h).
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.losses import modified_losses
from implicit_adam.paper.claims import Advance, Experiment
from implicit_adam.paper.modified_flows import Orders, Study, compared, order_claim, picture
from implicit_adam.rules import Adam, GradientDescent, HeavyBall
from implicit_adam.types import Loss

# The step size at which identities are checked.
H = 0.1

_STUDY = Study()
_QUICK = Study(step_counts=(200, 400, 800))


@dataclass(frozen=True)
class HeavyBallConfig:
    """The momentum beta of heavy ball."""

    study: Study = _STUDY
    beta: float = 0.5


@dataclass(frozen=True)
class LargeEpsConfig:
    """Adam's hyperparameters, with eps in units of the largest squared gradient component."""

    study: Study = _STUDY
    beta: float = 0.5
    rho: float = 0.6
    eps: float = 1e12


def gradient_descent(study: Study, advance: Advance) -> Orders:
    """Barrett & Dherin (2021): E~ = E + (h/4) ||grad E||^2. The identity checked is this penalty."""
    loss, theta = study.problem()

    def at(h: Any) -> tuple[GradientDescent, Loss, Loss]:
        rule = GradientDescent(h)
        return rule, modified_losses.gradient_descent(rule, loss), loss

    _, modified, _ = at(H)
    penalty = modified(theta) - loss(theta)
    return compared(study, at, penalty / (H / 4 * jnp.sum(jax.grad(loss)(theta) ** 2)) - 1, advance)


def heavy_ball(config: HeavyBallConfig, advance: Advance) -> Orders:
    """Ghosh et al. (2023): eq. (1) with its sign corrected. The identity is gradient descent at beta = 0."""
    loss, theta = config.study.problem()

    def at(h: Any) -> tuple[HeavyBall, Loss, Loss]:
        rule = HeavyBall(h * (1 - config.beta), config.beta)
        return rule, modified_losses.heavy_ball(rule, loss), _scaled(loss, 1 / (1 - config.beta))

    without = modified_losses.heavy_ball(HeavyBall(H, 0.0), loss)(theta)
    descent = modified_losses.gradient_descent(GradientDescent(H), loss)(theta)
    return compared(config.study, at, without / descent - 1, advance)


def adam_large_eps(config: LargeEpsConfig, advance: Advance) -> Orders:
    """Example 2.1: eq. (8). The identity is that it is heavy ball's with step h (1-beta)/sqrt(eps)."""
    loss, theta = config.study.problem()
    root = float((config.eps * jnp.max(jax.grad(loss)(theta) ** 2)) ** 0.5)

    def at(h: Any) -> tuple[Adam, Loss, Loss]:
        rule = Adam(h * root, config.beta, config.rho, root**2, eps_in_sqrt=True)
        return rule, modified_losses.adam_large_eps(rule, loss), _scaled(loss, 1 / root)

    _, modified, _ = at(H)
    ball = modified_losses.heavy_ball(HeavyBall(H * (1 - config.beta), config.beta), loss)
    # Both velocities times one step: h for Adam, and the step of heavy ball.
    identity = root * modified(theta) / ((1 - config.beta) * ball(theta)) - 1
    return compared(config.study, at, identity, advance)


def _scaled(loss: Loss, factor: float) -> Loss:
    return lambda theta: factor * loss(theta)


GD = Experiment(
    "Gradient descent (Barrett & Dherin)",
    "a random loss",
    replace(_STUDY, burn_in=0),
    replace(_QUICK, burn_in=0),
    gradient_descent,
    order_claim(
        "section 1",
        "E + (h/4) ||grad E||^2 approximates the trajectory of full-batch GD one order of h better.",
        "the penalty equals (h/4) ||grad E||^2",
    ),
    picture,
)
MOMENTUM = Experiment(
    "Heavy-ball momentum (Ghosh et al.)",
    "a random loss",
    HeavyBallConfig(),
    HeavyBallConfig(_QUICK),
    heavy_ball,
    order_claim(
        "eq. (1)",
        "For n large, heavy ball follows eq. (1), its sign corrected.",
        "without momentum its modified loss is that of gradient descent",
    ),
    picture,
)
EXAMPLE21 = Experiment(
    "Example 2.1: Adam with a large eps",
    "a random loss",
    LargeEpsConfig(),
    LargeEpsConfig(_QUICK),
    adam_large_eps,
    order_claim(
        "Example 2.1, eq. (8)",
        "With eps large (inside the root), Adam follows (8), which a linear change of step and time turns "
        "into heavy ball's equation.",
        "the two modified losses agree",
    ),
    picture,
)
