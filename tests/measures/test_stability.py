"""Thresholds against what the optimizers themselves do on a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from tests import odd_rules

# So large that the preconditioner is a constant and the smooth sign a line.
EPS = 1e30
RULES = {
    "gradient descent": ia.GradientDescent(0.1),
    "heavy ball": ia.HeavyBall(0.1, 0.6),
    "nesterov": ia.Nesterov(0.1, 0.6),
    "adam": ia.Adam(0.1, 0.6, 0.9, EPS, eps_in_sqrt=True),
    "adam, eps outside": ia.Adam(0.1, 0.6, 0.9, EPS, eps_in_sqrt=False),
    "rmsprop": ia.RMSProp(0.1, 0.9, EPS, eps_in_sqrt=True),
    "adamw": ia.AdamW(0.1, 0.6, 0.9, EPS, eps_in_sqrt=True, weight_decay=3.0),
    "nadam": ia.NAdam(0.1, 0.6, 0.9, EPS, eps_in_sqrt=True),
    "ademamix": ia.AdEMAMix(0.1, 0.5, 0.9, 0.9, 5.0, EPS, eps_in_sqrt=True),
    "signum": ia.Signum(0.1, 0.6, eps=EPS),
    "lion": ia.Lion(0.1, 0.6, 0.8, eps=EPS, weight_decay=2.0),
    "lion whose roots leave as a pair": ia.Lion(0.1, 0.9, 0.5, eps=EPS),
    "scheduled": ia.Scheduled(ia.HeavyBall(0.2, 0.6), lambda n: jnp.where(n < 10, 1.0, 0.3)),
    "two memories of the gradient": odd_rules.TwoMemories(0.1),
}


def growth(rule, sharpness):
    """|theta| at the end of a run on sharpness theta^2/2, over |theta| in its middle, by the optax twin."""
    tx = optax.with_extra_args_support(rule.transformation())

    def step(carry, _):
        theta, state = carry
        with jax.numpy_dtype_promotion("standard"):
            update, state = tx.update(sharpness * theta, state, theta)
        theta = theta + update
        return (theta, state), jnp.abs(theta[0])

    # Small enough to stay where the recursion is linear, large enough not to vanish.
    theta = jnp.asarray([1e-30])
    _, size = jax.lax.scan(step, (theta, tx.init(theta)), None, length=400)
    return jnp.max(size[-100:]) / jnp.max(size[150:250])


@pytest.mark.parametrize("name", RULES)
def test_the_optimizer_shrinks_just_below_its_threshold_and_grows_just_above(name):
    rule = RULES[name]
    threshold = ia.stability_threshold(rule, 500)
    base = rule.rule if isinstance(rule, ia.Scheduled) else rule
    per_unit = ia.preconditioned_sharpness(base, lambda x: jnp.sum(x**2) / 2, jnp.asarray([1e-30])).value
    sharpness = threshold / per_unit * jnp.asarray([0.3, 0.7, 0.98, 1.02])
    grown = np.asarray(jax.jit(jax.vmap(lambda x: growth(rule, x)))(sharpness))
    assert (grown[:3] < 0.99).all()
    assert grown[3] > 1.01


def test_known_thresholds():
    h, beta = 0.1, 0.9
    known = [
        (ia.GradientDescent(h), 2 / h),
        (ia.RMSProp(h, 0.9, eps_in_sqrt=True), 2 / h),
        (ia.Adagrad(h), 2 / h),
        (ia.Adam(h, beta, eps_in_sqrt=True), 38 / h),
        (ia.HeavyBall(h, beta), 38 / h),
        (ia.AdamW(h, beta, eps_in_sqrt=True, weight_decay=2.0), (2 - 2 * h) * 19 / h),
        (ia.AdamW(h, beta, eps_in_sqrt=True, weight_decay=21.0), 0.0),
        (ia.Nesterov(h, beta), 2 * (1 + beta) / ((1 - beta) * (1 + 2 * beta) * h)),
    ]
    for rule, threshold in known:
        np.testing.assert_allclose(ia.stability_threshold(rule), threshold, rtol=1e-13)
    scheduled = ia.Scheduled(ia.GradientDescent(h), optax.linear_schedule(1.0, 0.5, 10))
    np.testing.assert_allclose(ia.stability_threshold(scheduled, 5), 2 / (0.75 * h), rtol=1e-6)
    assert ia.stability_threshold(ia.Adam(jnp.float32(h), beta, eps_in_sqrt=True)).dtype == jnp.float32


@pytest.mark.parametrize("beta", [0.3, 0.9])
def test_it_is_mapped_and_differentiated_where_roots_leave_at_minus_one_and_as_a_pair(beta):
    f = lambda beta: ia.stability_threshold(ia.Lion(0.1, beta, 0.5, eps=1.0))
    slope = (f(beta + 1e-6) - f(beta - 1e-6)) / 2e-6
    mapped, slopes = jax.jit(jax.vmap(jax.value_and_grad(f)))(jnp.asarray([beta, 0.5]))
    np.testing.assert_allclose(mapped[0], f(beta), rtol=1e-12)
    np.testing.assert_allclose(slopes[0], slope, rtol=1e-6)
