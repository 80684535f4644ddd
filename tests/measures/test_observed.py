"""Streamed observables are those of the stored run."""

import re

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.cli import main
from implicit_adam.losses.problems import quadratic
from implicit_adam.measures.observables import Named
from tests import examples
from tests.fields.test_carried import NET, net_loss

RULE = ia.Adam(0.02, 0.5, 0.6, 0.1, eps_in_sqrt=True)
NAMES = ("loss", "one_norm", "perturbed_one_norm", "two_norm")
KWARGS = {"batches": examples.batches()}


def mean_loss(theta):
    return jnp.mean(jax.vmap(examples.batch_loss, (None, 0))(theta, examples.batches()))


def stored(steps):
    points = ia.iterate(RULE, examples.batch_loss, examples.START, steps, **KWARGS).params
    g = jax.vmap(jax.grad(mean_loss))(points)
    return {
        "loss": jax.vmap(mean_loss)(points),
        "one_norm": jnp.sum(jnp.abs(g), axis=1),
        "perturbed_one_norm": jnp.sum(jnp.sqrt(g**2 + 0.1), axis=1),
        "two_norm": jnp.linalg.norm(g, axis=1),
    }


def test_statistics_and_record_are_those_of_the_stored_run():
    seen = ia.observe(RULE, examples.batch_loss, examples.START, 23, NAMES, records=6, **KWARGS)
    for name, values in stored(23).items():
        for got, expected in (
            (seen.least, jnp.min),
            (seen.largest, jnp.max),
            (seen.mean, jnp.mean),
            (seen.last, lambda x: x[-1]),
        ):
            np.testing.assert_allclose(got[name], expected(values), rtol=1e-12)
        assert list(seen.n) == [0, 4, 8, 12, 16, 20]
        np.testing.assert_allclose(seen.record[name], values[seen.n], rtol=1e-12)
    assert bool(seen.finite)


def test_watching_every_few_steps_ends_with_the_last():
    seen = ia.observe(RULE, examples.batch_loss, examples.START, 23, "loss", every=5, records=8, **KWARGS)
    values = stored(23)["loss"]
    at = np.array([0, 5, 10, 15, 20, 23])
    np.testing.assert_allclose(seen.mean["loss"], np.mean(values[at]), rtol=1e-12)
    np.testing.assert_allclose(seen.last["loss"], values[23], rtol=1e-12)
    assert list(seen.n) == [*at, -1, -1]
    np.testing.assert_allclose(
        seen.params, ia.iterate(RULE, examples.batch_loss, examples.START, 23, **KWARGS).params[-1]
    )


@pytest.mark.parametrize(("name", "order"), [("distance", 1), ("plain_distance", 0)])
def test_the_distance_is_to_the_flow_of_its_order(name, order):
    seen = ia.observe(RULE, examples.batch_loss, examples.START, 15, name, **KWARGS)
    arguments = (RULE, examples.batch_loss, examples.START, 15)
    gap = ia.iterate(*arguments, **KWARGS).params - ia.flow(*arguments, order=order, **KWARGS).params
    np.testing.assert_allclose(seen.largest[name], jnp.max(jnp.linalg.norm(gap, axis=1)), rtol=1e-10)


def test_the_carried_distance_is_to_the_carried_flow_whatever_has_no_expansion():
    """One solver step an interval; an optax transformation with a sign has a carried flow of its momentum."""
    for rule in (ia.Adam(2.5e-3), ia.Optax(2.5e-3, optax.chain(optax.trace(0.9), optax.clip(1.0)))):
        seen = ia.observe(rule, net_loss, NET, 60, ("carried_distance", "loss"))
        options = {"solver": diffrax.Tsit5(), "stepsize_controller": diffrax.ConstantStepSize()}
        flow = ia.carried_flow(rule, net_loss, NET, 60, **options)
        gap = jnp.linalg.norm(flow.params - ia.iterate(rule, net_loss, NET, 60).params, axis=1)
        np.testing.assert_allclose(seen.largest["carried_distance"], jnp.max(gap), rtol=1e-6)
        assert np.isnan(seen.validity)
    with pytest.raises(ValueError, match="over 10 steps is 0"):
        ia.observe(ia.Adam(2.5e-3), net_loss, NET, 10, "carried_distance")
    lanes = jax.vmap(lambda h: ia.observe(ia.Adam(h), net_loss, NET, 60, "carried_distance").largest)
    largest = lanes(jnp.asarray([1e-3, 2.5e-3]))["carried_distance"]
    assert 0 < largest[0] < largest[1]


def test_the_flow_that_is_followed_has_a_validity():
    seen = ia.observe(RULE, examples.batch_loss, examples.START, 15, ("distance", "loss"), every=4, **KWARGS)
    run = ia.flow(RULE, examples.batch_loss, examples.START, 15, **KWARGS)
    np.testing.assert_allclose(seen.validity, jnp.max(run.validity), rtol=1e-10)
    for names in ("loss", ("plain_distance", "loss")):
        assert np.isnan(ia.observe(RULE, examples.batch_loss, examples.START, 5, names, **KWARGS).validity)


@pytest.mark.parametrize(("curvature", "warns"), [(1.98, False), (2.02, True)])
def test_a_distance_to_a_flow_outside_its_range_is_warned_of(curvature, warns):
    # Gradient descent: h DF[v] = (h/2) H g.
    problem = quadratic((curvature,))
    arguments = ia.GradientDescent(1.0), problem.loss, problem.params, 2
    if warns:
        with pytest.warns(ia.OutsideRangeWarning, match=r"1\.01 times"):
            seen = ia.observe(*arguments, "distance")
    else:
        seen = ia.observe(*arguments, "distance")
    np.testing.assert_allclose(seen.validity, curvature / 2, rtol=1e-12)
    ia.observe(*arguments, "plain_distance")
    lanes = jax.vmap(lambda h: ia.observe(ia.GradientDescent(h), *arguments[1:], "distance").validity)
    np.testing.assert_allclose(lanes(jnp.asarray([0.5, 1.0])), [curvature / 4, curvature / 2], rtol=1e-12)


def test_sharpness_and_functions_of_ones_own():
    seen = ia.observe(RULE, examples.full_loss, examples.START, 4, "sharpness", every=4)
    top = jnp.max(jnp.linalg.eigvalsh(jax.hessian(examples.full_loss)(seen.params)))
    np.testing.assert_allclose(seen.last["sharpness"], top, rtol=1e-8)
    mine = ia.observe(RULE, examples.full_loss, examples.START, 4, {"first": lambda theta: theta[0]})
    np.testing.assert_allclose(mine.last["first"], mine.params[0], rtol=1e-14)


def test_runs_of_different_lengths_share_one_compilation():
    traces = []

    def counted(theta):
        traces.append(theta)
        return examples.full_loss(theta)

    @jax.jit
    def last(h):
        steps = jnp.round(0.2 / h).astype(int)
        return ia.observe(
            ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True), counted, examples.START, steps, "loss"
        ).last["loss"]

    values = [last(h) for h in (0.1, 0.05, 0.01)]
    once = len(traces)
    last(0.02)
    assert len(traces) == once
    for h, value in zip((0.1, 0.05, 0.01), values, strict=True):
        end = ia.iterate(
            ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True), examples.full_loss, examples.START, round(0.2 / h)
        ).params[-1]
        np.testing.assert_allclose(value, examples.full_loss(end), rtol=1e-12)
    hs = jnp.asarray([0.1, 0.05, 0.01])
    np.testing.assert_allclose(jax.vmap(last)(hs), values, rtol=1e-12)


def test_a_traced_number_of_steps_below_one_is_flagged():
    run = jax.jit(lambda steps: ia.observe(RULE, examples.full_loss, examples.START, steps, "loss").finite)
    assert bool(run(1))
    assert not bool(run(0))
    assert not bool(run(-3))


@pytest.mark.parametrize(
    "own", [lambda x: x, lambda x: x[0].astype(complex), lambda x: 1], ids=["vector", "complex", "int"]
)
def test_an_observable_is_one_real_number(own):
    with pytest.raises(ValueError, match="'own' must return one real"):
        ia.observe(RULE, examples.full_loss, examples.START, 4, {"own": own})


def test_bad_names_and_counts_are_refused():
    for kwargs, words in (
        ({"observables": "lost"}, "known are loss"),
        ({"observables": ()}, "known are loss"),
        ({"observables": {}}, "known are loss"),
        ({"observables": ("distance", "plain_distance")}, "one of"),
        ({"observables": "loss", "every": 0}, "every"),
        ({"observables": "loss", "records": -1}, "records"),
    ):
        with pytest.raises(ValueError, match=words):
            ia.observe(RULE, examples.full_loss, examples.START, 4, **kwargs)
    for rule in (ia.HeavyBall(0.1), ia.Lion(0.1, eps=0.1), ia.Signum(0.1, eps=0.1)):
        with pytest.raises(ValueError, match=f"eps stands beside the root.*{type(rule).__name__}"):
            ia.observe(rule, examples.full_loss, examples.START, 4, "perturbed_one_norm")
    with pytest.raises(ValueError, match="steps"):
        ia.observe(RULE, examples.full_loss, examples.START, 0, "loss")


def test_the_norm_of_a_scheduled_optimizer_has_the_eps_of_the_optimizer():
    for inside in (True, False):
        rule = ia.Scheduled(ia.Adam(0.02, 0.5, 0.6, 0.1, eps_in_sqrt=inside), lambda n: 1.0)
        seen = ia.observe(rule, examples.full_loss, examples.START, 3, "perturbed_one_norm")
        g = jax.grad(examples.full_loss)(seen.params)
        norm = (
            jnp.sum(jnp.sqrt(g**2 + 0.1))
            if inside
            else jnp.sum(jnp.abs(g) - 0.1 * jnp.log1p(jnp.abs(g) / 0.1))
        )
        np.testing.assert_allclose(seen.last["perturbed_one_norm"], norm, rtol=1e-12)


@pytest.mark.parametrize(
    ("observables", "words"),
    [
        (jnp.sum, "'my name': f"),
        ([jnp.sum], "'my name': f"),
        ({"own": 3}, "'own' must be a function"),
        (3, "names"),
    ],
    ids=["function", "list of functions", "number by name", "number"],
)
def test_own_observables_come_by_name(observables, words):
    with pytest.raises(ValueError, match=words):
        ia.observe(RULE, examples.full_loss, examples.START, 4, observables)


def test_a_traced_number_of_steps_is_an_integer():
    with pytest.raises(ValueError, match="one integer, got float"):
        jax.jit(lambda steps: ia.observe(RULE, examples.full_loss, examples.START, steps, "loss").finite)(4.0)


def test_a_new_observable_is_one_entry(monkeypatch, tmp_path):
    """The function and the command both know it."""
    size = Named("||theta||", lambda inputs, whole: lambda theta, _: jnp.linalg.norm(theta))
    monkeypatch.setitem(ia.OBSERVABLES, "size", size)
    seen = ia.observe(RULE, examples.full_loss, examples.START, 4, ("loss", "size"))
    np.testing.assert_allclose(seen.last["size"], jnp.linalg.norm(seen.params), rtol=1e-14)
    command = ["sweep", "--observable", "size", "--beta", "0,0.5", "--h", "0.1", "--out", str(tmp_path)]
    assert main(command) == 0
    sizes = ia.SweepResult.load(tmp_path / "sweep.npz").variables()["last_size"]
    assert (sizes > 1).all()


def test_the_documented_observables_are_the_known_ones():
    documented = set(re.findall(r'"(\w+)"', ia.observe.__doc__ or ""))
    assert {"loss", "carried_distance"} < documented <= ia.OBSERVABLES.keys()
