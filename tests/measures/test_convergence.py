"""The study of Theorem 3.1: streamed errors, honesty at the floor, and no verdict before its time."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import bilinear, quadratic
from implicit_adam.runs.interval import check_solver
from tests import examples
from tests.fields.test_carried import NET, net_loss

COUNTS = (20, 40, 80)
RULE = ia.Adam(1.0, 0.5, 0.6, 0.1, eps_in_sqrt=True)


def study(rule=RULE, loss=examples.full_loss, start=examples.START, **kwargs):
    return ia.convergence(rule, loss, start, **{"horizon": 0.1, "step_counts": COUNTS, **kwargs})


def test_the_streamed_error_is_that_of_the_stored_trajectories():
    """On a quadratic, where the error first grows and then dies out with the run: the sup is not the end."""
    rule, problem = ia.HeavyBall(1.0, 0.3), quadratic((0.5, 2.0))
    result = study(rule=rule, loss=problem.loss, start=problem.params, horizon=4.0)
    for i, steps in enumerate(COUNTS):
        arguments = (rule.with_step_size(jnp.asarray(4.0 / steps)), problem.loss, problem.params, steps)
        points = ia.iterate(*arguments).params
        for order in (0, 1):
            difference = ia.flow(*arguments, order=order, solver=diffrax.Tsit5()).params - points
            distance = np.linalg.norm(difference, axis=1)
            assert distance[-1] < distance.max() / 2
            np.testing.assert_allclose(result.error[order][i], distance.max(), rtol=1e-9)
            np.testing.assert_allclose(result.max_norm_error[order][i], np.max(np.abs(difference)), rtol=1e-9)
        travelled = np.max(np.linalg.norm(points - problem.params[None], axis=1))
        np.testing.assert_allclose(result.travelled[i], travelled, rtol=1e-12)


def test_a_study_compiles_once_and_tells_its_progress():
    traces, progress = [], []

    def loss(theta):
        traces.append(1)
        return examples.full_loss(theta)

    study(loss=loss, callback=lambda done, total: progress.append((done, total)))
    first = len(traces)
    study(
        rule=ia.Adam(0.3, 0.4, 0.5, 0.2, eps_in_sqrt=True),
        loss=loss,
        horizon=0.2,
        step_counts=(30, 60, 90, 120),
    )
    assert len(traces) == first + 2  # looks at its shape, and at whether it has changed
    assert progress == [(20, 140), (60, 140), (140, 140)]


def test_the_step_size_is_the_horizon_over_the_steps_whatever_the_rules_own():
    result = study()
    np.testing.assert_allclose(result.h, 0.1 / np.array(COUNTS))
    np.testing.assert_array_equal(
        result.error[1], study(rule=ia.Adam(0.3, 0.5, 0.6, 0.1, eps_in_sqrt=True)).error[1]
    )


def test_the_constant_is_that_of_the_theorem():
    result = study(step_counts=(80, 160, 320))
    for order in (0, 1):
        np.testing.assert_allclose(
            result.constant[order], result.error[order] / result.h ** (order + 1), rtol=0.1
        )


def test_only_the_asked_orders_are_studied():
    assert list(study(orders=(1,)).error) == [1]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_narrow_dtypes_are_refused_since_their_rounding_fakes_success(dtype):
    with pytest.raises(ValueError, match="float64"):
        study(start=examples.START.astype(dtype), loss=lambda t: examples.full_loss(t.astype(float)))


def test_float32_really_would_fake_it():
    """The reason for refusing: both sides round alike, and the true difference is gone."""
    rule, start, steps = ia.Adam(2.0**-16, 0.5, 0.6, 0.1, eps_in_sqrt=True), jnp.asarray([2.8, 3.5]), 128
    loss = bilinear().loss
    difference = {
        dtype: jnp.max(jnp.abs(
            ia.iterate(rule, loss, start.astype(dtype), steps).params
            - ia.flow(rule, loss, start.astype(dtype), steps, order=0, solver=diffrax.Tsit5()).params
        ))
        for dtype in (jnp.float32, jnp.float64)
    }  # fmt: skip
    assert float(difference[jnp.float64]) > 1e-8
    assert float(difference[jnp.float32]) == 0


def test_what_rounding_adds_to_tiny_errors_stays_below_the_floor_and_is_not_fitted():
    steps = (10000, 30000, 90000, 200000)
    result = study(step_counts=steps)
    rounding = abs(result.error[1][-1] - result.error[1][0] * (steps[0] / steps[-1]) ** 2)
    assert result.error[1][-1] / 100 < rounding < result.rounding_floor[-1]
    # Two per cent off, and left out: the fit is that of the others.
    fitted = study(step_counts=steps[:-1])
    assert result.slope[1] == fitted.slope[1]
    assert abs(result.slope[1] - 2) < 0.01


def test_a_long_memory_is_called_not_yet_asymptotic():
    result = study(
        rule=ia.Adam(1.0, 0.9, 0.99, 0.1, eps_in_sqrt=True),
        loss=bilinear().loss,
        start=jnp.asarray([2.8, 3.5]),
    )
    assert not result.asymptotic[1]


def test_a_diverging_run_decides_nothing():
    result = study(rule=ia.GradientDescent(1.0), loss=lambda t: -jnp.sum(t**4), horizon=50.0)
    assert not result.asymptotic[0]
    assert not np.isfinite(result.error[0]).any()


def test_a_study_vmaps_over_hyperparameters():
    from implicit_adam.inputs import checked_inputs
    from implicit_adam.measures.lockstep import supremum

    def error(beta):
        rule = ia.Adam(0.01, beta, 0.6, 0.1, eps_in_sqrt=True)
        return supremum(checked_inputs(rule, examples.full_loss, examples.START), 10, (1,)).two_norm[0]

    betas = jnp.asarray([0.3, 0.5, 0.7])
    together = jax.jit(jax.vmap(error))(betas)
    np.testing.assert_allclose(together, [error(beta) for beta in betas], rtol=1e-9)


def in_time(h):
    """Adam with memories of .01 and .2 in time."""
    return ia.Adam(h, 1 - h / 0.01, 1 - h / 0.2)


def test_carried_memory_is_of_its_order_where_the_expansion_says_nothing():
    kwargs = {"horizon": 0.1, "step_counts": (80, 160, 320)}
    carried = ia.convergence(in_time, net_loss, NET, carried=True, **kwargs)
    assert carried.verdict == {0: "holds", 1: "holds"}
    assert carried.slope == pytest.approx({0: 1.0, 1: 2.0}, abs=0.1)
    assert carried.carried
    assert not carried.remembered.any()
    expanded = ia.convergence(in_time, net_loss, NET, **kwargs)
    assert expanded.verdict == {0: "not yet asymptotic", 1: "not yet asymptotic"}
    assert (expanded.error[1] > 100 * carried.error[1]).all()


def test_its_streamed_error_and_validity_are_those_of_the_stored_run():
    """From an eighth of the run on, at one step of the solver each."""
    result = ia.convergence(in_time, net_loss, NET, horizon=0.1, step_counts=(80, 160, 320), carried=True)
    for i, steps in enumerate(result.steps):
        rule = in_time(jnp.asarray(0.1 / steps))
        twin = ia.iterate(rule, net_loss, NET, int(steps)).params
        options = {"start": int(steps) // 8, "solver": diffrax.Tsit5()}
        options["stepsize_controller"] = diffrax.ConstantStepSize()
        flow = ia.carried_flow(rule, net_loss, NET, int(steps), **options).params
        distance = np.linalg.norm(flow - twin, axis=1).max()
        np.testing.assert_allclose(result.error[1][i], distance, rtol=1e-6)
        F = np.diff(np.asarray(twin), axis=0)
        change = np.abs(np.diff(F, axis=0))[int(steps) // 8 :].max() / np.abs(F).max()
        np.testing.assert_allclose(result.validity[i], change, rtol=1e-9)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batches": examples.batches()}, "leave out batches"),
        ({"shifted": True}, "leave out shifted"),
        ({"orders": (0, 2)}, "to 1, got 2"),
        ({"step_counts": (10, 20, 40)}, "begins with 10"),
        ({"solver": diffrax.Kvaerno5()}, "Kvaerno5 is implicit"),
    ],
)
def test_what_carried_memory_does_not_know_is_refused(given, words):
    loss = examples.batch_loss if "batches" in given else examples.full_loss
    with pytest.raises(ValueError, match=words):
        study(loss=loss, carried=True, **given)


def test_a_rule_may_follow_the_step_size():
    fixed = study()
    followed = study(rule=lambda h: ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True))
    np.testing.assert_array_equal(fixed.error[1], followed.error[1])
    ignored = study(rule=lambda h: ia.Adam(0.3, 0.5, 0.6, 0.1, eps_in_sqrt=True))
    np.testing.assert_array_equal(fixed.error[1], ignored.error[1])
    with pytest.raises(ValueError, match="rule must be an optimizer"):
        study(rule=optax.sgd)


def test_the_class_of_a_solver_is_no_solver():
    words = r"must be a diffrax solver such as diffrax\.Heun\(\)"
    with pytest.raises(ValueError, match=words):
        check_solver(diffrax.Heun)
