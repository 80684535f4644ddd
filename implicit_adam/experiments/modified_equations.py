"""The paper's special cases: gradient descent, its shuffles, heavy ball, and Adam with a large eps.

Each has a modified loss E~ whose gradient flow the iterates follow to O(h^2), where the flow of the
unmodified loss is followed to O(h) only (over one epoch of shuffles: O(h^3) and O(h^2)).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam import modified_losses
from implicit_adam.experiments.claims import Advance, Claim, Item, decided
from implicit_adam.experiments.random_losses import random_data, random_loss
from implicit_adam.iterate import iterate
from implicit_adam.rules import Adam, GradientDescent, HeavyBall
from implicit_adam.slopes import local_slopes
from implicit_adam.types import Loss, Scalar, Vector


@dataclass(frozen=True)
class CaseConfig:
    """A random convex loss on p parameters, a fixed time, and several numbers of steps for it."""

    step_counts: tuple[int, ...] = (100, 200, 400, 800)
    horizon: float = 1.0
    beta: float = 0.5
    # Adam's: eps in units of the largest squared gradient component, and its rho.
    eps: float = 1e12
    rho: float = 0.6
    # How often the flows are compared with the iterates; divides the step counts.
    looks: int = 50
    # Steps that fill the memory before the comparison starts ("for n large enough").
    burn_in: int = 60
    p: int = 5
    batches: int = 3
    seed: int = 0
    # How far the last local slope may lie from the order.
    tolerance: float = 0.15


class Orders(NamedTuple):
    """Errors (K,) of the modified and the plain flow at step sizes h, and their local slopes.

    `identity` is a relative difference that the claim says is zero.
    """

    h: np.ndarray
    modified: np.ndarray
    plain: np.ndarray
    modified_slope: np.ndarray
    plain_slope: np.ndarray
    identity: np.ndarray


def gradient_descent(config: CaseConfig, advance: Advance) -> Orders:
    """Barrett & Dherin (2021): E~ = E + (h/4) ||grad E||^2. The identity: E~ at h = 0 is E."""
    loss, theta = _problem(config)

    def at(h: Any) -> tuple[Any, Loss, Loss]:
        rule = GradientDescent(h)
        return rule, modified_losses.gradient_descent(rule, loss), loss

    h = 0.1
    ghost = modified_losses.gradient_descent(GradientDescent(h), loss)(theta) - loss(theta)
    identity = ghost / (h / 4 * jnp.sum(jax.grad(loss)(theta) ** 2)) - 1
    return _orders(config, loss, theta, at, 0, identity, advance)


def heavy_ball(config: CaseConfig, advance: Advance) -> Orders:
    """Ghosh et al. (2023), eq. (1) with its sign mended. Identity: gradient descent at beta = 0."""
    loss, theta = _problem(config)

    def at(h: Any) -> tuple[Any, Loss, Loss]:
        rule = HeavyBall(h * (1 - config.beta), config.beta)
        return rule, modified_losses.heavy_ball(rule, loss), _scaled(loss, 1 / (1 - config.beta))

    without = modified_losses.heavy_ball(HeavyBall(0.1, 0.0), loss)(theta)
    descent = modified_losses.gradient_descent(GradientDescent(0.1), loss)(theta)
    return _orders(config, loss, theta, at, config.burn_in, without / descent - 1, advance)


def adam_large_eps(config: CaseConfig, advance: Advance) -> Orders:
    """Example 2.1: eq. (8), which is heavy ball's with step h (1-beta)/sqrt(eps), the identity."""
    loss, theta = _problem(config)
    root = float((config.eps * jnp.max(jax.grad(loss)(theta) ** 2)) ** 0.5)

    def adam(h: Any) -> Adam:
        return Adam(h * root, config.beta, config.rho, root**2)

    def at(h: Any) -> tuple[Any, Loss, Loss]:
        return adam(h), modified_losses.adam_large_eps(adam(h), loss), _scaled(loss, 1 / root)

    h = 0.1
    ball = modified_losses.heavy_ball(HeavyBall(h * (1 - config.beta), config.beta), loss)(theta)
    # Times of one step: h for Adam, in its own unit, and the step of heavy ball.
    identity = root * modified_losses.adam_large_eps(adam(h), loss)(theta) / ((1 - config.beta) * ball) - 1
    return _orders(config, loss, theta, at, config.burn_in, identity, advance)


def shuffled(config: CaseConfig, advance: Advance) -> Orders:
    """Smith et al. (2021): the mean over all shuffles of one epoch of h, against time m h of the flows."""
    m = config.batches
    data = jax.vmap(lambda key: random_data(key, config.p))(jax.random.split(jax.random.key(config.seed), m))
    theta = jnp.ones(config.p)
    shuffles = jnp.asarray(list(permutations(range(m))))

    def loss(theta: Vector) -> Any:
        return jnp.mean(jax.vmap(random_loss, (None, 0))(theta, data))

    @jax.jit
    def distances(h: Scalar) -> tuple[Scalar, ...]:
        rule = GradientDescent(h)

        def epoch(order: Array) -> Vector:
            run = iterate(rule, random_loss, theta, m, batches=data, schedule=order, save_every=m)
            return jnp.asarray(run.params)[-1]

        mean = jnp.mean(jax.vmap(epoch)(shuffles), axis=0)
        ghost = modified_losses.shuffled_gradient_descent(rule, random_loss, data)
        ends = [_flowed(jax.grad(E), theta, (m * h)[None])[0] for E in (ghost, loss)]
        return tuple(jnp.linalg.norm(end - mean) for end in ends)

    errors = []
    steps_of_time = np.asarray([config.horizon / count for count in config.step_counts])
    for i, h in enumerate(steps_of_time):
        errors.append(distances(jnp.asarray(h)))
        advance((i + 1) / len(config.step_counts))
    modified, plain = np.asarray(errors).T
    return _with_slopes(steps_of_time, modified, plain, 0.0)


def _problem(config: CaseConfig) -> tuple[Loss, Vector]:
    data = random_data(jax.random.key(config.seed), config.p)
    return (lambda theta: random_loss(theta, data)), jnp.ones(config.p)


def _scaled(loss: Loss, factor: float) -> Loss:
    return lambda theta: factor * loss(theta)


def _orders(
    config: CaseConfig,
    loss: Loss,
    theta: Vector,
    at: Callable[[Any], tuple[Any, Loss, Loss]],
    burn_in: int,
    identity: Any,
    advance: Advance,
) -> Orders:
    """Iterates from step `burn_in` on, against the flows that start there: the largest distances up to T.

    `at(h)` gives the rule that moves by about h grad E a step, its modified loss and its plain one.
    """
    errors = []
    steps_of_time = np.asarray([config.horizon / count for count in config.step_counts])
    for i, (h, count) in enumerate(zip(steps_of_time, config.step_counts, strict=True)):
        rule, _, _ = at(float(h))
        run = jnp.asarray(iterate(rule, loss, theta, burn_in + count).params)
        errors.append(_distances(at, jnp.asarray(h), run[burn_in :: count // config.looks]))
        advance((i + 1) / len(config.step_counts))
    modified, plain = np.asarray(errors).T
    return _with_slopes(steps_of_time, modified, plain, identity)


@eqx.filter_jit
def _distances(
    at: Callable[[Any], tuple[Any, Loss, Loss]], h: Scalar, run: Float[Array, "looks p"]
) -> tuple[Scalar, ...]:
    """The largest distances of both flows from a run that is looked at evenly over the horizon."""
    rule, *losses = at(h)
    looks = len(run) - 1
    times = jnp.arange(1, looks + 1).astype(h.dtype) / looks * (rule.h / h)
    flows = [_flowed(jax.grad(E), run[0], times) for E in losses]
    return tuple(jnp.max(jnp.linalg.norm(points - run[1:], axis=-1)) for points in flows)


def _with_slopes(h: np.ndarray, modified: Any, plain: Any, identity: Any) -> Orders:
    errors = np.asarray(modified), np.asarray(plain)
    return Orders(
        h=h,
        modified=errors[0],
        plain=errors[1],
        modified_slope=local_slopes(h, errors[0]),
        plain_slope=local_slopes(h, errors[1]),
        identity=np.asarray(abs(float(identity))),
    )


def _flowed(gradient: Callable[[Vector], Vector], start: Vector, times: Array) -> Array:
    """The solution of d theta / dt = -gradient(theta) at these times, to far below what is measured."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: -gradient(y)),
        diffrax.Dopri8(),
        jnp.zeros_like(times[0]),
        times[-1],
        None,
        start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-13),
        max_steps=10_000,
    )
    return jnp.asarray(solution.ys)


def _claims(source: str, statement: str, order: int, identity: str) -> Callable[[CaseConfig, Orders], Any]:
    def claims(config: CaseConfig, found: Orders) -> tuple[Claim, ...]:
        last, contrast = found.modified_slope[-1], found.plain_slope[-1]
        right = abs(last - order) < config.tolerance and abs(contrast - (order - 1)) < config.tolerance
        same = found.identity < 1e-9
        return (
            Claim(
                source,
                statement,
                f"the last local slope is within {config.tolerance:g} of {order} for the modified flow and "
                f"of {order - 1} for the plain one{identity and f', and {identity} to 1e-9'}",
                f"slopes {last:.3f} and {contrast:.3f}{identity and f'; difference {found.identity:.1e}'}",
                decided(held=right and same, refuted=not same or last < order - 0.5),
            ),
        )

    return claims


def _item(title: str, run: Callable[..., Orders], claims: Callable[..., Any], **values: Any) -> Item:
    quick = CaseConfig(**{**values, "step_counts": (200, 400, 800)})
    return Item(title, CaseConfig(**values), quick, run, claims)


GD = _item(
    "Gradient descent (Barrett & Dherin)",
    gradient_descent,
    _claims(
        "section 1",
        "E + (h/4) ||grad E||^2 approximates the trajectory of full-batch GD one order of h better.",
        2,
        "the penalty equals (h/4) ||grad E||^2",
    ),
)
SGD = _item(
    "Shuffled mini-batches (Smith et al.)",
    shuffled,
    _claims(
        "section 1",
        "After one epoch the mean iterate over all shuffles is close to the flow of E + h/(4m) sum_k ||grad "
        "E_k||^2.",
        3,
        "",
    ),
)
MOMENTUM = _item(
    "Heavy-ball momentum (Ghosh et al.)",
    heavy_ball,
    _claims(
        "eq. (1)",
        "For n large, heavy ball follows eq. (1), its sign mended.",
        2,
        "without momentum its modified loss is that of gradient descent",
    ),
)
EXAMPLE21 = _item(
    "Example 2.1: Adam with a large eps",
    adam_large_eps,
    _claims(
        "Example 2.1, eq. (8)",
        "With eps large, Adam follows (8), which a linear change of step and time turns into heavy ball's "
        "equation.",
        2,
        "the two modified losses agree",
    ),
)
