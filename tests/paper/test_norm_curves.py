"""Figures 4 to 6: hills, trends and their p-values, and verdicts that follow them."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.norms import early_hills, figure6, figures45, hills, norm_trends, normalised
from implicit_adam.paper.norms.trends import judged, noise, power, trend
from implicit_adam.paper.training.network_runs import NetworkConfig, NetworkRuns
from tests.verdicts import verdicts


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
    """Runs of four seeds with these norms and accuracies, by value; curves fall from twice the norm, and are
    predicted well.
    """
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
        predicted=1.001 * norms[..., ::2],
    )


RHO = (0.2, 0.5, 0.7, 0.9, 0.95, 0.97)


def figure_4(norm, accuracy, **changed):
    """With hills after 70 epochs: .9 has 7 memories before, .95 and .97 fewer than five."""
    config = norm_trends.TrendConfig("rho", 1, NetworkConfig((0.1,), RHO, seeds=(0, 1, 2, 3)), **changed)
    return config, norm_trends.summary(config, runs(norm, accuracy, beta=(0.1,), rho=RHO))


RISING, FALLING = [1.0, 2.0, 3.0, 4.0, 4.0, 3.5], [0.9, 0.8, 0.7, 0.6, 0.6, 0.6]


def test_figures_4_and_5_read_the_trend_of_what_counts_its_end_and_the_prediction():
    config, found = figure_4(RISING, FALLING)
    np.testing.assert_allclose(found.height[:, 0], RISING, rtol=0.03)
    np.testing.assert_allclose(found.epoch, 69.5, atol=1.5)
    np.testing.assert_array_equal(found.counting(config), [True] * 4 + [False] * 2)
    np.testing.assert_array_equal(found.beyond(config), [False] * 3 + [True] * 3)
    assert verdicts(figures45.FIGURE4, found, config) == [HELD] * 4
    assert "left out: 0.95, 0.97" in norm_trends.claims(config, found)[0].measured
    # Beyond, the trend goes on; before, it is the other one.
    config, other = figure_4([4.0, 3, 2, 1, 2, 3], FALLING[::-1])
    assert verdicts(figures45.FIGURE4, other, config) == [DID_NOT_HOLD] * 3 + [HELD]


def test_unstable_values_do_not_count():
    config, found = figure_4(RISING, FALLING)
    unstable = found._replace(regime=np.array([[0] * 4, [0, 1, 0, 0], [2, 0, 0, 0], *[[0] * 4] * 3]))
    assert verdicts(figures45.FIGURE4, unstable, config)[:2] == [UNDECIDED] * 2
    assert "left out: 0.5, 0.7, 0.95, 0.97" in norm_trends.claims(config, unstable)[0].measured


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.9912, HELD), (1.011, DID_NOT_HOLD), (0.94, DID_NOT_HOLD), (np.nan, UNDECIDED)]
)
def test_a_prediction_is_judged_by_its_curves_and_hills(factor, verdict):
    config, found = figure_4(RISING, FALLING)
    made = found.runs._replace(predicted=factor * found.runs.norm[..., ::2])
    assert norm_trends.predicted_claim(config, norm_trends.summary(config, made)).verdict == verdict


def test_runs_without_a_prediction_leave_it_undecided_and_are_drawn():
    config, found = figure_4(RISING, FALLING)
    made = found.runs._replace(predicted=np.zeros((*found.runs.regime.shape, 0)))
    without = norm_trends.summary(config, made)
    assert verdicts(figures45.FIGURE4, without, config) == [HELD, HELD, HELD, UNDECIDED]
    assert figures45.picture(config, without).axes


def test_accuracy_is_undecided_without_the_power_to_see_the_effect():
    rng = np.random.default_rng(0)
    noisy = np.asarray(FALLING)[:, None] + rng.normal(scale=0.02, size=(6, 4))
    config, found = figure_4(RISING, FALLING)
    found = found._replace(accuracy=noisy)
    claim = norm_trends.claims(config, found)[1]
    assert judged(trend(noisy[:4].T), -1, 0.05) == HELD
    assert claim.verdict == UNDECIDED
    sure = norm_trends.claims(figure_4(RISING, FALLING, effect=0.3)[0], found)[1]
    assert sure.verdict == HELD
    assert "power 100%" in sure.measured


def test_power_is_the_share_of_noisy_rises_that_pages_test_finds():
    from scipy.stats import page_trend_test

    rng, seeds, values = np.random.default_rng(1), 4, 5
    measured = rng.normal(size=(values, seeds))
    assert noise(measured + 7 * np.arange(seeds) + 3 * np.arange(values)[:, None]) == pytest.approx(
        noise(measured)
    )
    rise = 1.5 * noise(measured) * np.linspace(0, 1, values)
    drawn = noise(measured) * rng.normal(size=(300, seeds, values)) + rise
    found = np.mean([page_trend_test(x, method="exact").pvalue < 0.025 for x in drawn])
    assert power(measured, 1.5 * noise(measured), 0.05) == pytest.approx(found, abs=0.1)
    assert np.isnan(power(measured[:2], 1.0, 0.05))


def test_early_hills_are_early_their_trend_is_the_opposite_one_and_they_are_predicted():
    rho = (0.97, 0.98, 0.99)
    config = early_hills.EarlyConfig(norm_trends.TrendConfig("rho", 1, NetworkConfig((0.99,), rho)))
    of = lambda norms: norm_trends.summary(config.trends, runs(norms, [0.9] * 3, beta=(0.99,), rho=rho))
    assert verdicts(early_hills.EARLY_HILLS, of([3.0, 2, 1]), config) == [HELD] * 3
    late = of([1.0, 2, 3])._replace(epoch=np.full((3, 4), 300.0))
    assert verdicts(early_hills.EARLY_HILLS, late, config) == [DID_NOT_HOLD, DID_NOT_HOLD, HELD]
    assert verdicts(early_hills.EARLY_HILLS, late._replace(epoch=late.epoch * np.nan), config)[0] == UNDECIDED


def test_a_level_is_crossed_between_entries():
    curve = np.array([[3.0, 2.0, 0.0, 1.0], [1.0, 1.0, 2.0, 2.0], [9.0, 8.0, 7.0, 6.0]])
    index = hills.first_below(curve, 1.5)
    np.testing.assert_allclose(index, [1.25, 0, np.nan])
    np.testing.assert_allclose(hills.taken(curve, index), [1.5, 1.0, np.nan])
    np.testing.assert_allclose(hills.taken(curve, np.array([3.0, 2.0, 0.25])), [1.0, 2.0, 8.75])
    ended = np.array([[2.0, 1.0, 3.0, 9.0, np.nan]])
    assert hills.height(ended, 0.1) == hills.taken(ended, hills.top(ended, 0.1)) == 9


def test_without_hills_norms_are_compared_where_the_loss_is_at_a_level():
    config = norm_trends.TrendConfig("rho", 1, NetworkConfig((0.1,), RHO, seeds=(0, 1, 2, 3)), level=0.5)
    falling = np.broadcast_to(np.exp(-np.arange(200) / 100), (1, len(RHO), 4, 200))
    norm = falling * np.reshape(RISING, (1, -1, 1, 1))
    made = runs(RISING, FALLING, beta=(0.1,), rho=RHO)._replace(loss=falling, norm=norm)
    found = norm_trends.summary(config, made._replace(predicted=1.001 * norm[..., ::2]))
    np.testing.assert_allclose(found.epoch, 100 * np.log(2), atol=1.5)
    np.testing.assert_allclose(found.height[:, 0], 0.5 * np.asarray(RISING), rtol=0.02)
    np.testing.assert_allclose(found.predicted / found.looked, 1.001, rtol=1e-9)
    assert verdicts(normalised.FIGURE4_NORMALISED, found, config) == [HELD] * 5
    assert "a loss of 0.5 comes after" in norm_trends.claims(config, found)[0].measured
    with_hills = norm_trends.summary(config, made._replace(norm=figure_4(RISING, FALLING)[1].runs.norm))
    assert verdicts(normalised.FIGURE4_NORMALISED, with_hills, config)[0] == DID_NOT_HOLD
    never = norm_trends.summary(replace(config, level=0.01), made)
    assert np.isnan(never.height).all()
    assert verdicts(normalised.FIGURE4_NORMALISED, never, config)[1:] == [UNDECIDED] * 4


def test_figure_6_reads_hills_order_and_floor():
    config = figure6.Figure6Config()
    beta, rho = (0.3, 0.5, 0.7, 0.9), (0.3, 0.5, 0.7, 0.9)
    left = runs([4.0, 3, 2, 1], [0.9] * 4, beta=beta, rho=(0.999,))
    right = runs([1.0, 2, 3, 4], [0.9] * 4, beta=(0.97,), rho=rho)
    found = figure6.Figure6(left, right)
    assert verdicts(figure6.FIGURE6, found, config) == [HELD] * 7
    turned = figure6.Figure6(
        runs([1.0, 2, 3, 4], [0.9] * 4, beta=beta, rho=(0.999,)),
        runs([4.0, 3, 2, 1], [0.9] * 4, beta=(0.97,), rho=rho),
    )
    assert verdicts(figure6.FIGURE6, turned, config)[1:4] == [DID_NOT_HOLD] * 3
    falling = np.linspace(3, 1, 200) + np.zeros((4, 1, 4, 1))
    flat = figure6.Figure6(left._replace(norm=falling), right._replace(norm=falling.swapaxes(0, 1) * 1e-5))
    assert [verdicts(figure6.FIGURE6, flat, config)[i] for i in (0, 4)] == [DID_NOT_HOLD] * 2
    one_panel = figure6.claims(config, figure6.Figure6(left, flat.right))[0]
    assert one_panel.verdict == UNDECIDED
    assert "50% of 32 curves" in one_panel.measured


def test_figure_6_is_drawn_as_its_shape_is_read_above_its_floor():
    config = figure6.Figure6Config()
    left = runs([4.0, 3, 2, 1], [0.9] * 4, beta=(0.9, 0.95, 0.97, 0.99), rho=(0.999,))
    right = runs([1.0, 2, 3, 4], [0.9] * 4, beta=(0.97,), rho=(0.97, 0.98, 0.99, 0.999))
    ax = figure6.picture(config, figure6.Figure6(left, right)).axes[1]
    lines = ax.get_lines()
    curves, predicted, floor = lines[:4], lines[4:-1], lines[-1]
    for line, norm in zip(curves, right.norm[0], strict=True):
        np.testing.assert_allclose(line.get_ydata(), hills.smoothed(norm, config.fine).mean(axis=0))
    for line, norm in zip(predicted, right.predicted[0], strict=True):
        np.testing.assert_allclose(line.get_ydata(), norm.mean(axis=0))
        np.testing.assert_array_equal(line.get_xdata()[:3], [1, 3, 5])
    np.testing.assert_allclose(floor.get_ydata(), 10 * 1e-8**0.5)


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


def test_a_hill_is_a_fall_a_rise_and_a_fall():
    down, up = np.linspace(3, 1, 10), np.linspace(1, 2, 10)
    assert hills.has_hill(np.concatenate([down, up, down / 3]), 0.1)
    assert not hills.has_hill(down, 0.1)
    assert not hills.has_hill(np.concatenate([up, up[::-1]]), 0.1)
    assert not hills.has_hill(np.concatenate([up, down / 3]), 0.1)
    assert not hills.has_hill(np.concatenate([down, up]), 0.1)
    assert not hills.has_hill(np.concatenate([down, 0.95 + 0.05 * up, down / 3]), 0.1)


def bounded_by(config, *least):
    """The verdict on the floor for the smallest norms of both panels, in units of p sqrt(eps)."""
    beta, rho = (0.9, 0.95), (0.97, 0.98)
    panels = (
        runs([1.0] * 2, [0.9] * 2, beta=beta, rho=(0.999,)),
        runs([1.0] * 2, [0.9] * 2, beta=(0.97,), rho=rho),
    )
    norms = [x * 10 * 1e-8**0.5 + np.zeros_like(panel.norm) for x, panel in zip(least, panels, strict=True)]
    left, right = (panel._replace(norm=norm) for panel, norm in zip(panels, norms, strict=True))
    return figure6._bounded(config, figure6.Figure6(left, right)).verdict


def test_the_floor_of_figure_6_is_that_of_float32():
    config = figure6.Figure6Config()
    assert bounded_by(config, 1 - 0.9e-5, 1.0) == bounded_by(config, 1.0, 1 - 0.9e-5) == HELD
    assert bounded_by(config, 1 - 1.1e-5, 1.0) == bounded_by(config, 1.0, 1 - 1.1e-5) == DID_NOT_HOLD


def test_a_panel_without_numbers_decides_nothing():
    config = figure6.Figure6Config()
    assert bounded_by(config, 1.0, np.nan) == bounded_by(config, np.nan, 1.0) == UNDECIDED
    assert figure6._hills(config, np.full((2, 200), np.nan)).verdict == UNDECIDED
    assert figure6._hills(config, np.zeros((0, 200))).verdict == UNDECIDED
    at = lambda curves: figure6.Measurement("beta", np.arange(4.0), curves, np.full(4, True))
    for nothing_seen in (np.full((4, 3, 200), np.nan), np.ones((4, 3, 200)), np.zeros((4, 0, 200))):
        assert figure6._ordered(config, at(nothing_seen)).verdict == UNDECIDED
