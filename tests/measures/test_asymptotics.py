"""Verdicts on slopes: traps that are no contradiction, wrong fields that are one, every threshold."""

import sys

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.fields.terms import field_of
from implicit_adam.fields.vector_field import exact_terms, raveled_field
from implicit_adam.inputs import checked_inputs
from implicit_adam.losses.problems import bilinear, quadratic
from implicit_adam.measures.asymptotics import CONTRADICTED, HOLDS, NOT_YET, Setting, judged
from implicit_adam.measures.watched import remembered
from tests import examples

BILINEAR, QUADRATIC = bilinear(), quadratic()
HIDDEN = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)))


def with_kinks(theta):
    """Every component passes the kink of the second term."""
    return jnp.sum(theta**2) / 2 + 0.1 * jnp.sum(jnp.abs(theta - 0.5))


def relu_network(theta):
    return jnp.mean((jax.nn.relu(HIDDEN @ theta) - jnp.sin(HIDDEN[:, 0])) ** 2)


def with_a_jump_of_curvature(theta):
    return jnp.sum(optax.huber_loss(theta, delta=0.5))


def in_half_the_precision(theta):
    """Its rounding is far above that of the parameters."""
    return jnp.sum(jnp.cosh(theta.astype(jnp.float32))).astype(theta.dtype)


def linear(theta):
    return jnp.sum(theta)


def unstable(theta):
    return -jnp.sum(theta**2) / 2


def adam(beta, rho, eps):
    return ia.Adam(1.0, beta, rho, eps, eps_in_sqrt=True)


SHORT, OTHER = adam(0.5, 0.6, 0.1), jnp.asarray([1.0, -1.0, 0.5])
GD, START, DOWN = ia.GradientDescent(1.0), jnp.asarray([1.0, 1.3, 2.0]), (NOT_YET, NOT_YET)
ON_BILINEAR = (BILINEAR.loss, BILINEAR.params)
ON_QUADRATIC = (QUADRATIC.loss, QUADRATIC.params)
HALVED = (50, 100, 200, 400)
# Rule, loss and start, time, step counts; the verdicts of orders 0 and 1, and words of the latter's reason.
TRAPS = {
    "an ordinary run": (adam(0.5, 0.7, 1e-3), ON_BILINEAR, 0.5, HALVED, (HOLDS, HOLDS), ""),
    "rho = beta, where the plain flow is as good": (
        (adam(0.7, 0.7, 1e-10), ON_BILINEAR, 0.5, HALVED, (HOLDS, HOLDS), "")
    ),
    "a memory longer than the run": (
        (adam(0.5, 0.9999, 1e-8), ON_BILINEAR, 0.1, HALVED, DOWN, "memory is as long as the run")
    ),
    "a memory of half the run": (
        (adam(0.9, 0.95, 1e-3), ON_BILINEAR, 0.1, (10, 20, 40), DOWN, "memory is as long as the run")
    ),
    "signs that turn at the bottom": (
        (adam(0.5, 0.7, 1e-12), ON_BILINEAR, 4.0, (100, 200, 400, 800), DOWN, "h times memory is not small")
    ),
    "a tiny horizon": (adam(0.5, 0.7, 1e-3), ON_BILINEAR, 1e-10, HALVED, DOWN, "rounding"),
    "a corrected flow on the floor": (
        (adam(0.5, 0.7, 1e-3), ON_BILINEAR, 1e-4, (1000, 2000, 4000), (HOLDS, NOT_YET), "rounding")
    ),
    "a start too short": (adam(0.5, 0.7, 1e-3), ON_BILINEAR, 0.01, (1, 3, 9), DOWN, "memory is as long"),
    "steps close together": (
        (adam(0.5, 0.7, 1e-3), ON_BILINEAR, 0.02, (320, 336, 352, 368), DOWN, "factor of 1.1 in h")
    ),
    "slopes on their way": (
        (adam(0.5, 0.9, 1.0), ON_BILINEAR, 0.5, (60, 120, 240), DOWN, "still move")
    ),
    "heavy ball that remembers all of it": (
        (ia.HeavyBall(1.0, 0.999), ON_BILINEAR, 0.02, HALVED, DOWN, "memory is as long as the run")
    ),
    "heavy ball beyond the regime": (
        (ia.HeavyBall(1.0, 0.98), ON_BILINEAR, 0.02, (400, 800, 1600), DOWN, "h times memory is not small")
    ),
    "a sum that is never forgotten": (
        (ia.Adagrad(1.0), ON_QUADRATIC, 1.0, HALVED, DOWN, "memory is as long as the run")
    ),
    "a sign that is too sharp": (
        (ia.Signum(1.0, beta=0.5, eps=1e-6), ON_QUADRATIC, 3.0, HALVED, DOWN, "h times memory is not small")
    ),
    "a quadratic, whose third derivative vanishes": (GD, ON_QUADRATIC, 1.0, HALVED, (HOLDS, HOLDS), ""),
    "steps beyond stability": (GD, ON_QUADRATIC, 2000.0, (10, 20, 40), DOWN, "diverges"),
    "a linear loss, which the flow follows exactly": (GD, (linear, START), 1.0, HALVED, DOWN, "rounding"),
    "errors as large as the path": (
        (GD, (unstable, START), 300.0, (2000, 4000, 8000), DOWN, "of the distance travelled")
    ),
    "kinks on the way": (ia.HeavyBall(1.0, 0.5), (with_kinks, START), 1.5, HALVED, DOWN, "not smooth"),
    "a network of ReLU": (
        (ia.HeavyBall(1.0, 0.5), (relu_network, OTHER), 2.0, (200, 400, 800), DOWN, "not smooth")
    ),
    "a loss in half the precision": (
        (GD, (in_half_the_precision, START), 1e-3, HALVED, (HOLDS, NOT_YET), "narrower dtype")
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "on", "horizon", "counts", "expected", "words"), TRAPS.values(), ids=TRAPS)
def test_a_trap_is_no_contradiction(rule, on, horizon, counts, expected, words):
    study = ia.convergence(rule, *on, horizon=horizon, step_counts=counts)
    assert tuple(study.verdict.values()) == expected, study.why
    assert words in study.why[1]
    for order, verdict in study.verdict.items():
        assert study.asymptotic[order] == (verdict == HOLDS)
        assert (study.why[order] == "") == (verdict == HOLDS)


def test_order_2_asks_for_one_derivative_more():
    """Curvature that jumps costs the first correction nothing in order, and the second its own."""
    study = ia.convergence(
        ia.HeavyBall(1.0, 0.5),
        with_a_jump_of_curvature,
        START,
        horizon=3.0,
        step_counts=(100, 200, 400, 800),
        orders=(2,),
    )
    assert study.verdict[2] == NOT_YET
    assert "not smooth" in study.why[2]


@pytest.mark.parametrize(
    ("solver", "order"), [(diffrax.Euler(), 1), (diffrax.Heun(), 2), (diffrax.Bosh3(), 3)]
)
def test_a_solver_of_too_low_an_order_is_refused_with_the_one_it_takes(solver, order):
    kwargs = {"horizon": 0.1, "step_counts": (20, 40, 80), "solver": solver}
    with pytest.raises(ValueError, match=f"is of order {order}, .* take a solver of order {order + 1}"):
        ia.convergence(GD, *ON_QUADRATIC, orders=(0, order), **kwargs)
    assert ia.convergence(GD, *ON_QUADRATIC, orders=(order - 1,), **kwargs).error


def test_errors_within_the_tolerance_of_an_adaptive_solver_are_not_fitted():
    kwargs = {"horizon": 1.0, "step_counts": (20, 40, 80), "orders": (1,)}
    loose = diffrax.PIDController(rtol=1e-4, atol=1e-4)
    study = ia.convergence(GD, *ON_QUADRATIC, stepsize_controller=loose, **kwargs)
    assert study.verdict[1] == NOT_YET
    assert "rounding" in study.why[1]
    tight = diffrax.PIDController(rtol=1e-12, atol=1e-12)
    assert ia.convergence(GD, *ON_QUADRATIC, stepsize_controller=tight, **kwargs).verdict[1] == HOLDS


def flipped(rule, objective, order):
    """The highest term with the wrong sign."""
    if order == 0:
        return raveled_field(rule, objective, 0)
    below, right = (raveled_field(rule, objective, q) for q in (order - 1, order))
    return lambda n: lambda theta: 2 * below(n)(theta) - right(n)(theta)


def without_the_half(rule, objective, order):
    """The map without memory taken for a flow: the half step of the current update is missing."""
    return field_of(rule, objective, exact_terms(rule, objective, order, flow=False))


def a_percent_too_fast(rule, objective, order):
    right = raveled_field(rule, objective, order)
    return lambda n: lambda theta: 1.01 * right(n)(theta)


WRONG = {
    "the sign, gradient descent": (flipped, GD, (1,), (HOLDS, CONTRADICTED)),
    "the sign, heavy ball": (flipped, ia.HeavyBall(1.0, 0.5), (1,), (HOLDS, CONTRADICTED)),
    "the sign, Adam": (flipped, SHORT, (1,), (HOLDS, CONTRADICTED)),
    "the sign at order 2": (flipped, SHORT, (1, 2), (CONTRADICTED, CONTRADICTED)),
    "the half, gradient descent": (without_the_half, GD, (1,), (HOLDS, CONTRADICTED)),
    "the half, Adam": (without_the_half, SHORT, (1,), (HOLDS, CONTRADICTED)),
}


@pytest.mark.parametrize(("wrong", "rule", "orders", "expected"), WRONG.values(), ids=WRONG)
def test_a_wrong_term_is_a_contradiction(wrong, rule, orders, expected, monkeypatch):
    monkeypatch.setattr(sys.modules["implicit_adam.measures.lockstep"], "raveled_field", wrong)
    # A function of its own, or a program compiled for the right field would serve.
    loss = lambda theta: examples.full_loss(theta)
    orders = (0, *orders) if expected[0] == HOLDS else orders
    study = ia.convergence(
        rule, loss, examples.START, horizon=0.3, step_counts=(40, 80, 160, 320), orders=orders
    )
    assert tuple(study.verdict.values()) == expected, study.why
    assert f"h^{orders[-1]}" in study.why[orders[-1]]


def test_a_wrong_leading_field_is_seen_at_the_first_step(monkeypatch):
    """Whose error does not fall at all, as it does not where the memory is as long as the run."""
    for module in ("measures.lockstep", "measures.watched"):
        monkeypatch.setattr(sys.modules[f"implicit_adam.{module}"], "raveled_field", a_percent_too_fast)
    study = ia.convergence(
        SHORT, lambda theta: examples.full_loss(theta), examples.START, horizon=0.3, step_counts=(40, 80, 160)
    )
    assert set(study.verdict.values()) == {CONTRADICTED}
    assert "first update" in study.why[0]


def test_what_is_watched_is_that_of_the_stored_run():
    """With heavy ball's frozen update, (1 - b^(n+1)) / (1 - b) gradients, and dense Hessians."""
    b, counts, loss = 0.6, (6, 12, 24), BILINEAR.loss
    study = ia.convergence(
        ia.HeavyBall(1.0, b), loss, BILINEAR.params, horizon=0.006, step_counts=counts, orders=(0,)
    )
    for i, steps in enumerate(counts):
        h = 0.006 / steps
        x = np.asarray(ia.iterate(ia.HeavyBall(h, b), loss, BILINEAR.params, steps).params)
        g = np.asarray(jax.vmap(jax.grad(loss))(x))
        mass = ((1 - b ** np.arange(1, steps + 1)) / (1 - b))[:, None]
        F, here, there = -np.diff(x, axis=0) / h, mass * g[:-1], mass * g[1:]
        change = abs(F - here).max(axis=1) + abs(there - here).max(axis=1) / 2
        np.testing.assert_allclose(study.validity[i], change.max() / abs(F).max(), rtol=1e-9)
        hessians = jax.vmap(jax.hessian(loss))((x[1:] + x[:-1]) / 2)
        turned = np.diff(g, axis=0)
        unexplained = turned - np.einsum("nij,nj->ni", hessians, np.diff(x, axis=0))
        rough = np.linalg.norm(unexplained, axis=1).sum() / np.linalg.norm(turned, axis=1).sum()
        np.testing.assert_allclose(study.roughness[i], rough, rtol=1e-6)
        floor = np.finfo(float).eps * steps**0.5 * np.linalg.norm(x, axis=1).max()
        np.testing.assert_allclose(study.rounding_floor[i], floor, rtol=1e-9)


def test_remembered_is_the_weight_of_the_first_half():
    """Of heavy ball (1 - b^N) / (1 - b) gradients, those of lag N/2 and more, thrice: g to -2 g."""
    b, steps = 0.9, 20
    share = remembered(*_training(ia.HeavyBall(0.1, b)), steps)
    np.testing.assert_allclose(share, 3 * (b**10 - b**20) / (1 - b**20), rtol=1e-12)
    assert float(remembered(*_training(GD), steps)) == 0
    for keeps in (
        optax.contrib.schedule_free_adamw(1.0, b1=0.5, b2=0.7),
        optax.amsgrad(1.0),
        optax.adagrad(1.0),
    ):
        assert float(remembered(*_training(ia.Optax(0.01, keeps)), 400)) > 0.2


def _training(rule):
    inputs = checked_inputs(rule, examples.full_loss, examples.START, equation=False)
    return inputs.rule, inputs.objective, inputs.theta


H = 0.01 / 2.0 ** np.arange(5)


def seen(error, order=1, **different):
    """The judgement of errors in a setting where everything but what is given is as it should be."""
    ones = np.ones(5)
    fine = {"h": H, "floor": 0 * ones, "travelled": ones, "validity": H, "remembered": 0 * ones}
    setting = Setting(**{**fine, "roughness": H**2, "noise": 0 * ones, "first": 0 * ones, **different})
    return judged(setting, error, order)


BOUNDARIES = {
    "holds from 1.9 on": (lambda x: seen(H**x), 1.901, 1.899, HOLDS),
    "order 0 from .85 on": (lambda x: seen(H**x, 0), 0.851, 0.849, HOLDS),
    "more is better": (lambda x: seen(H**x), 2.4, 1.6, HOLDS),
    "a whole power up to .1": (lambda x: seen(H**x), 1.099, 1.101, CONTRADICTED),
    "a whole power from .9": (lambda x: seen(H**x), 0.901, 0.899, CONTRADICTED),
    "thrice the next term": (lambda x: seen(x * H[-1] * H), 3.01, 2.99, CONTRADICTED),
    "a tenth of the path": (lambda x: seen(x * (H / H[2]) ** 2), 0.0999, 0.1001, HOLDS),
    "a tenth of the update": (lambda x: seen(H**2, validity=x * H / H[2]), 0.0999, 0.1001, HOLDS),
    "a tenth of the memory": (lambda x: seen(H**2, remembered=x * (H / H[2])), 0.0999, 0.1001, HOLDS),
    "validity like h^.75": (lambda x: seen(H**2, validity=H**x), 0.76, 0.74, HOLDS),
    "unless it is rounding": (
        (lambda x: seen(H**2, validity=0 * H + 1e-3, noise=x + 0 * H), 1.01e-4, 9.9e-5, HOLDS)
    ),
    "kinks a tenth of what is left": (lambda x: seen(H, roughness=x + 0 * H), 0.099, 0.101, CONTRADICTED),
    "which fall like h^.75": (lambda x: seen(H, roughness=H**x / H[0]**x), 0.76, 0.74, CONTRADICTED),
    "like h^1.75 for order 2": (lambda x: seen(H**2, 2, roughness=H**x / H[0]**x), 1.76, 1.74, CONTRADICTED),
    "and for order 3": (lambda x: seen(H**3, 3, roughness=H**x / H[0]**x), 1.76, 1.74, CONTRADICTED),
    "another first update": (lambda x: seen(H**2, first=x + 0 * H), 0.99e-6, 1.01e-6, HOLDS),
    "at a single h": (lambda x: seen(H**2, first=x * (H[0] == H)), 0.99e-6, 1.01e-6, HOLDS),
}  # fmt: skip


@pytest.mark.parametrize(("at", "inside", "beyond", "verdict"), BOUNDARIES.values(), ids=BOUNDARIES)
def test_every_threshold_decides(at, inside, beyond, verdict):
    assert at(inside).verdict == verdict
    assert at(beyond).verdict != verdict


@pytest.mark.parametrize("nonsense", [np.nan, np.inf, 0.0])
def test_numbers_that_are_none_decide_nothing(nonsense):
    assert seen(np.full(5, nonsense)).verdict == NOT_YET
    if nonsense != 0:
        assert seen(H**2, validity=np.full(5, nonsense)).verdict == NOT_YET
        assert seen(H**2, remembered=np.full(5, nonsense)).verdict == NOT_YET


def test_equal_errors_and_noise_settle_nothing():
    assert [seen(np.full(5, 1e-3), order).verdict for order in (0, 1, 2)] == [NOT_YET] * 3
    noise = np.random.default_rng(0)
    assert all(seen(1e-3 * noise.uniform(0.5, 1.5, 5)).verdict == NOT_YET for _ in range(50))
