"""How well equations predict runs: the numbers against the runs themselves, and the verdicts that follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import digits
from implicit_adam.paper import practical_settings
from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.classifiers import CLASSIFIERS
from implicit_adam.paper.practical_settings import PRACTICAL_SETTINGS, Case, PracticalConfig
from implicit_adam.studies.prediction import CARRIED, CORRECTED, NEARBY, NUDGE, PLAIN, Prediction, predict
from tests.verdicts import verdicts

RULE = ia.Adam(1e-3)


def vectors(params):
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(params)], axis=1)


def test_in_full_batch_it_is_the_distance_of_the_stored_runs():
    problem = digits(batches=1, samples=60)
    found = predict(RULE, problem, 60, 3, flows=True)
    twin = ia.iterate(RULE, problem.mean_loss, problem.params, 60, save_every=20).params
    flow = ia.carried_flow(RULE, problem.mean_loss, problem.params, 60, save_every=20)
    travelled = np.linalg.norm(vectors(twin) - vectors(twin)[:1], axis=1).max()
    distance = np.linalg.norm(vectors(flow.params) - vectors(twin), axis=1) / travelled
    np.testing.assert_allclose(found.error[CARRIED], distance, rtol=1e-9)
    np.testing.assert_allclose(found.loss, jax.vmap(problem.mean_loss)(twin), rtol=1e-12)
    predicted = jax.vmap(problem.mean_loss)(flow.params)
    np.testing.assert_allclose(found.predicted_loss[CARRIED], predicted, rtol=1e-12)
    assert set(found.error) == {CARRIED, PLAIN, CORRECTED, NEARBY}
    assert found.error[CARRIED].max() < 0.01 < found.error[PLAIN].max() < found.error[CORRECTED].max()
    apart = NUDGE * vectors(twin).shape[1] ** 0.5 / travelled
    np.testing.assert_allclose(found.error[NEARBY][0], apart, rtol=0.1)
    assert not found.sampling_error.any()
    assert found.gradients.tolist() == [60, int(flow.solver_steps)]


def test_in_mini_batches_it_is_the_mean_of_reshuffled_runs():
    problem = CLASSIFIERS["wine"](176, 4)
    found = predict(RULE, problem, 20, 2, runs=3)
    rng, ends = np.random.default_rng(0), []
    schedules = rng.permuted(np.tile(np.arange(4), (3, 5, 1)), axis=2).reshape(3, -1)
    for schedule in schedules:
        arguments = {"batches": problem.batches, "schedule": schedule, "save_every": 10}
        ends.append(ia.iterate(RULE, problem.loss, problem.params, 20, **arguments).params)
    mean = np.mean([vectors(end) for end in ends], axis=0)
    travelled = np.linalg.norm(mean - mean[:1], axis=1).max()
    spread = np.linalg.norm(np.std([vectors(end) for end in ends], axis=0, ddof=1), axis=1) / 3**0.5
    np.testing.assert_allclose(found.sampling_error, spread / travelled, rtol=1e-6, atol=1e-12)
    losses = np.mean([jax.vmap(problem.mean_loss)(end) for end in ends], axis=0)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-12)
    assert found.gradients[0] == 5
    assert set(found.error) == {CARRIED}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_is_a_loss_of_its_start_near_that_of_guessing(name):
    problem = CLASSIFIERS[name](22, 2)
    losses = jax.vmap(problem.loss, (None, 0))(problem.params, problem.batches)
    classes = {"breast cancer": 2, "wine": 3}.get(name, 10)
    assert losses.shape == (2,)
    np.testing.assert_allclose(jnp.mean(losses), np.log(classes), atol=0.6)


FULL, MINI = Case("CNN", flows=True), Case("wine", samples=40, batches=4, runs=4)
CONFIG = PracticalConfig((FULL, MINI))


def made_up(error=0.001, loss=0.001, plain=1.0, corrected=np.inf, nearby=1e-5, gradients=5, sampling=0.0):
    ones = np.ones(3)
    errors = {CARRIED: error, PLAIN: plain, CORRECTED: corrected, NEARBY: nearby}
    return Prediction(
        steps=10 * np.arange(3),
        loss=ones,
        predicted_loss={CARRIED: ones + loss},
        error={name: value * ones for name, value in errors.items()},
        sampling_error=sampling * ones,
        gradients=np.array([20, gradients]),
    )


GOOD_MINI = made_up(sampling=0.001)


@pytest.mark.parametrize(
    ("full", "mini", "expected"),
    [
        (made_up(), GOOD_MINI, [HELD] * 6),
        (made_up(error=0.011), GOOD_MINI, [DID_NOT_HOLD, *[HELD] * 5]),
        (made_up(error=0.011, loss=0.1, nearby=0.01), GOOD_MINI, [HELD] * 6),
        (made_up(loss=-0.011), GOOD_MINI, [HELD, DID_NOT_HOLD, *[HELD] * 4]),
        (made_up(plain=0.05), GOOD_MINI, [HELD, HELD, UNDECIDED, *[HELD] * 3]),
        (made_up(plain=0.005), GOOD_MINI, [HELD, HELD, DID_NOT_HOLD, *[HELD] * 3]),
        (made_up(gradients=20), GOOD_MINI, [*[HELD] * 3, DID_NOT_HOLD, HELD, HELD]),
        (made_up(), made_up(error=0.0021, sampling=0.001), [*[HELD] * 4, DID_NOT_HOLD, HELD]),
        (made_up(), made_up(sampling=0.001, loss=0.019), [HELD] * 6),
        (made_up(), made_up(sampling=0.001, loss=0.021), [*[HELD] * 5, DID_NOT_HOLD]),
        (made_up(error=np.nan, loss=np.nan), GOOD_MINI, [UNDECIDED, UNDECIDED, *[HELD] * 4]),
    ],
)
def test_verdicts_follow_the_numbers(full, mini, expected):
    assert verdicts(PRACTICAL_SETTINGS, (full, mini), CONFIG) == expected


def test_no_cases_decide_nothing():
    verdict_of = lambda *cases: verdicts(
        PRACTICAL_SETTINGS, tuple(made_up() for _ in cases), PracticalConfig(cases)
    )
    assert verdict_of() == [UNDECIDED] * 6
    assert verdict_of(Case("CNN"))[2:] == [UNDECIDED, HELD, UNDECIDED, UNDECIDED]


def test_batches_of_sixteen_are_held_to_one_percent():
    config = PracticalConfig((FULL, Case("wine", samples=64, batches=4, runs=4)))
    found = (made_up(), made_up(sampling=0.001, loss=0.019))
    assert verdicts(PRACTICAL_SETTINGS, found, config)[-1] == DID_NOT_HOLD


def test_a_small_run_is_drawn_case_by_case():
    config = PracticalConfig((Case("breast cancer", steps=20, samples=56), MINI), saves=2)
    shares = []
    found = practical_settings.run(config, shares.append)
    assert shares == [0.5, 1.0]
    titles = [ax.get_title() for ax in practical_settings.picture(config, found).axes]
    assert "Adam, $h$ = 0.001, batches of 10\nwine" in titles
