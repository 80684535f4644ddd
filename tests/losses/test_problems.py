"""The problems are what they say they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.cli import main
from implicit_adam.losses.problems import (
    PROBLEMS,
    Problem,
    build_problem,
    digits,
    network_loss,
    problem_options,
    quadratic,
)
from implicit_adam.paper import higher_orders
from implicit_adam.studies import ready_sweeps as sweeps
from implicit_adam.studies.verify import VerifyConfig, cases


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_every_problem_has_a_finite_loss_and_gradient_at_its_start(build):
    problem = build()
    batch = () if problem.batches is None else (jax.tree.map(lambda x: x[0], problem.batches),)
    value, gradient = jax.value_and_grad(problem.loss)(problem.params, *batch)
    assert bool(jnp.isfinite(value))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))


def test_the_bilinear_model_starts_where_the_paper_starts():
    problem = PROBLEMS["bilinear"]()
    np.testing.assert_allclose(problem.loss(problem.params), 0.5 * (1.5 - 2 * 2.8 * 3.5) ** 2)
    assert float(problem.loss(jnp.asarray([0.5, 1.5]))) == 0


def test_gradient_descent_on_the_quadratic_is_a_geometric_series():
    problem = quadratic((0.5, 3.0))
    run = ia.iterate(ia.GradientDescent(0.1), problem.loss, problem.params, 50)
    np.testing.assert_allclose(run.params[-1], [0.95**50, 0.7**50], rtol=1e-12)


def test_the_digits_are_the_real_ones_in_equal_batches():
    problem = digits(batches=4)
    inputs, targets = problem.batches
    assert inputs.shape == (4, 449, 64)
    assert targets.shape == (4, 449, 10)
    assert float(inputs.max()) == 1
    np.testing.assert_allclose(jnp.sum(targets, -1), 1)
    # Real images: most of the ten classes' frequencies lie near a tenth, and blank pixels exist.
    assert float(jnp.mean(targets, (0, 1)).min()) > 0.08
    assert int(jnp.sum(jnp.max(inputs, (0, 1)) == 0)) == 3


def test_one_batch_of_digits_is_the_mean_of_the_mini_batches():
    whole, split = digits(batches=1), digits(batches=4)
    full = network_loss(whole.params, jax.tree.map(lambda x: x[0], whole.batches))
    parts = jax.vmap(network_loss, (None, 0))(split.params, split.batches)
    np.testing.assert_allclose(full, jnp.mean(parts), rtol=1e-12)


def test_the_seed_draws_weights_and_order():
    one, two = digits(seed=0), digits(seed=1)
    assert not bool(jnp.allclose(one.params["w1"], two.params["w1"]))
    assert not bool(jnp.allclose(one.batches[0], two.batches[0]))


def valley(seed: int = 0) -> Problem:
    """A problem of one's own: a loss, a start that a seed draws, and how long a study of it takes."""

    def start(seed):
        return 1 + jax.random.uniform(jax.random.key(seed), (2,))

    def loss(theta):
        return jnp.sum(jnp.cosh(theta)) + jnp.prod(theta)

    return Problem("valley", loss, start(seed), start=start, horizon=0.3, gradient_horizon=0.1, gradient=2.0)


def test_a_newly_registered_problem_is_verified_swept_and_reached_by_its_name_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(PROBLEMS, "valley", valley)
    steps = ["--steps", "100,200,400", "--seed", "3", "--out", str(tmp_path / "verify")]
    names = ["--problem", "valley", "--optimizer", "adam,heavy-ball,signum", "--eps-placement", "inside"]
    status, printed = main(["verify", *names, *steps]), capsys.readouterr().out
    assert status == 0, printed
    assert "valley: HeavyBall  (beta 0.5, T 0.1)" in printed
    assert "valley: Signum  (beta 0.5, eps 2, T 0.3)" in printed
    sweep = [
        "--problem",
        "valley",
        "--observable",
        "loss",
        "--h",
        "0.01",
        "--horizon",
        "0.1",
        "--seed",
        "0,1",
    ]
    assert main(["sweep", *sweep, "--beta", "0.5", "--out", str(tmp_path / "sweep")]) == 0
    values = ia.SweepResult.load(tmp_path / "sweep" / "sweep.npz").values["last_loss"]
    assert values[0] != values[1]
    config = higher_orders.HigherOrdersConfig(
        (("valley", 0.3, 1e-3),), ((0.5, 0.6),), step_counts=(20, 40), orders=(0, 1), unexpanded_steps=()
    )
    assert np.isfinite(higher_orders.run(config, lambda share: None).error[0, 0, :2]).all()


def test_an_optimizer_that_moves_by_gradients_gets_the_time_for_it():
    """Whatever it is called: a larger gradient moves optax's sgd further, and its clipped one no further."""
    transformations = {
        "sgd": optax.sgd(1.0, momentum=0.5),
        "adam": optax.adam(1.0),
        "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)),
        "decayed": optax.adamw(1.0, weight_decay=10.0),
    }
    config = VerifyConfig(
        ("bilinear", "digits"), (*transformations, "nesterov", "rmsprop", "lion"), ("inside",),
        transformations=transformations,
    )  # fmt: skip
    times = {(case.problem.name, case.optimizer): case.horizon for case in cases(config)}
    for name, scaled, unscaled in (("bilinear", 0.5, 0.02), ("digits", 0.1, 1.0)):
        for optimizer in ("sgd", "nesterov"):
            assert times[name, optimizer] == unscaled
        for optimizer in ("adam", "clipped", "decayed", "rmsprop", "lion"):
            assert times[name, optimizer] == scaled


def test_a_builder_is_told_what_it_can_be_told():
    assert problem_options("digits") == ("batches", "hidden", "samples", "seed")
    assert build_problem("bilinear", seed=1, samples=3).params.tolist() == [2.8, 3.5]
    assert build_problem("digits", samples=8, unknown=1).batches[0].shape == (4, 2, 64)


def test_a_problem_of_one_start_takes_no_seed():
    at = sweeps.observables_at(lambda h: ia.GradientDescent(h), quadratic(), ("loss",), horizon=0.1)
    with pytest.raises(ValueError, match="one start only"):
        at(h=0.01, seed=1)
