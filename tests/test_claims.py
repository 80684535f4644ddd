"""Verdicts follow their criteria: each is turned by data that say otherwise."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import spearmanr

import implicit_adam as ia
from implicit_adam.experiments import (
    along_a_run,
    figure1,
    figure6,
    figures45,
    hills,
    reach,
    shuffles,
    special_cases,
    table1,
    theorem,
    three_regimes,
    valley,
)
from implicit_adam.experiments.claims import DID_NOT_HOLD, HELD, UNDECIDED, named_arrays
from implicit_adam.experiments.reproduce import ITEMS
from implicit_adam.experiments.training.network_runs import NetworkConfig, NetworkRuns
from implicit_adam.experiments.trends import judged, trend
from implicit_adam.plotting.paper import PICTURES
from implicit_adam.training import checked_training
from tests import losses


def nothing(share):
    pass


def verdicts(item, found, config=None):
    return [claim.verdict for claim in item.claims(config or item.quick, found)]


def test_every_item_has_a_picture_and_two_configs():
    assert ITEMS.keys() == PICTURES.keys()
    for item in ITEMS.values():
        assert type(item.config) is type(item.quick)


def test_the_integral_of_figure_1_is_that_of_the_braces_and_a_wrong_one_is_found_out():
    item = figure1.FIGURE1
    found = item.run(item.quick, nothing)
    assert verdicts(item, found) == [HELD, HELD]
    eps, beta, rho = item.quick.eps, item.quick.beta, found.rho[-1]
    y = found.x[50:51]
    step = 1e-6 * y
    slope = np.diff([figure1._closed_form(y + s, beta, rho, eps) for s in (-step, step)], axis=0)[0] / (
        2 * step
    )
    a, c = (1 + beta) / (1 - beta), (1 + rho) / (1 - rho)
    assert slope == pytest.approx((a - c + c * eps / (y**2 + eps)) * y / np.sqrt(y**2 + eps), rel=1e-6)
    assert verdicts(item, found._replace(closed_form=1.001 * found.closed_form))[0] == DID_NOT_HOLD
    assert verdicts(item, found._replace(closed_form=-found.closed_form))[1] == DID_NOT_HOLD


def test_table_1_holds_on_random_losses_and_not_for_the_opposite_signs():
    item = table1.TABLE1
    found = item.run(table1.Table1Config(losses=4), nothing)
    assert verdicts(item, found) == [HELD] * 5
    flipped = found._replace(
        one_norm=-found.one_norm, two_norm=-found.two_norm, bias_error=found.bias_error + 1
    )
    assert verdicts(item, flipped) == [DID_NOT_HOLD] * 5
    other_kind = found._replace(one_norm=found.two_norm, two_norm=found.one_norm)
    assert verdicts(item, other_kind)[:4] == [DID_NOT_HOLD] * 4


def test_on_a_level_set_of_the_bilinear_model_the_one_norm_is_the_level_times_the_sum():
    from implicit_adam.problems import bilinear_loss

    for theta in (np.array([1.7, 2.2]), np.array([0.4, 0.9])):
        one_norm = abs(np.asarray(jax.grad(bilinear_loss)(theta))).sum()
        assert one_norm == pytest.approx(abs(4 * theta[0] * theta[1] - 3) * theta.sum(), rel=1e-14)


@pytest.fixture(scope="module")
def small_valley():
    families = (
        valley.Varied("beta", (0.5, 0.9), (("h", 4e-3), ("rho", 0.8), ("eps", 1e-8)), -1, "down"),
        valley.Varied("rho", (0.5, 0.9), (("h", 4e-3), ("beta", 0.8), ("eps", 1e-8)), 1, "up"),
    )
    config = valley.ValleyConfig(families)
    return config, valley.run(config, nothing)


def test_adam_meets_the_valley_as_the_paper_says_and_its_flow_agrees(small_valley):
    config, found = small_valley
    assert verdicts(valley.FIGURE2, found, config) == [HELD] * 4
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


def test_trajectories_in_the_opposite_order_refute_figure_2(small_valley):
    config, found = small_valley
    reversed_ = tuple(
        family._replace(
            met=family.met[::-1], met_outside=family.met_outside[::-1], flow_sum=2 * family.plain_sum
        )
        for family in found
    )
    assert verdicts(valley.FIGURE2, reversed_, config)[:2] == [DID_NOT_HOLD] * 2
    assert verdicts(valley.FIGURE2, reversed_, config)[3] == DID_NOT_HOLD


SPECIAL = {
    "gd": special_cases.GD,
    "sgd": shuffles.SGD,
    "momentum": special_cases.MOMENTUM,
    "example21": special_cases.EXAMPLE21,
}


@pytest.mark.parametrize("name", SPECIAL)
def test_the_special_cases_have_their_orders_and_others_would_be_noticed(name):
    item = SPECIAL[name]
    found = item.run(item.quick, nothing)
    assert verdicts(item, found) == [HELD]
    same = found._replace(modified_slope=found.plain_slope)
    assert verdicts(item, same) == [DID_NOT_HOLD]
    assert verdicts(item, found._replace(plain_slope=found.modified_slope)) == [UNDECIDED]
    if name != "sgd":
        assert verdicts(item, found._replace(identity=np.asarray(1e-3))) == [DID_NOT_HOLD]


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
    item = along_a_run.ALONG
    config = along_a_run.AlongConfig(rho=0.99, steps=600, every=100, samples=100)
    found = item.run(config, nothing)
    assert verdicts(item, found, config)[0] == HELD
    # At the first step there is nothing to remember: the transient takes all memory away.
    assert found.transient_at_start[0] == pytest.approx(1, abs=0.1)
    assert found.transient_at_start[0] > found.transient_at_start[-1]
    # rho > beta and most gradients are large against sqrt(eps).
    assert found.negative[0] > 0.75
    turned = found._replace(
        alignment=-found.alignment,
        eps_small=0 * found.eps_small,
        transient_at_start=found.transient_at_start + 1,
        validity=1e-9 * found.validity,
    )
    assert verdicts(item, turned, config) == [DID_NOT_HOLD] * 4


def test_a_trend_is_the_mean_of_spearmans_correlations_with_an_exact_p_value():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4)) + 0.4 * np.arange(4)
    found = trend(values)
    each = [spearmanr(np.arange(4), row).statistic for row in values]
    assert found.correlation == pytest.approx(np.mean(each))
    orders = np.array(list(permutations(range(1, 5)))) @ np.arange(1, 5)
    sums = (orders[:, None, None] + orders[None, :, None] + orders[None, None, :]).ravel()
    observed = sum((np.argsort(np.argsort(row)) + 1) @ np.arange(1, 5) for row in values)
    one_sided = min((sums >= observed).mean(), (sums <= observed).mean())
    assert found.p_value == pytest.approx(min(1, 2 * one_sided), rel=1e-6)


def test_a_trend_is_judged_by_sign_and_significance_and_needs_data():
    rising = np.arange(5.0) + np.zeros((4, 1))
    assert [judged(trend(rising), sign, 0.05) for sign in (1, -1)] == [HELD, DID_NOT_HOLD]
    noise = np.random.default_rng(1).normal(size=(4, 5))
    assert judged(trend(noise), 1, 0.05) == UNDECIDED
    for too_little in (rising[:1], rising[:, :2], np.where(rising > 3, np.nan, rising)):
        assert judged(trend(too_little), 1, 0.05) == UNDECIDED


def runs(norm, accuracy, **values):
    """Runs of four seeds with these norms and accuracies, by value; curves fall from twice the norm."""
    shape = (len(values["beta"]), len(values["rho"]), 4)
    curve = np.concatenate([np.linspace(3, 0.3, 50), np.linspace(0.3, 1, 20), np.linspace(1, 0.2, 130)])
    norms = np.broadcast_to(np.reshape(norm, (*shape[:2], 1, 1)), (*shape, 1)) * curve
    right = np.broadcast_to(np.reshape(accuracy, (*shape[:2], 1, 1)), (*shape, 3))
    return NetworkRuns(
        np.asarray(values["beta"]),
        np.asarray(values["rho"]),
        loss=norms,
        norm=norms,
        accuracy=right,
        regime=np.zeros(shape, int),
        p=np.asarray(10),
    )


def test_figures_4_and_5_read_the_trend_and_leave_unstable_values_out():
    rho = (0.97, 0.98, 0.99, 0.999)
    config = figures45.TrendConfig("rho", 1, NetworkConfig((0.99,), rho, seeds=(0, 1, 2, 3)))
    as_printed = runs([1.0, 2.0, 3.0, 4.0], [0.9, 0.8, 0.7, 0.6], beta=(0.99,), rho=rho)
    found = figures45.summary(config, as_printed)
    # The curve of `runs` has its hill at 1 and, after a tenth of the epochs, is still at 1.9.
    np.testing.assert_allclose(found.height[:, 0], [1.0, 2, 3, 4], rtol=0.03)
    np.testing.assert_allclose(found.late[:, 0], [1.9 * k for k in (1, 2, 3, 4)], rtol=0.03)
    assert verdicts(figures45.FIGURE4, found, config) == [HELD, HELD]
    other = figures45.summary(config, runs([4.0, 3, 2, 1], [0.6, 0.7, 0.8, 0.9], beta=(0.99,), rho=rho))
    assert verdicts(figures45.FIGURE4, other, config) == [DID_NOT_HOLD] * 2
    unstable = found._replace(regime=np.array([[0, 0, 0, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]))
    assert verdicts(figures45.FIGURE4, unstable, config) == [UNDECIDED] * 2
    assert "left out: 0.98, 0.99" in figures45.claims(config, unstable)[0].measured


def test_figure_6_reads_hills_order_and_floor():
    config = figure6.Figure6Config()
    beta, rho = (0.9, 0.95, 0.97, 0.99), (0.97, 0.98, 0.99, 0.999)
    left = runs([4.0, 3, 2, 1], [0.9] * 4, beta=beta, rho=(0.999,))
    right = runs([1.0, 2, 3, 4], [0.9] * 4, beta=(0.97,), rho=rho)
    found = figure6.Figure6(left, right)
    assert verdicts(figure6.FIGURE6, found, config) == [HELD] * 5
    turned = figure6.Figure6(
        runs([1.0, 2, 3, 4], [0.9] * 4, beta=beta, rho=(0.999,)),
        runs([4.0, 3, 2, 1], [0.9] * 4, beta=(0.97,), rho=rho),
    )
    assert verdicts(figure6.FIGURE6, turned, config)[1:4] == [DID_NOT_HOLD] * 3
    falling = np.linspace(3, 1, 200) + np.zeros((4, 1, 4, 1))
    flat = figure6.Figure6(left._replace(norm=falling), right._replace(norm=falling.swapaxes(0, 1) * 1e-5))
    assert [verdicts(figure6.FIGURE6, flat, config)[i] for i in (0, 4)] == [DID_NOT_HOLD] * 2


def test_a_first_fall_shorter_than_the_coarse_average_is_seen_by_the_fine_one():
    config = figure6.Figure6Config()
    quick = np.concatenate([np.linspace(1.5, 1, 8), np.linspace(1, 4, 60), np.linspace(4, 0.1, 2932)])
    claim = figure6._hills(config, np.stack([quick, quick]))
    assert claim.verdict == HELD
    assert claim.measured == "100% of 2 curves; averaged over 1% of the epochs, 0%"


def test_the_height_of_a_hill_is_the_highest_value_after_a_rise():
    hill = np.concatenate([np.linspace(9, 2, 20), np.linspace(2, 5, 20), np.linspace(5, 0.1, 20)])
    late_bump = np.concatenate([hill, np.linspace(0.1, 1, 20), np.linspace(1, 0.1, 20)])
    assert hills.height(hill, 0.1) == hills.height(late_bump, 0.1) == 5
    np.testing.assert_array_equal(hills.height(np.stack([hill, hill[::-1] + 1]), 0.1), [5, 10])
    assert np.isnan(hills.height(np.linspace(3, 1, 20), 0.1))


def test_what_is_not_a_number_decides_nothing():
    nan = lambda found: jax.tree.map(lambda x: np.full_like(np.asarray(x, float), np.nan), found)
    for name in ("figure1", "table1", "gd", "along"):
        item = ITEMS[name]
        config = item.quick if name != "along" else along_a_run.AlongConfig(steps=40, samples=20)
        found = item.run(config, nothing)
        empty = nan(found)._replace(
            **{k: getattr(found, k) for k in ("rho", "order", "n") if hasattr(found, k)}
        )
        assert set(verdicts(item, empty, config)) == {UNDECIDED}, name


def test_the_order_of_norms_over_the_epochs_must_be_that_of_every_seed():
    config, rng = figure6.Figure6Config(), np.random.default_rng(0)
    noise = 1 + 0.1 * rng.normal(size=(4, 3, 1)) + np.zeros((4, 3, 200))
    at = lambda curves, kept: figure6.Measurement("beta", np.arange(4.0), curves, np.asarray(kept))
    falling = np.arange(4.0, 0, -1)[:, None, None] + np.zeros((4, 3, 200))
    every = [True] * 4
    assert figure6._ordered(config, at(falling, every)).verdict == HELD
    assert figure6._ordered(config, at(falling[::-1], every)).verdict == DID_NOT_HOLD
    assert figure6._ordered(config, at(noise, every)).verdict == UNDECIDED
    assert figure6._ordered(config, at(falling, [True, True, False, False])).verdict == UNDECIDED


def test_a_regime_that_the_other_pairs_are_in_as_well_is_not_explained():
    config = three_regimes.RegimesConfig()
    regime = np.broadcast_to(np.arange(3)[:, None, None], (3, 3, 3))
    found = three_regimes.ThreeRegimes(regime, np.zeros((3, 3, 3, 2)))
    assert verdicts(three_regimes.THREE_REGIMES, found, config) == [HELD] * 3
    all_stable = found._replace(regime=0 * regime)
    expected = [UNDECIDED, DID_NOT_HOLD, DID_NOT_HOLD]
    assert verdicts(three_regimes.THREE_REGIMES, all_stable, config) == expected


def test_the_flows_of_the_special_cases_are_compared_over_the_horizon_they_are_given():
    study = special_cases.Study(step_counts=(200, 400, 800), horizon=0.5, burn_in=0)
    assert verdicts(special_cases.GD, special_cases.GD.run(study, nothing), study) == [HELD]


def test_a_hill_is_a_fall_a_rise_and_a_fall():
    down, up = np.linspace(3, 1, 10), np.linspace(1, 2, 10)
    assert hills.has_hill(np.concatenate([down, up, down / 3]), 0.1)
    assert not hills.has_hill(down, 0.1)
    assert not hills.has_hill(np.concatenate([up, up[::-1]]), 0.1)
    assert not hills.has_hill(np.concatenate([up, down / 3]), 0.1)
    assert not hills.has_hill(np.concatenate([down, up]), 0.1)
    assert not hills.has_hill(np.concatenate([down, 0.95 + 0.05 * up, down / 3]), 0.1)


def test_arrays_are_named_by_their_path():
    family = valley.Family(*(np.zeros(2) for _ in valley.Family._fields))
    assert "1/met" in named_arrays((family, family))


@pytest.fixture(scope="module")
def reached():
    config = reach.ReachConfig(
        problems=(("bilinear", 0.5, 1e-4),),
        decays=((0.5, 0.7),),
        step_counts=(20, 40, 80, 160),
        unexpanded_steps=(("bilinear", 80),),
        accuracies=(1e-4, 1e-5),
    )
    return config, reach.run(config, nothing)


def test_orders_reach_further_where_the_series_converges(reached):
    config, found = reached
    assert verdicts(reach.REACH, found, config) == [HELD]
    plain, first, second, unexpanded = found.error[0, 0]
    slopes = [np.log2(error[-2] / error[-1]) for error in (plain, first, second)]
    np.testing.assert_allclose(slopes, [1, 2, 3], atol=0.25)
    # The unexpanded map of order 1 has order 1, too; it is measured up to 80 steps.
    assert np.log2(unexpanded[1] / unexpanded[2]) == pytest.approx(2, abs=0.35)
    assert np.isnan(unexpanded[3])
    swapped = found._replace(largest_h=found.largest_h[:, :, [0, 2, 1, 3]])
    assert verdicts(reach.REACH, swapped, config) == [DID_NOT_HOLD]


def test_the_largest_h_is_where_all_smaller_ones_are_within_the_accuracy():
    h = np.array([4.0, 3.0, 2.0, 1.0])
    errors = np.array([[1e-4, 1.0, 1e-4, 1e-4], [np.inf, np.inf, np.inf, 1.0], [1e-4, 1e-4, np.nan, np.nan]])
    np.testing.assert_array_equal(reach._largest(h, errors, (1e-2,))[:, 0], [2.0, np.nan, 4.0])


def test_the_unexpanded_map_is_the_optimizer_run_over_the_displaced_history():
    h, n, theta = 0.05, 4, losses.START
    rule = ia.Adam(h, 0.5, 0.6, 0.1)
    objective = checked_training(rule, losses.full_loss, theta).objective
    g = jax.grad(losses.full_loss)(theta)
    F = g / jnp.sqrt(g**2 + 0.1)
    tx = optax.adam(1.0, b1=0.5, b2=0.6, eps=0.0, eps_root=0.1)
    state = tx.init(theta)
    with jax.numpy_dtype_promotion("standard"):
        for k in range(n + 1):
            u, state = tx.update(jax.grad(losses.full_loss)(theta + h * (n - k) * F), state, theta)
    np.testing.assert_allclose(reach._unexpanded(rule, objective, 8)(n, theta), -u, rtol=1e-12)
