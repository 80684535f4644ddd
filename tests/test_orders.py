"""Orders 2 and 3 of the modified equation: slopes, exact facts, closed sums against the literal history."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.convergence import supremum
from implicit_adam.fields.closed_second import closed_second
from implicit_adam.fields.history import history_terms
from implicit_adam.fields.moments import lag_moments, smooth_lag_moments
from implicit_adam.fields.replay import replay
from implicit_adam.fields.select import exact_terms
from implicit_adam.fields.series import value
from implicit_adam.flow import interval_step
from implicit_adam.objective import raveled
from implicit_adam.problems import bilinear
from implicit_adam.training import checked_training
from tests import losses
from tests.registry import CASES

STEPS = 9
SCHEDULE = losses.random_schedule(STEPS)
RANDOM = {"batches": losses.batches(), "schedule": SCHEDULE}


def quartic(theta, batch):
    """Random cubic and quartic terms, so that no derivative that matters vanishes."""
    A, c = batch
    return losses.batch_loss(theta, batch) + jnp.sum((A @ theta) ** 3) / 6 + jnp.sum(c * theta**4) / 24


def full_quartic(theta):
    return quartic(theta, jax.tree.map(lambda x: x[0], losses.batches()))


def chain(h):
    """Weight decay before the momentum, and a root-mean-square of all coordinates: no rule of kernels."""
    scaled = optax.scale_by_rms(decay=0.6, eps=0.1)
    return ia.Optax(
        h, optax.chain(optax.add_decayed_weights(0.2), scaled, optax.trace(0.5), optax.scale(-1.0))
    )


OPTIMIZERS = {
    name: CASES[name] for name in ("adam", "adam-eps-outside", "rmsprop", "nesterov", "adamw-eps-outside")
} | {"optax-chain": chain}


def slopes(error, hs=(1.25e-3, 6.25e-4)):
    """Of error(h), between neighbouring h, per order."""
    errors = np.array([jax.device_get(error(jnp.asarray(h))) for h in hs])
    return np.diff(np.log(errors), axis=0) / np.diff(np.log(hs))[:, None]


@pytest.mark.parametrize("schedule", ["full-batch", "random"])
@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_over_a_fixed_number_of_steps_each_order_gains_a_power_of_h(build, schedule):
    """One more than over a fixed time: the same batches at every h, and so slopes without scatter."""
    orders = (0, 1, 2, 3)
    if schedule == "random":
        arguments = (losses.batch_loss, losses.START, RANDOM["batches"], SCHEDULE)
    else:
        arguments = (losses.full_loss, losses.START)

    @jax.jit
    def error(h):
        return jnp.stack(supremum(checked_training(build(h), *arguments), STEPS, orders).two_norm)

    np.testing.assert_allclose(slopes(error)[-1], np.array(orders) + 2, atol=0.1)


@pytest.mark.parametrize("batched", [False, True], ids=["full-batch", "cyclic"])
def test_over_a_fixed_time_the_flow_of_order_2_is_of_third_order(batched):
    study = ia.convergence(
        CASES["adam"](1.0),
        losses.batch_loss if batched else losses.full_loss,
        losses.START,
        horizon=0.1,
        step_counts=(40, 80, 160, 320),
        orders=(0, 1, 2),
        batches=losses.batches() if batched else None,
    )
    assert all(study.asymptotic.values())
    np.testing.assert_allclose(list(study.slope.values()), [1, 2, 3], atol=0.15)


def test_errors_at_the_rounding_floor_are_left_out_of_the_fit_at_order_2_too():
    kwargs = {"horizon": 0.1, "orders": (2,)}
    start = (CASES["adam"](1.0), losses.full_loss, losses.START)
    study = ia.convergence(*start, step_counts=(100, 200, 400, 20000, 40000), **kwargs)
    assert study.error[2][-1] < 10 * study.rounding_floor[-1]
    above = ia.convergence(*start, step_counts=(100, 200, 400), **kwargs)
    assert study.slope[2] == above.slope[2]
    assert abs(study.slope[2] - 3) < 0.05


@pytest.mark.parametrize("name", ["adam", "nesterov"])
def test_the_memoryless_map_gains_a_power_of_h_with_every_order(name):
    def errors(h):
        arguments = (CASES[name](h), losses.batch_loss, losses.START, STEPS)
        run = ia.iterate(*arguments, **RANDOM).params
        maps = [ia.memoryless(*arguments, order=order, **RANDOM).params for order in (0, 1, 2, 3)]
        return jnp.stack([jnp.max(jnp.linalg.norm(G - run, axis=1)) for G in maps])

    np.testing.assert_allclose(slopes(errors)[-1], [2, 3, 4, 5], atol=0.1)


def biased_run(build, h, strength, order, loss, batches, schedule):
    """STEPS steps of an ordinary training loop, the start left out."""
    kwargs = {"batches": batches, "schedule": schedule}
    tx = ia.with_bias(build(h), loss, strength, order=order, **kwargs)

    def step(carry, n):
        params, state = carry
        batch = jax.tree.map(lambda x: x[schedule[n]], batches)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (losses.START, tx.init(losses.START)), jnp.arange(STEPS))[1]


def flow_with_bias(build, h, strength, order, loss, **kwargs):
    """The solution of theta' = f_0 + (1 + strength) (h f_1 + .. + h^order f_order)."""
    training = checked_training(build(h), loss, losses.START, **kwargs)
    terms = exact_terms(training.rule, training.objective, order, flow=True)

    def field(n):
        def velocity(theta):
            leading, *others = terms(n)(theta)
            return -leading - (1 + strength) * value((jnp.zeros_like(leading), *others), h)

        return velocity

    def step(theta, n):
        return (interval_step(field, h)(n, theta)[0],) * 2

    return jax.lax.scan(step, losses.START, jnp.arange(STEPS))[1]


@pytest.mark.parametrize("strength", [-1.0, 0.7])
@pytest.mark.parametrize("build", [CASES["adam"], chain], ids=["adam", "optax-chain"])
def test_with_bias_an_optimizer_follows_the_flow_of_its_terms_so_weighed(build, strength):
    """With strength -1 that is the plain flow."""
    orders, training = (0, 1, 2), {"loss": losses.batch_loss, **RANDOM}

    @jax.jit
    def error(h):
        runs = [biased_run(build, h, strength, order, **training) for order in orders]
        flow = flow_with_bias(build, h, strength, orders[-1], **training)
        return jnp.stack([jnp.max(jnp.linalg.norm(run - flow, axis=1)) for run in runs])

    np.testing.assert_allclose(slopes(error)[-1], np.array(orders) + 2, atol=0.1)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_bias_cancelled_from_gradient_descent_is_miyagawas_counter_term(order):
    """On a quadratic it moves as gradient flow does: exp(-h lambda) - 1 = -h lambda + (h lambda)^2/2 - .."""
    h, spectrum = 0.1, jnp.asarray([0.5, 1.0, 2.0])
    loss = lambda t: jnp.sum(spectrum * t**2) / 2
    tx = ia.with_bias(ia.GradientDescent(h), loss, -1.0, order=order)
    update = jax.jit(lambda t: tx.update(jax.grad(loss)(t), tx.init(t), t)[0])(losses.START)
    series = sum((-h * spectrum) ** i / math.factorial(i) for i in range(1, order + 2))
    np.testing.assert_allclose(update, series * losses.START, rtol=1e-12)


CLOSED = ("adam", "adam-eps-outside", "rmsprop-corrected", "gradient-descent", "adamw")


@pytest.mark.parametrize("name", CLOSED)
def test_closed_sums_are_the_literal_history(name):
    """Of the flow and of the map, coefficient by coefficient, with the order 1 that was there before."""
    rule, objective = CASES[name](0.1), raveled(full_quartic, losses.START)

    @jax.jit
    def both(n):
        return [
            (closed_second(rule, objective, flow=flow)(n)(losses.START),
             history_terms(replay(rule, objective), objective, 2, flow=flow)(n)(losses.START),
             exact_terms(rule, objective, 1, flow=flow)(n)(losses.START))
            for flow in (True, False)
        ]  # fmt: skip

    for n in (0, 1, 2, 7, 60):
        for closed, literal, first in both(jnp.asarray(n)):
            for x, y in zip(closed, literal, strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-13 + 1e-10 * float(jnp.max(jnp.abs(y))))
            for x, y in zip(closed, first, strict=False):
                np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["adam", "heavy-ball", "nadam", "lion", "rmsprop-eps-outside", "ademamix"])
def test_the_limit_at_order_2_is_the_literal_history_of_a_late_step(name):
    rule, objective = CASES[name](0.1), raveled(full_quartic, losses.START)
    late = jax.jit(history_terms(replay(rule, objective), objective, 2, flow=True)(jnp.asarray(250)))
    limit = closed_second(rule, objective, flow=True)(jnp.inf)(losses.START)
    for x, y in zip(limit, late(losses.START), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * float(jnp.max(jnp.abs(y))))


@pytest.mark.parametrize("name", ["adam", "nesterov", "scheduled-adam", "ademamix"])
def test_kernels_and_the_optax_twin_agree_at_order_3_and_extend_the_lower_orders(name):
    objective = raveled(quartic, losses.START, RANDOM["batches"], SCHEDULE)
    rule, twin = CASES[name](0.1), ia.Optax(0.1, CASES[name](1.0).transformation())
    third, by_optax = (
        jax.jit(history_terms(replay(x, objective), objective, 3, flow=True)(jnp.asarray(8)))(losses.START)
        for x in (rule, twin)
    )
    for x, y in zip(third, by_optax, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10)
    for order in (0, 1, 2):
        lower = jax.jit(exact_terms(rule, objective, order, flow=True)(jnp.asarray(8)))(losses.START)
        for x, y in zip(lower, third, strict=False):
            np.testing.assert_allclose(x, y, rtol=1e-10)


def test_the_second_order_of_gradient_descent_is_the_known_series():
    """Its terms are the counter terms of gradient flow (Miyagawa 2022)."""
    gradient = jax.grad(full_quartic)
    along = lambda f, v: jax.jvp(f, (losses.START,), (v,))[1]
    g = gradient(losses.START)
    Hg = along(gradient, g)
    expected = (
        g,
        Hg / 2,
        along(gradient, Hg) / 3 + along(lambda t: jax.jvp(gradient, (t,), (g,))[1], g) / 12,
    )
    h = 0.1
    field = ia.vector_field(ia.GradientDescent(h), full_quartic, order=2)(3, losses.START)
    np.testing.assert_allclose(-field, expected[0] + h * expected[1] + h**2 * expected[2], rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_on_a_quadratic_gradient_descent_has_the_series_of_the_logarithm(order):
    """-log(1 - h lambda) / h = lambda + h lambda^2 / 2 + h^2 lambda^3 / 3 + .."""
    h, spectrum = 0.1, jnp.asarray([0.5, 1.0, 2.0])
    loss = lambda t: jnp.sum(spectrum * t**2) / 2
    series = sum(h**i * spectrum ** (i + 1) / (i + 1) for i in range(order + 1))
    for field in (ia.vector_field(ia.GradientDescent(h), loss, order=order)(4, jnp.ones(3)),
                  ia.limiting_field(ia.GradientDescent(h), loss, order=order)(jnp.ones(3)),
                  ia.optax_vector_field(optax.sgd(1.0), loss, h, order=order)(4, jnp.ones(3))):  # fmt: skip
        np.testing.assert_allclose(-field, series, rtol=1e-13)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_on_a_quadratic_heavy_ball_has_the_larger_root_of_its_characteristic_polynomial(order):
    """theta+ = theta - h g + b (theta - theta-): mu^2 - (1 + b - h lambda) mu + b = 0, velocity log(mu)/h."""
    b, spectrum = 0.6, jnp.asarray([0.5, 1.0, 2.0])
    loss = lambda t: jnp.sum(spectrum * t**2) / 2

    @jax.jit
    def error(h):
        half = (1 + b - h * spectrum) / 2
        exact = jnp.log(half + jnp.sqrt(half**2 - b)) / h
        return jnp.abs(ia.limiting_field(ia.HeavyBall(h, b), loss, order=order)(jnp.ones(3)) - exact)

    hs = (4e-3, 2e-3, 1e-3)
    np.testing.assert_allclose(slopes(error, hs)[-1], order + 1, atol=0.1)


@pytest.mark.parametrize("n", [0, 1, 5, 700])
def test_the_moments_of_the_lag_are_sums_over_the_history(n):
    rule = ia.Adam(0.1, 0.9, 0.99)
    lag, decay = np.arange(n + 1.0), np.array([0.9, 0.99])[:, None]
    weights = decay**lag / np.sum(decay**lag, axis=1, keepdims=True)
    mean_lag_at = [
        np.array([np.average(np.arange(l + 1.0), weights=d ** np.arange(l + 1.0)) for l in range(n)])
        for d in decay[:, 0]
    ]
    run_up = np.array([[np.sum(lags[n - int(j) :]) if j else 0.0 for j in lag] for lags in mean_lag_at])
    moments = lag_moments(rule, jnp.asarray(n))
    np.testing.assert_allclose(moments.first, weights @ lag, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(moments.second, weights @ lag**2, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(moments.cross, weights @ run_up.T, rtol=1e-11, atol=1e-14)


def test_late_in_a_run_the_moments_and_the_fields_derivatives_stay_finite():
    moments = lag_moments(ia.Adam(0.1, 0.9, 0.99), jnp.asarray(20000))
    np.testing.assert_allclose(moments.second, [0.9 * 1.9 / 0.1**2, 0.99 * 1.99 / 0.01**2], rtol=1e-10)
    beta = jnp.asarray(0.9)
    field = lambda beta: ia.vector_field(ia.Adam(0.1, beta, 0.99), losses.full_loss)(20000, losses.START)
    assert bool(jnp.isfinite(jax.jacfwd(field)(beta)).all())


@pytest.mark.parametrize("n", [32, 60, 400])
def test_the_smooth_mean_lag_averages_to_that_of_the_step(n):
    """To what order 2 needs: without the bend it would miss by O(h^2) over a run."""
    rule = ia.Adam(0.1, 0.97, 0.99)
    nodes, weights = np.polynomial.legendre.leggauss(5)

    def average(moments):
        over = [
            w / 2 * moments(rule, jnp.asarray(n + x / 2)).first for x, w in zip(nodes, weights, strict=True)
        ]
        return sum(over)

    first = {moments: average(moments) for moments in (lag_moments, smooth_lag_moments)}
    exact = lag_moments(rule, jnp.asarray(n)).first
    error = {moments: float(jnp.max(jnp.abs(x - exact))) for moments, x in first.items()}
    assert error[smooth_lag_moments] < error[lag_moments] / 1000
    assert error[lag_moments] > 1e-6


SMOOTH = {
    "short memory": (ia.Adam(1e-3, 0.5, 0.7, 1e-2), 500),
    "long memory": (ia.Adam(1e-4, 0.9, 0.999, 1e-6), 1000),
    "decay": (ia.AdamW(1e-3, 0.9, 0.95, 1e-2, weight_decay=0.1), 500),
}


@pytest.mark.parametrize(("rule", "steps"), SMOOTH.values(), ids=SMOOTH.keys())
def test_the_smooth_flow_of_order_2_moves_it_by_far_less_than_its_own_error(rule, steps):
    problem = bilinear()
    arguments = (rule, problem.loss, problem.params, steps)
    piecewise, smooth = (
        ia.flow(*arguments, order=2, smooth=x, save_every=steps // 10) for x in (False, True)
    )
    distance = lambda a, b: float(jnp.max(jnp.linalg.norm(a.params - b.params, axis=-1)))
    own = distance(piecewise, ia.iterate(*arguments, save_every=steps // 10))
    assert 0 < distance(smooth, piecewise) < own / 100
    assert own < distance(ia.flow(*arguments, save_every=steps // 10), piecewise) / 3


def deep_loss(weights):
    """Six square layers, so that nearly all products are with inner activations."""
    z = jnp.cos(jnp.arange(512.0 * 48).reshape(512, 48))
    for w in weights:
        z = jnp.tanh(z @ w)
    return jnp.mean(z**2)


@pytest.mark.parametrize(("rule", "r"), [(ia.GradientDescent(0.1), 1), (ia.Adam(0.1), 2)])
def test_an_evaluation_in_closed_form_at_order_2_costs_what_was_counted(rule, r):
    """A gradient, D, T[F, F] and r products Hess E V: 1 + 2 + 7/3 + 2r gradients, whatever n is."""
    weights = [jax.random.normal(key, (48, 48)) / 7 for key in jax.random.split(jax.random.key(0), 6)]

    def operations(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    gradient = operations(jax.grad(deep_loss), weights)
    cost = operations(ia.vector_field(rule, deep_loss, order=2), jnp.asarray(5), weights)
    assert 0.9 < cost / gradient / (16 / 3 + 2 * r) < 1.1


def test_one_trace_serves_all_step_sizes_and_step_numbers():
    traces = []

    def loss(theta, batch):
        traces.append(1)
        return losses.batch_loss(theta, batch)

    def study(h, counts):
        return ia.convergence(
            ia.Adam(h, 0.5, 0.6, 0.1), loss, losses.START,
            horizon=h, step_counts=counts, orders=(2,), batches=losses.batches(),
        )  # fmt: skip

    study(0.1, (4, 8, 16))
    first = len(traces)
    study(0.2, (5, 10, 15))
    assert len(traces) == first + 1  # the look at its shape


def test_order_2_takes_pytrees_float32_and_vmap():
    rule = CASES["adam"]
    flat = ia.vector_field(rule(0.1), losses.batch_loss, order=2, **RANDOM)(5, losses.START)
    tree = ia.vector_field(rule(0.1), losses.tree_loss, order=2, **RANDOM)(5, losses.as_tree(losses.START))
    np.testing.assert_allclose(losses.from_tree(tree), flat, rtol=1e-13)
    cast = jax.tree.map(lambda x: x.astype(jnp.float32), (losses.START, RANDOM["batches"]))
    narrow = ia.vector_field(rule(0.1), losses.batch_loss, order=2, batches=cast[1], schedule=SCHEDULE)(
        5, cast[0]
    )
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, flat, rtol=1e-4)
    field = lambda h: ia.vector_field(rule(h), losses.full_loss, order=2)(5, losses.START)
    together = jax.vmap(field)(jnp.asarray([0.1, 0.2]))
    np.testing.assert_allclose(together, [field(0.1), field(0.2)], rtol=1e-12)


REFUSED = {
    "too high": (lambda: ia.vector_field(CASES["adam"](0.1), losses.full_loss, order=4), "0 .* to 3, got 4"),
    "flow": (lambda: ia.flow(CASES["adam"](0.1), losses.full_loss, losses.START, 4, order=4), "got 4"),
    "with bias": (lambda: ia.with_bias(CASES["adam"](0.1), losses.full_loss, 1.0, order=-1), "got -1"),
    "shifted": (
        lambda: ia.vector_field(CASES["adam"](0.1), losses.full_loss, order=2, shifted=True), r"O\(h\^2\)"
    ),
    "smooth": (
        lambda: ia.flow(CASES["adam"](0.1), losses.full_loss, losses.START, 4, order=3, smooth=True),
        "leave smooth out",
    ),
    "smooth in mini-batches": (
        lambda: ia.flow(
            CASES["adam"](0.1), losses.batch_loss, losses.START, 6,
            order=2, smooth=True, batches=losses.batches(),
        ),
        "leave smooth out",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_orders_that_do_not_exist_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
