"""The flow between the steps: solvers, saves, errors, divergence, lanes."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import quadratic
from tests import examples

RULE = ia.Adam(0.02, 0.5, 0.6, 0.1, eps_in_sqrt=True)
BATCHES = examples.batches()


def run(rule=RULE, steps=12, **kwargs):
    """In full batch, whose field is the quickest to compile: what a solver does has nothing to do with it."""
    return ia.flow(rule, examples.full_loss, examples.START, steps, **kwargs)


def in_mini_batches(rule=RULE, steps=12, **kwargs):
    return ia.flow(rule, examples.batch_loss, examples.START, steps, batches=BATCHES, **kwargs)


# With an order p, one step an interval costs O(h^p) in all; h = 0.02 here.
SOLVERS = {
    "heun, the default": ({}, 1e-4),
    "bosh3": ({"solver": diffrax.Bosh3()}, 1e-6),
    "tsit5": ({"solver": diffrax.Tsit5()}, 1e-10),
    "dopri8": ({"solver": diffrax.Dopri8()}, 1e-13),
    "adaptive": ({"stepsize_controller": diffrax.PIDController(rtol=1e-11, atol=1e-11)}, 1e-10),
    "implicit": ({"solver": diffrax.Kvaerno5()}, 1e-10),
}


@pytest.mark.parametrize(("kwargs", "tolerance"), SOLVERS.values(), ids=SOLVERS.keys())
def test_every_kind_of_solver_integrates_the_same_field(kwargs, tolerance):
    tight = diffrax.PIDController(rtol=1e-13, atol=1e-13)
    reference = run(solver=diffrax.Tsit5(), stepsize_controller=tight)
    other = run(**kwargs)
    np.testing.assert_allclose(other.params, reference.params, rtol=0, atol=tolerance)
    assert float(jnp.max(jnp.abs(other.params - reference.params))) > 0


def test_the_step_error_bounds_what_heun_does_wrong_in_each_interval():
    heun, exact = (run(solver=solver, steps=1) for solver in (diffrax.Heun(), diffrax.Tsit5()))
    wrong = float(jnp.max(jnp.abs(heun.params[1] - exact.params[1])))
    assert 0 < wrong < float(heun.step_error[1])
    assert float(heun.step_error[0]) == 0
    # Heun's embedded Euler step differs by h (k2 - k1) / 2.
    field = ia.vector_field(RULE, examples.full_loss)
    k1 = field(0, examples.START)
    k2 = field(0, examples.START + 0.02 * k1)
    np.testing.assert_allclose(heun.step_error[1], 0.01 * jnp.max(jnp.abs(k2 - k1)), rtol=1e-9)


def test_the_step_error_of_an_adaptive_solve_bounds_its_error_and_follows_the_tolerance():
    exact = run(solver=diffrax.Tsit5(), steps=1)
    for tolerance in (1e-5, 1e-7):
        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        adaptive = run(solver=diffrax.Heun(), stepsize_controller=controller, steps=1)
        wrong = float(jnp.max(jnp.abs(adaptive.params[1] - exact.params[1])))
        assert wrong < float(adaptive.step_error[1]) < 100 * tolerance
        one_step = tolerance * (1 + float(jnp.max(jnp.abs(adaptive.params[1]))))
        steps = float(adaptive.step_error[1]) / one_step
        assert steps == pytest.approx(round(steps))
        assert tolerance == 1e-5 or steps > 1


def test_a_solver_without_an_error_estimate_reports_nan():
    assert bool(jnp.isnan(run(solver=diffrax.Euler()).step_error[1]))
    assert bool(run(solver=diffrax.Euler()).finite)


@pytest.mark.parametrize("run_", [ia.iterate, ia.flow])
def test_saving_less_often_saves_the_same_points(run_):
    every = run_(RULE, examples.full_loss, examples.START, 12)
    some = run_(RULE, examples.full_loss, examples.START, 12, save_every=4)
    np.testing.assert_array_equal(some.params, every.params[::4])
    np.testing.assert_array_equal(some.t, every.t[::4])
    errors = np.asarray(every.step_error)[1:].reshape(3, 4).max(axis=1)
    np.testing.assert_array_equal(some.step_error[1:], errors)


def test_times_are_products_and_do_not_drift():
    steps = 1000
    t = ia.iterate(ia.GradientDescent(0.1), jnp.sum, jnp.ones(1), steps).t
    np.testing.assert_array_equal(t, np.arange(steps + 1) * 0.1)


@pytest.mark.parametrize("run_", [ia.iterate, ia.flow])
def test_divergence_is_a_flag_and_spoils_no_other_lane(run_):
    problem = quadratic((1.0, 2.0))

    def lane(h):
        return run_(ia.GradientDescent(h), problem.loss, problem.params, 400)

    hs = jnp.asarray([0.1, 1e9, 0.2])
    lanes = jax.jit(jax.vmap(lane))(hs)
    assert lanes.finite.tolist() == [True, False, True]
    for i in (0, 2):
        np.testing.assert_allclose(lanes.params[i], lane(hs[i]).params, rtol=1e-13)


def test_a_solver_that_gives_up_is_flagged():
    controller = diffrax.PIDController(rtol=1e-12, atol=1e-12, dtmin=1e-2, force_dtmin=False)
    assert not bool(run(solver=diffrax.Heun(), stepsize_controller=controller).finite)


@pytest.mark.parametrize(
    ("flow", "kwargs"),
    [(in_mini_batches, {}), (run, {"stepsize_controller": diffrax.PIDController(rtol=1e-9, atol=1e-9)})],
    ids=["mini-batches", "adaptive"],
)
def test_the_flow_differentiates_in_its_hyperparameters(flow, kwargs):
    @jax.jit
    def end(beta):
        return flow(ia.Adam(0.02, beta, 0.6, 0.1, eps_in_sqrt=True), 6, **kwargs).params[-1]

    difference = (end(0.5 + 1e-4) - end(0.5 - 1e-4)) / 2e-4
    derivative = jax.jit(jax.jacfwd(end))(0.5)
    np.testing.assert_allclose(derivative, difference, rtol=1e-5, atol=1e-9)


def test_in_closed_form_both_modes_of_autodiff_agree():
    end = lambda beta: ia.flow(
        ia.Adam(0.02, beta, 0.6, 0.1, eps_in_sqrt=True), examples.full_loss, examples.START, 6
    ).params[-1]
    np.testing.assert_allclose(jax.jit(jax.jacrev(end))(0.5), jax.jit(jax.jacfwd(end))(0.5), rtol=1e-11)


def test_pytrees_come_back_as_pytrees_with_a_leading_axis_of_saves():
    flow = ia.flow(RULE, examples.tree_loss, examples.as_tree(examples.START), 12, batches=BATCHES)
    assert flow.params["a"][1].shape == (13, 1)
    assert flow.params["b"][0].shape == (13, 1, 1)
    flat = in_mini_batches()
    np.testing.assert_allclose(flow.params["b"][0][:, 0, 0], flat.params[:, 2], rtol=1e-13)


def test_order_matters():
    assert float(jnp.max(jnp.abs(run(order=0).params - run(order=1).params))) > 1e-4
