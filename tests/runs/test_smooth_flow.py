"""The smooth flow: one solve for all steps, far closer to the piecewise flow than this to the optimizer."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import bilinear, digits
from tests import examples

BILINEAR = bilinear()

SETTINGS = {
    "adam": (ia.Adam(1e-3, 0.9, 0.95, 1e-2, eps_in_sqrt=True), 500, {}),
    "adam, practical memory": (ia.Adam(1e-4, 0.9, 0.999, 1e-6, eps_in_sqrt=True), 2000, {}),
    "adam, eps outside": (ia.Adam(1e-3, 0.9, 0.95, 1e-1, eps_in_sqrt=False), 500, {}),
    "rmsprop": (ia.RMSProp(1e-3, 0.95, 1e-2, bias_correction=True), 500, {}),
    "adamw": (ia.AdamW(1e-3, 0.9, 0.95, 1e-2, weight_decay=0.1, eps_in_sqrt=True), 500, {}),
    "implicit": (ia.Adam(1e-3, 0.9, 0.95, 1e-2, eps_in_sqrt=True), 500, {"solver": diffrax.Kvaerno5()}),
}


def sup(a, b):
    return float(jnp.max(jnp.linalg.norm(a.params - b.params, axis=-1)))


@pytest.mark.parametrize(("rule", "steps", "kwargs"), SETTINGS.values(), ids=SETTINGS.keys())
def test_it_moves_the_flow_by_less_than_a_tenth_of_the_flows_own_error(rule, steps, kwargs):
    arguments = (rule, BILINEAR.loss, BILINEAR.params, steps)
    smooth = ia.smooth_flow(*arguments, save_every=steps // 10, **kwargs)
    piecewise = ia.flow(*arguments, save_every=steps // 10)
    optimizer = ia.iterate(*arguments, save_every=steps // 10)
    assert 0 < sup(smooth, piecewise) < sup(piecewise, optimizer) / 10
    np.testing.assert_array_equal(smooth.t, piecewise.t)
    assert bool(smooth.finite)


# At order 2 more steps are rounding alone.
@pytest.mark.parametrize(("steps", "order"), [(10_000, 1), (1_000_000, 1), (10_000, 2)])
def test_it_does_so_for_a_million_steps_too(steps, order):
    """Down to what the additions of so many steps round off, about eps sqrt(n) ||theta||."""
    rule = ia.Adam(1 / steps, 0.5, 0.7, 1e-2, eps_in_sqrt=True)
    arguments = (rule, BILINEAR.loss, BILINEAR.params, steps)
    smooth = ia.smooth_flow(*arguments, order=order, save_every=steps // 5)
    piecewise = ia.flow(*arguments, order=order, save_every=steps // 5)
    optimizer = ia.iterate(*arguments, save_every=steps // 5)
    size = float(jnp.max(jnp.linalg.norm(optimizer.params, axis=-1)))
    rounding = float(jnp.finfo(float).eps) * steps**0.5 * size
    assert sup(smooth, piecewise) < max(sup(piecewise, optimizer) / 10, rounding)


def test_a_start_at_rest_stays_there_at_zero_and_elsewhere():
    for point in (0.0, 3.0):
        loss = lambda theta, point=point: jnp.sum((theta - point) ** 2)
        start = jnp.full(3, point)
        run = ia.smooth_flow(ia.Adam(1e-3, eps=1e-2, eps_in_sqrt=True), loss, start, 100)
        np.testing.assert_array_equal(run.params, jnp.broadcast_to(start, run.params.shape))
        assert bool(run.finite)


def test_what_it_reports_differentiates_at_the_start_too():
    run = lambda h: ia.smooth_flow(
        ia.Adam(h, eps=1e-2, eps_in_sqrt=True), examples.full_loss, examples.START, 50
    )
    assert bool(jnp.isfinite(jax.jacfwd(lambda h: run(h).step_error)(1e-3)).all())


def test_it_gives_up_after_65536_steps_of_the_solver():
    """Stability allows an explicit solver steps of about 3 / curvature."""
    loss = lambda theta: jnp.sum((theta - 1) ** 2) / 2

    def finite(steps):
        run = ia.smooth_flow(ia.GradientDescent(0.1), loss, examples.START, steps, order=0, save_every=steps)
        return bool(run.finite)

    assert finite(400_000)
    assert not finite(4_000_000)


def test_it_holds_on_real_data():
    problem = digits(batches=1, samples=300)
    arguments = (ia.Adam(1e-4, 0.9, 0.95, 1e-4, eps_in_sqrt=True), problem.loss, problem.params, 200)
    ends = [
        run(*arguments, batches=problem.batches, save_every=200).params for run in (ia.smooth_flow, ia.flow)
    ]
    end = ia.iterate(*arguments, batches=problem.batches, save_every=200).params
    distance = lambda a, b: max(
        float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    assert distance(*ends) < distance(ends[1], end) / 10


def test_its_cost_does_not_depend_on_h():
    """The right side is evaluated as often for a million steps as for a thousand, to a factor of two."""
    evaluations = []

    def loss(theta):
        jax.debug.callback(lambda: evaluations.append(1))
        return BILINEAR.loss(theta)

    counts = []
    for steps in (1_000, 1_000_000):
        evaluations.clear()
        run = ia.smooth_flow(
            ia.Adam(1 / steps, 0.9, 0.95, 1e-2, eps_in_sqrt=True),
            loss,
            BILINEAR.params,
            steps,
            save_every=steps,
        )
        jax.block_until_ready(run.params)
        jax.effects_barrier()
        counts.append(len(evaluations))
    assert 0 < counts[1] < 2 * counts[0] < 2000


def test_its_tolerance_is_the_users_and_is_reported():
    arguments = (ia.Adam(1e-3, 0.9, 0.95, 1e-2, eps_in_sqrt=True), BILINEAR.loss, BILINEAR.params, 500)
    tight, loose = (
        ia.smooth_flow(*arguments, save_every=100, stepsize_controller=diffrax.PIDController(rtol=x, atol=x))
        for x in (1e-12, 1e-4)
    )
    assert 1e-12 < sup(tight, loose) < 1e-2
    np.testing.assert_allclose(
        loose.step_error, 1e-4 * (1 + jnp.max(jnp.abs(loose.params), axis=-1)), rtol=1e-12
    )


def test_it_differentiates_vmaps_and_stays_in_float32():
    def end(h):
        rule = ia.Adam(h, 0.9, 0.95, 1e-2, eps_in_sqrt=True)
        return ia.smooth_flow(rule, BILINEAR.loss, BILINEAR.params, 100, save_every=100).params[-1]

    difference = (end(1e-3 + 1e-7) - end(1e-3 - 1e-7)) / 2e-7
    np.testing.assert_allclose(jax.jacfwd(end)(1e-3), difference, rtol=1e-4)
    hs = jnp.asarray([1e-3, 2e-3])
    np.testing.assert_allclose(jax.vmap(end)(hs), [end(h) for h in hs], rtol=1e-7)
    start = BILINEAR.params.astype(jnp.float32)
    narrow = ia.smooth_flow(ia.Adam(1e-3, 0.9, 0.95, 1e-2, eps_in_sqrt=True), BILINEAR.loss, start, 100)
    assert narrow.params.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(narrow.params[-1].astype(float) - end(1e-3)))) < 1e-4


@pytest.mark.parametrize(
    "rule", [ia.RMSProp(0.1), ia.HeavyBall(0.1), optax.sgd(0.1, 0.9), optax.adabelief(0.1)]
)
def test_a_field_that_is_not_in_closed_form_is_refused(rule):
    with pytest.raises(ValueError, match="bias-corrected"):
        ia.smooth_flow(rule, examples.full_loss, examples.START, 4)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_an_optax_transformation_has_the_smooth_flow_of_its_rule(order):
    rule, run = ia.Adam(0.02, 0.5, 0.6, 0.1), {"steps": 60, "save_every": 60, "order": order}
    expected = ia.smooth_flow(rule, examples.full_loss, examples.START, **run)
    mine = ia.Optax(0.02, optax.adam(1.0, 0.5, 0.6, 0.1))
    found = ia.smooth_flow(mine, examples.full_loss, examples.START, **run)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-9)
    assert not np.allclose(
        found.params[-1], ia.iterate(rule, examples.full_loss, examples.START, 30).params[-1]
    )


def test_narrow_parameters_are_solved_for_in_float32():
    rule = ia.Adam(0.01, 0.5, 0.6, 0.1, eps_in_sqrt=True)
    run = {
        dtype: ia.smooth_flow(rule, lambda x: jnp.sum(jnp.sin(x) ** 2), examples.START.astype(dtype), 40)
        for dtype in (jnp.float16, jnp.float64)
    }
    narrow, wide = (run[dtype].params[-1] for dtype in (jnp.float16, jnp.float64))
    assert narrow.dtype == jnp.float16
    # The start and the end are rounded, and the loss is computed in float16.
    np.testing.assert_allclose(narrow.astype(float), wide, atol=5e-3)


def test_it_saves_at_chosen_steps():
    for arguments, kwargs, at in (
        (
            (ia.Adam(1e-3, 0.9, 0.95, 1e-2, eps_in_sqrt=True), BILINEAR.loss, BILINEAR.params, 500),
            {},
            (7, 100, 333),
        ),
        (
            (ia.Adam(1e-3, 0.5, 0.7, 0.05, eps_in_sqrt=True), examples.batch_loss, examples.START, 300),
            {"batches": examples.batches()},
            (9, 48, 60, 63, 240),
        ),
    ):
        chosen = ia.smooth_flow(*arguments, save_at=at, **kwargs)
        every = ia.smooth_flow(*arguments, save_every=len(kwargs) * 2 + 1, **kwargs)
        index = np.array([0, *at]) // (len(kwargs) * 2 + 1)
        np.testing.assert_allclose(chosen.t, every.t[index], rtol=1e-14)
        np.testing.assert_allclose(chosen.params, every.params[index], rtol=1e-7)
        assert chosen.step_error.shape == chosen.t.shape


@pytest.mark.parametrize("at", [(), (0, 5), (5, 3), (5, 5), (5, 600), (1.5,)])
def test_bad_choices_of_steps_are_refused(at):
    arguments = (ia.Adam(1e-3, 0.9, 0.95, 1e-2, eps_in_sqrt=True), BILINEAR.loss, BILINEAR.params, 500)
    with pytest.raises(ValueError, match="save_at must be"):
        ia.smooth_flow(*arguments, save_at=at)


@pytest.mark.parametrize("options", [{"solver": diffrax.Tsit5}, {"stepsize_controller": 1e-6}])
def test_what_is_no_solver_is_refused(options):
    with pytest.raises(ValueError, match=r"must be .* diffrax"):
        ia.smooth_flow(ia.Adam(1e-3), BILINEAR.loss, BILINEAR.params, 20, **options)


MINI_BATCHES = {
    "adam": lambda h: ia.Adam(h, 0.5, 0.7, 0.05, eps_in_sqrt=True),
    "rmsprop": lambda h: ia.RMSProp(h, 0.6, 0.1),
    "adamw": lambda h: ia.AdamW(h, 0.5, 0.6, 0.1, weight_decay=0.3, eps_in_sqrt=True),
}


@pytest.mark.parametrize("build", MINI_BATCHES.values(), ids=MINI_BATCHES.keys())
def test_in_mini_batches_it_keeps_the_order_of_the_flow(build):
    """Distance to the optimizer over all saves, the early interval-by-interval ones included."""

    def distance(steps, order):
        arguments = (build(0.6 / steps), examples.batch_loss, examples.START, steps)
        kwargs = {"batches": examples.batches(), "save_every": steps // 8}
        smooth = ia.smooth_flow(*arguments, order=order, **kwargs)
        return sup(smooth, ia.iterate(*arguments, **kwargs))

    for order in (0, 1):
        few, more, most = (distance(steps, order) for steps in (240, 480, 960))
        np.testing.assert_allclose(np.log2([few / more, more / most]), order + 1, atol=0.15)


def test_in_mini_batches_it_begins_as_the_piecewise_flow_and_stays_near_it():
    arguments = (ia.Adam(1e-3, 0.5, 0.7, 0.05, eps_in_sqrt=True), examples.batch_loss, examples.START, 600)
    kwargs = {"batches": examples.batches(), "save_every": 30}
    precise = partial(ia.flow, solver=diffrax.Tsit5())
    piecewise, smooth = (run(*arguments, **kwargs) for run in (precise, ia.smooth_flow))
    # 0.7^60 < 1e-9: the memory has settled after 60 steps.
    np.testing.assert_allclose(smooth.params[:3], piecewise.params[:3], rtol=1e-12)
    assert 1e-9 < sup(smooth, piecewise) < sup(piecewise, ia.iterate(*arguments, **kwargs)) / 5
    np.testing.assert_array_equal(smooth.t, piecewise.t)
    short = {**kwargs, "save_every": 15}
    np.testing.assert_allclose(
        ia.smooth_flow(*arguments[:3], 30, **short).params,
        precise(*arguments[:3], 30, **short).params,
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("rule", "kwargs", "words"),
    [
        (ia.Adam(0.1), {"schedule": jnp.arange(6) % 3}, "cyclic schedule"),
        (ia.Adam(0.1), {"save_every": 2}, "multiples of"),
        (ia.Adagrad(0.1), {"save_every": 3}, "no limit"),
        (ia.Optax(0.1, ia.Adam(1.0).transformation()), {"save_every": 3}, "vector_field at a late step"),
    ],
)
def test_mini_batches_without_a_settled_epoch_are_refused(rule, kwargs, words):
    with pytest.raises(ValueError, match=words):
        ia.smooth_flow(rule, examples.batch_loss, examples.START, 6, batches=examples.batches(), **kwargs)


def test_divergence_is_a_flag():
    explosive = lambda t: -jnp.sum(t**4)
    loose = diffrax.PIDController(rtol=1e-3, atol=1e-3, dtmin=1e-9, force_dtmin=False)
    kwargs = {"order": 0, "stepsize_controller": loose}
    run = ia.smooth_flow(ia.GradientDescent(0.1), explosive, examples.START, 400, **kwargs)
    assert not bool(run.finite)
