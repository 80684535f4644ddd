"""Verdicts follow their criteria: each is turned by data that say otherwise."""

import jax
import numpy as np
import pytest

from implicit_adam.files import named_leaves
from implicit_adam.losses.problems import digits
from implicit_adam.paper import (
    during_training,
    figure1,
    figures23,
    shuffles,
    special_cases,
    table1,
    theorem,
    three_regimes,
    valley,
    valley_claims,
)
from implicit_adam.paper.claims import (
    DID_NOT_HOLD,
    HELD,
    UNDECIDED,
    decided,
    is_monotone,
)
from implicit_adam.paper.reproduce import EXPERIMENTS
from tests.verdicts import nothing, verdicts


def test_every_experiment_has_two_configs_of_one_kind():
    for experiment in EXPERIMENTS.values():
        assert type(experiment.config) is type(experiment.quick)


def test_the_integral_of_figure_1_is_that_of_the_braces_and_a_wrong_one_is_found_out():
    experiment = figure1.FIGURE1
    found = experiment.run(experiment.quick, nothing)
    assert verdicts(experiment, found) == [HELD, HELD]
    eps, beta, rho = experiment.quick.eps, experiment.quick.beta, found.rho[-1]
    y = found.x[50:51]
    step = 1e-6 * y
    slope = np.diff([figure1._closed_form(y + s, beta, rho, eps) for s in (-step, step)], axis=0)[0] / (
        2 * step
    )
    a, c = (1 + beta) / (1 - beta), (1 + rho) / (1 - rho)
    assert slope == pytest.approx((a - c + c * eps / (y**2 + eps)) * y / np.sqrt(y**2 + eps), rel=1e-6)
    assert verdicts(experiment, found._replace(closed_form=1.001 * found.closed_form))[0] == DID_NOT_HOLD
    assert verdicts(experiment, found._replace(closed_form=-found.closed_form))[1] == DID_NOT_HOLD


def test_table_1_holds_on_random_losses_and_not_for_the_opposite_signs():
    experiment = table1.TABLE1
    found = experiment.run(table1.Table1Config(losses=4), nothing)
    assert verdicts(experiment, found) == [HELD] * 10
    flipped = found._replace(
        one_norm=-found.one_norm, two_norm=-found.two_norm, bias_error=found.bias_error + 1
    )
    assert verdicts(experiment, flipped) == [DID_NOT_HOLD] * 10
    other_kind = found._replace(one_norm=found.two_norm, two_norm=found.one_norm)
    assert verdicts(experiment, other_kind)[:4] == verdicts(experiment, other_kind)[5:9] == [DID_NOT_HOLD] * 4


def test_on_a_level_set_of_the_bilinear_model_the_one_norm_is_the_level_times_the_sum():
    from implicit_adam.losses.problems import bilinear_loss

    for theta in (np.array([1.7, 2.2]), np.array([0.4, 0.9])):
        one_norm = abs(np.asarray(jax.grad(bilinear_loss)(theta))).sum()
        assert one_norm == pytest.approx(abs(4 * theta[0] * theta[1] - 3) * theta.sum(), rel=1e-14)


@pytest.fixture(scope="module")
def small_valley():
    families = (
        valley.Varied("beta", (0.5, 0.9), (("h", 4e-3), ("rho", 0.8), ("eps", 1e-8)), -1, "down"),
        valley.Varied("rho", (0.5, 0.9), (("h", 4e-3), ("beta", 0.8), ("eps", 1e-8)), 1, "up"),
    )
    config = valley.BilinearConfig(families)
    return config, valley.run(config, nothing)


def test_adam_meets_the_valley_as_the_paper_says_and_its_flow_agrees(small_valley):
    config, found = small_valley
    assert verdicts(figures23.FIGURE2, found, config) == [HELD] * 5
    for family in found:
        assert np.allclose(family.met.prod(axis=1), 0.75, atol=1e-5)
        np.testing.assert_array_equal(family.adam[:, -1], family.met)
        # The plain flow keeps theta_2 - theta_1, so that the sum is sqrt(.7^2 + c + 3); h^2 between steps.
        np.testing.assert_allclose(family.plain_sum[0], np.sqrt(0.49 + family.levels + 3), rtol=1e-5)
        assert np.isnan(family.flow_sum[:, -1]).all()
        # Where it is drawn, the flow is on its way down and close to Adam.
        shown = np.isfinite(family.flow)
        assert shown[:, 0].all()
        assert not shown[:, -1].any()
        assert abs(family.flow - family.adam)[shown].max() < 0.02


def test_the_flow_is_drawn_on_top_of_adams_trajectories(small_valley):
    config, found = small_valley
    axes = EXPERIMENTS["figure2"].picture(config, found).axes
    plane = axes[2]
    drawn = [(line.get_linestyle(), line.get_xydata()) for line in plane.get_lines()]
    adam, flow = ([xy for style, xy in drawn if style == kind] for kind in ("-", "--"))
    np.testing.assert_array_equal(adam, found[0].adam)
    np.testing.assert_array_equal(flow, found[0].flow)
    # Value by value, what Adam's one-norm has more than the plain flow's.
    adam, *_ = axes[1].get_lines()
    np.testing.assert_allclose(adam.get_ydata(), 100 * (found[0].adam_sum / found[0].plain_sum - 1)[1])


def test_trajectories_in_the_opposite_order_refute_figure_2(small_valley):
    config, found = small_valley
    reversed_ = tuple(
        family._replace(
            met=family.met[::-1],
            met_outside=family.met_outside[::-1],
            flow_sum=2 * family.plain_sum,
            second_sum=2 * family.plain_sum,
            carried_sum=1.01 * family.carried_sum,
        )
        for family in found
    )
    assert verdicts(figures23.FIGURE2, reversed_, config)[:2] == [DID_NOT_HOLD] * 2
    assert verdicts(figures23.FIGURE2, reversed_, config)[2:] == [DID_NOT_HOLD] * 3


SPECIAL = {
    "gd": special_cases.GD,
    "sgd": shuffles.SGD,
    "momentum": special_cases.MOMENTUM,
    "example21": special_cases.EXAMPLE21,
}


@pytest.mark.parametrize("name", SPECIAL)
def test_the_special_cases_have_their_orders_and_others_would_be_noticed(name):
    experiment = SPECIAL[name]
    found = experiment.run(experiment.quick, nothing)
    assert verdicts(experiment, found) == [HELD]
    same = found._replace(modified_slope=found.plain_slope)
    assert verdicts(experiment, same) == [DID_NOT_HOLD]
    # One last slope that happens to be right, or wrong, has not settled.
    for last in (found.modified_slope[-1], found.plain_slope[-1]):
        by_chance = np.array([*found.modified_slope[:-2], last - 0.11, last])
        assert verdicts(experiment, found._replace(modified_slope=by_chance)) == [UNDECIDED]
    assert verdicts(experiment, found._replace(plain_slope=found.modified_slope)) == [UNDECIDED]
    if name != "sgd":
        assert verdicts(experiment, found._replace(identity=np.asarray(1e-3))) == [DID_NOT_HOLD]


def test_a_slope_elsewhere_refutes_the_theorem():
    config = theorem.THEOREM.quick
    config = theorem.TheoremConfig(
        *(theorem.replace(part, problems=("bilinear",), step_counts=(160, 320, 640), horizon=0.2)
          for part in (config.full_batch, config.cyclic, config.shuffled))
    )  # fmt: skip
    found = theorem.run(config, nothing)
    assert verdicts(theorem.THEOREM, found, config) == [HELD]
    for word, expected in (("contradicted", DID_NOT_HOLD), ("not yet asymptotic", UNDECIDED)):
        turned = theorem.Theorem(tuple(v._replace(words={0: "holds", 1: word}) for v in found.verdicts))
        assert verdicts(theorem.THEOREM, turned, config) == [expected]


def test_the_bias_along_a_short_run_is_judged_by_its_sign():
    experiment = during_training.DURING_TRAINING
    config = during_training.DuringTrainingConfig(rho=0.99, steps=600, every=100, samples=100)
    found = experiment.run(config, nothing)
    assert verdicts(experiment, found, config)[0] == verdicts(experiment, found, config)[4] == HELD
    # At the first step there is nothing to remember: the transient takes all memory away.
    assert found.transient_at_start[:, 0] == pytest.approx(1, abs=0.1)
    assert (found.transient_at_start[:, 0] > found.transient_at_start[:, -1]).all()
    # rho > beta and most gradients are large against sqrt(eps).
    assert (found.negative[:, 0] > 0.75).all()
    turned = found._replace(
        alignment=-found.alignment,
        eps_small=0 * found.eps_small,
        transient_at_start=found.transient_at_start + 1,
        validity=1e-9 * found.validity,
    )
    assert verdicts(experiment, turned, config) == [DID_NOT_HOLD] * 8


def test_the_claims_about_eps_are_those_of_the_run_with_eps_where_they_say():
    """1e-8 inside the root is 1e-4 outside: of the same gradients, fewer are large against it."""
    experiment, config = (
        during_training.DURING_TRAINING,
        during_training.DuringTrainingConfig(rho=0.99, steps=200, every=200, samples=100),
    )
    found = experiment.run(config, nothing)
    loss, params = digits(batches=1, samples=100).mean_loss, digits(batches=1, samples=100).params
    size = np.abs(np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.grad(loss)(params))]))
    assert found.eps_small[:, 0] == pytest.approx([np.mean(size**2 > 1e-6), np.mean(size > 1e-6)], abs=1e-6)
    large_inside = found._replace(eps_small=np.stack([0 * found.eps_small[0], 1 + 0 * found.eps_small[1]]))
    about_eps = [
        claim for claim in experiment.claims(config, large_inside) if "eps is usually" in claim.statement
    ]
    assert [(claim.verdict, "eps inside" in claim.statement) for claim in about_eps] == [
        (DID_NOT_HOLD, True),
        (HELD, False),
    ]


def test_what_is_not_a_number_decides_nothing():
    nan = lambda found: jax.tree.map(lambda x: np.full_like(np.asarray(x, float), np.nan), found)
    for name in ("figure1", "table1", "gd", "during-training"):
        experiment = EXPERIMENTS[name]
        config = (
            experiment.quick
            if name != "during-training"
            else during_training.DuringTrainingConfig(steps=40, samples=20)
        )
        found = experiment.run(config, nothing)
        empty = nan(found)._replace(
            **{k: getattr(found, k) for k in ("rho", "order", "n") if hasattr(found, k)}
        )
        assert set(verdicts(experiment, empty, config)) == {UNDECIDED}, name


def test_a_regime_is_judged_on_its_region_of_the_map_at_the_step_size_that_fits_best():
    config = three_regimes.RegimesConfig(h=(1e-3, 1e-2), memories=(1, 30, 1000))
    # What is expected: rho much larger above the diagonal of (beta, rho), beta much larger below it.
    expected = np.argmax(config.regions, axis=0)
    np.testing.assert_array_equal(expected, [[0, 1, 1], [2, 0, 1], [2, 2, 0]])
    regime = np.broadcast_to(expected[..., None], (2, 2, 3, 3, 3))
    found = three_regimes.ThreeRegimes(regime, regime, np.zeros(regime.shape))
    judged = lambda found: verdicts(three_regimes.THREE_REGIMES, found, config)
    assert judged(found) == [HELD] * 7
    stable = 0 * regime
    all_stable = found._replace(regime=stable, predicted=stable)
    wrong = [UNDECIDED, DID_NOT_HOLD, DID_NOT_HOLD]
    assert judged(all_stable) == [*wrong, *wrong, HELD]
    # At one step size, and for one placement of eps, it is as expected.
    once = stable.copy()
    once[1, 0] = expected[..., None]
    assert judged(found._replace(regime=once, predicted=once)) == [*wrong, HELD, HELD, HELD, HELD]
    # The equation is in another regime below the edge; beyond it nothing is claimed of it.
    assert judged(found._replace(predicted=stable)) == [HELD] * 6 + [DID_NOT_HOLD]
    assert judged(found._replace(predicted=stable, edge=np.full(regime.shape, 1.5))) == [HELD] * 6 + [
        UNDECIDED
    ]


def test_the_flows_of_the_special_cases_are_compared_over_the_horizon_they_are_given():
    study = special_cases.Study(step_counts=(200, 400, 800), horizon=0.5, burn_in=0)
    assert verdicts(special_cases.GD, special_cases.GD.run(study, nothing), study) == [HELD]


def test_arrays_are_named_by_their_path():
    family = valley.Family(*(np.zeros(2) for _ in valley.Family._fields))
    assert "1/met" in dict(named_leaves((family, family), "/"))


def test_equal_values_single_ones_and_numbers_that_are_none_are_not_monotone():
    assert is_monotone(np.array([1.0, 2.0, 3.0]), 1)
    assert is_monotone(np.array([3.0, 2.0, 1.0]), -1)
    for values in ([1.0, 1.0, 2.0], [1.0, 1.0], [1.0], [], [1.0, np.nan, 3.0]):
        assert not any(is_monotone(np.array(values), sign) for sign in (1, -1)), values


def test_what_both_holds_and_does_not_is_undecided():
    assert [decided(held=h, refuted=r) for h, r in ((1, 0), (0, 1), (0, 0), (1, 1))] == [
        HELD,
        DID_NOT_HOLD,
        UNDECIDED,
        UNDECIDED,
    ]


@pytest.mark.parametrize(("other", "verdict"), [(0.995, HELD), (0.997, UNDECIDED), (-0.997, UNDECIDED)])
def test_in_table_1_the_other_norm_must_be_less_aligned_than_the_claimed_one(other, verdict):
    config, cell = table1.Table1Config(), table1.CELLS[0]
    claim = table1._cell(config, cell, np.array([0.999, 0.996]), np.array([0.1, other]), "inside")
    assert claim.verdict == verdict


def test_no_losses_at_all_are_refused_and_do_not_hold_by_default():
    with pytest.raises(ValueError, match="losses"):
        table1.run(table1.Table1Config(losses=0), nothing)


@pytest.mark.parametrize(
    ("gap", "second", "verdict"),
    [(0.199, 0.19, HELD), (0.201, 0.19, UNDECIDED), (0.3, 0.149, HELD), (0.3, np.nan, UNDECIDED)],
)
def test_the_flow_of_figures_2_and_3_may_be_a_fifth_of_the_largest_shift_off_or_order_2_has_the_rest(
    gap, second, verdict
):
    varied = valley.Varied("beta", (0.5, 0.7, 0.9), (), -1, "down")
    config = valley.BilinearConfig((varied,), levels=(9.0,))
    adam = np.array([-1.0, -2.0, -4.0])[:, None]
    unused = np.zeros(3)
    family = valley.Family(
        unused,
        unused,
        unused,
        unused,
        unused,
        unused,
        adam,
        adam + 4 * gap * np.array([[0], [0], [1]]),
        0 * adam,
        adam + 4 * second * np.array([[0], [0], [1]]),
        adam,
    )
    assert valley_claims._predicted(config, [(varied, family)]).verdict == verdict
    other_order = family._replace(flow_sum=family.flow_sum[::-1], second_sum=family.second_sum[::-1])
    refuted = UNDECIDED if np.isnan(second) else DID_NOT_HOLD
    assert valley_claims._predicted(config, [(varied, other_order)]).verdict == refuted
    nothing_moves = family._replace(adam_sum=0 * adam, flow_sum=0 * adam)
    assert valley_claims._predicted(config, [(varied, nothing_moves)]).verdict == UNDECIDED
