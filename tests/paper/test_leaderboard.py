"""The leaderboard of equations: errors against the runs themselves, what is not run, and the verdicts."""

import diffrax
import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import implicit_adam as ia
from implicit_adam.losses.problems import bilinear
from implicit_adam.objective import raveled_loss
from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.classifiers import CLASSIFIERS
from implicit_adam.paper.leaderboard import stochastic
from implicit_adam.paper.leaderboard.config import Leaderboard, LeaderboardConfig
from implicit_adam.paper.leaderboard.equations import COMPETITORS, FULL, MEAN, ORDERED, Course, Start
from implicit_adam.paper.leaderboard.experiment import LEADERBOARD
from implicit_adam.paper.leaderboard.race import DOES_NOT_APPLY, RAN, TOO_DEAR, race
from tests.verdicts import verdicts

NAMES = list(COMPETITORS)
RULE = ia.Adam(1e-3, 0.5, 0.7, 1e-2)


def test_in_full_batch_the_errors_are_those_of_the_stored_runs():
    problem = bilinear()
    found = race(problem, [RULE], FULL, Course(problem.loss, 20, 10), runs=1, budget=2e6)
    truth = np.asarray(ia.iterate(RULE, problem.loss, problem.params, 20, save_every=10).params)
    travelled = np.linalg.norm(truth - truth[0], axis=1).max()
    for name, run in (
        (
            "corrected flow (order 1)",
            ia.flow(RULE, problem.loss, problem.params, 20, save_every=10, solver=diffrax.Tsit5()),
        ),
        ("memoryless map (order 1)", ia.memoryless(RULE, problem.loss, problem.params, 20, save_every=10)),
        ("carried memory, order 1", ia.carried_flow(RULE, problem.loss, problem.params, 20, save_every=10)),
    ):
        i = NAMES.index(name)
        off = np.linalg.norm(np.asarray(run.params) - truth, axis=1).max() / travelled
        np.testing.assert_allclose(found.position[0, i], off, rtol=1e-6, atol=1e-15)
        losses = [jax.vmap(problem.loss)(points) for points in (run.params, truth)]
        np.testing.assert_allclose(found.loss[0, i], np.max(np.abs(losses[0] / losses[1] - 1)), atol=1e-12)
    closure = NAMES.index("two-branch closure, its centre")
    assert found.why[0, closure] == RAN
    # At least twelve gradients a step; far from the edge it is carried memory without the alternation.
    assert found.gradients[0, closure] >= 12
    assert found.position[0, closure] < 0.01 * found.position[0, 0]
    # Each order is closer than the one before; the third is beyond the budget.
    order = [
        NAMES.index(name) for name in ("sign-type flow (order 0)", "corrected flow (order 1)", "order 2")
    ]
    assert (np.diff(found.position[0, order]) < 0).all()
    assert found.why[0, NAMES.index("order 3")] == TOO_DEAR
    assert np.isnan(found.position[0, NAMES.index("order 3")])
    np.testing.assert_allclose(found.gradients[0, order], [7, 22, 7 * 28 / 3 + 1])
    assert found.position.shape == (1, len(NAMES) + 1)
    assert found.turning.tolist() == [0.0]


def test_in_mini_batches_what_needs_an_order_does_not_apply_to_the_mean_and_carried_memory_to_no_order():
    problem = CLASSIFIERS["wine"](24, 2)
    by_kind = {
        kind: race(problem, [RULE], kind, Course(problem.loss, 12, 6), runs=3, budget=1e3)
        for kind in (ORDERED, MEAN)
    }
    of = lambda kind, name: by_kind[kind].why[0, NAMES.index(name)]
    assert of(ORDERED, "sign-type flow (order 0)") == TOO_DEAR
    assert of(ORDERED, "unexpanded map") == of(ORDERED, "carried memory, order 1") == DOES_NOT_APPLY
    assert of(MEAN, "corrected flow (order 1)") == of(MEAN, "memoryless map (order 1)") == DOES_NOT_APPLY
    assert of(MEAN, "carried memory, order 1") == TOO_DEAR
    # Beside the runs are a start nearby, and the standard error of the mean of three.
    near, error = (by_kind[kind].position[0, -1] for kind in (ORDERED, MEAN))
    assert 0 < near < 1e-2
    epochs = np.tile(np.arange(2), (3, 6, 1))
    schedules = np.random.default_rng(0).permuted(epochs, axis=2).reshape(3, 12)
    ends = [
        ia.iterate(RULE, problem.loss, problem.params, 12, batches=problem.batches, schedule=schedule).params
        for schedule in schedules
    ]
    points = np.stack(
        [np.concatenate([np.reshape(x, (13, -1)) for x in jax.tree.leaves(e)], 1) for e in ends]
    )
    points = points[:, ::6]
    spread = np.linalg.norm(points.std(axis=0, ddof=1), axis=1).max() / 3**0.5
    travelled = np.linalg.norm(points.mean(0) - points.mean(0)[0], axis=1).max()
    np.testing.assert_allclose(error, spread / travelled, rtol=1e-6)


def test_the_unexpanded_map_is_close_and_costs_a_gradient_for_every_lag():
    problem = bilinear()
    course, start = Course(problem.loss, 8, 4), Start(RULE, problem.params)
    competitor = COMPETITORS["unexpanded map"]
    points, _ = competitor.run(course, start)
    truth = ia.iterate(RULE, problem.loss, problem.params, 8, save_every=4).params
    np.testing.assert_allclose(points, truth, atol=1e-6)
    assert competitor.gradients(FULL, course, start, 0.0) == 9


def test_without_noise_the_stochastic_equation_is_adam():
    problem = CLASSIFIERS["wine"](24, 1)
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), problem.batches)
    objective = raveled_loss(problem.loss, problem.params, twice)
    theta = ravel_pytree(problem.params)[0]
    path = stochastic.mean_path(RULE, objective, theta, 4, 3, 2)
    truth = ia.iterate(RULE, problem.mean_loss, problem.params, 12, save_every=3).params
    np.testing.assert_allclose(path, jax.vmap(lambda x: ravel_pytree(x)[0])(truth), rtol=1e-9, atol=1e-12)


def test_the_noise_of_the_stochastic_equation_has_the_covariance_of_the_batches():
    problem = CLASSIFIERS["wine"](24, 3)
    objective = raveled_loss(problem.loss, problem.params, problem.batches)
    theta = ravel_pytree(problem.params)[0]
    begin = (theta, 0 * theta, 0 * theta)
    step = lambda key: stochastic._step(RULE, objective, begin, np.int64(0), key)[1:]
    M, V = jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(1), 4000))
    G = objective.gradients(theta)
    remembered = 1 - float(RULE.beta)
    np.testing.assert_allclose(M.std(axis=0), remembered * G.std(axis=0), rtol=0.06, atol=1e-12)
    np.testing.assert_allclose(V[0], (1 - RULE.rho) * (G**2).mean(axis=0), rtol=1e-12)


CONFIG = LeaderboardConfig(full=(("bilinear", 1), ("wine", 8)), batched=(("wine", 8),), sizes=(4,), steps=8)


def made_up(**by_setting):
    """Errors (plain, first, carried, limit) in full batch by setting, and of the mean run."""
    position, why = [], []
    for column in CONFIG.columns:
        plain, first, carried, limit = by_setting.get(
            "mean" if column.kind == MEAN else column.setting.name, (0.5, 0.1, 1e-4, 1e-5)
        )
        row = np.full(len(NAMES) + 1, np.nan)
        row[[0, 1, NAMES.index("carried memory, order 1"), -1]] = plain, first, carried, limit
        position.append(np.tile(row, (len(column.problems), 1)))
        why.append(np.where(np.isnan(position[-1]), TOO_DEAR, RAN))
    numbers = tuple(position)
    turning = tuple(np.zeros(len(column.problems)) for column in CONFIG.columns)
    return Leaderboard(numbers, numbers, numbers, numbers, tuple(why), turning)


GOOD = {"usual": (0.3, np.inf, 1e-4, 1e-5), "mean": (np.nan, np.nan, 1e-2, 1e-2)}


@pytest.mark.parametrize(
    ("changed", "others"),
    [
        ({}, {}),
        ({"tame": (0.1, 0.2, 1e-4, 1e-5)}, {0: DID_NOT_HOLD}),
        ({"tame": (0.1, np.nan, 1e-4, 1e-5)}, {0: UNDECIDED}),
        ({"usual": (0.3, 0.2, 0.011, 1e-5)}, {1: DID_NOT_HOLD, 3: DID_NOT_HOLD}),
        ({"edge": (0.3, 0.2, 0.5, 0.02)}, {4: UNDECIDED}),
        ({"edge": (0.3, 0.2, np.inf, 0.001)}, {4: DID_NOT_HOLD}),
        ({"mean": (np.nan, np.nan, 0.021, 0.01)}, {5: DID_NOT_HOLD}),
        ({"mean": (np.nan, np.nan, np.nan, 0.01)}, {5: UNDECIDED}),
    ],
)
def test_verdicts_follow_the_numbers(changed, others):
    found = made_up(**GOOD | changed)
    expected = [others.get(i, HELD) for i in range(6)]
    assert verdicts(LEADERBOARD, found, CONFIG) == expected


def test_the_tables_and_the_picture_say_what_was_not_run_and_what_diverged():
    found = made_up(**GOOD)
    position, *_ = LEADERBOARD.tables(CONFIG, found)
    usual = next(row for row in position.rows if row[0] == "full batch, usual, wine")
    assert usual[1:5] == ("30%", "diverges", "too dear", "too dear")
    assert len({len(row) for row in (position.head, *position.rows)}) == 1
    drawn = {text.get_text() for text in LEADERBOARD.picture(CONFIG, found).axes[0].texts}
    assert {"diverges", "too dear", "30%"} <= drawn
    some = found.why[0].copy()
    some[0, 0] = TOO_DEAR
    part = found._replace(why=(some, *found.why[1:]))
    assert any("(1 of 2)" in text.get_text() for text in LEADERBOARD.picture(CONFIG, part).axes[0].texts)
