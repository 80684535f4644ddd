"""Reading the order off errors: what may be fitted, and when it counts."""

import numpy as np
import pytest

from implicit_adam.slopes import fit_tail, local_slopes

H = 0.1 / 2.0 ** np.arange(7)
NO_FLOOR, FAR = np.zeros(7), np.full(7, 1e9)


def test_a_pure_power_law_is_read_exactly():
    law = fit_tail(H, 3.0 * H**2, NO_FLOOR, FAR, expected=2)
    assert law.settled
    np.testing.assert_allclose([law.slope, law.constant], [2, 3], rtol=1e-12)
    assert law.stderr < 1e-12


@pytest.mark.parametrize("p", [1, 2])
def test_a_law_that_bends_at_large_h_is_read_off_its_tail(p):
    law = fit_tail(H, H**p * (1 + 20 * H), NO_FLOOR, FAR, expected=p)
    assert law.settled
    assert abs(law.slope - p) < 0.1
    # The bend is really there.
    assert local_slopes(H, H**p * (1 + 20 * H))[0] > p + 0.3


def test_a_law_still_bending_is_not_settled():
    assert not fit_tail(H[:3], H[:3] * (1 + 100 * H[:3] ** 2), NO_FLOOR[:3], FAR[:3], expected=1).settled


def test_errors_at_the_rounding_floor_are_left_out():
    floor = np.full(7, 1e-6)
    error = np.maximum(H**2, 9e-6)
    law = fit_tail(H, error, floor, FAR, expected=2)
    assert law.settled
    np.testing.assert_allclose(law.slope, 2, rtol=1e-9)
    assert fit_tail(H, error, NO_FLOOR, FAR, expected=2).slope < 1.9


def test_too_few_usable_errors_decide_nothing():
    law = fit_tail(H, H**2, np.full(7, H[2] ** 2), FAR, expected=2)
    assert not law.settled
    assert np.isnan(law.slope)


@pytest.mark.parametrize("ratio", [2.0, 1.5, 1.1])
def test_the_limit_is_extrapolated_whatever_the_ratio_of_the_steps(ratio):
    h = 0.02 / ratio ** np.arange(14)
    law = fit_tail(h, h**2 * (1 + 10 * h), np.zeros(14), np.full(14, 1e9), expected=2)
    assert abs(law.limit - 2) < 0.02
    assert abs(law.limit - 2) < abs(local_slopes(h, h**2 * (1 + 10 * h))[-1] - 2)


def test_steps_close_together_do_not_settle_anything():
    """Neighbouring slopes then agree whatever the law is."""
    h = 1.0 / np.array([10, 11, 12, 13])
    assert not fit_tail(h, h**2, np.zeros(4), np.full(4, 1e9), expected=2).settled
    h = 1.0 / 1.3 ** np.arange(6)
    assert not fit_tail(h, h * (1 + 3 * h), np.zeros(6), np.full(6, 1e9), expected=1).settled


def test_only_an_unbroken_tail_is_fitted():
    """An early slope that happens to agree, beyond one that does not, is no part of it."""
    slopes = np.array([2.0, 2.0, 1.0, 2.0, 2.0])
    error = np.exp(np.concatenate([[0.0], np.cumsum(slopes * np.diff(np.log(H[:6])))]))
    law = fit_tail(H[:6], error, NO_FLOOR[:6], FAR[:6], expected=2)
    np.testing.assert_allclose(law.slope, 2, rtol=1e-12)


def test_zero_and_infinite_errors_give_nan_slopes_and_no_warning():
    error = np.array([np.inf, 1.0, 0.5, 0.0])
    assert np.isnan(local_slopes(H[:4], error)).tolist() == [True, False, True]


def test_the_standard_error_is_that_of_least_squares():
    noise = np.exp(0.01 * np.array([1, -1, 1, -1, 1, -1, 1]))
    law = fit_tail(H, H**2 * noise, NO_FLOOR, FAR, expected=2)
    design = np.stack([np.log(H), np.ones(7)], axis=1)
    _, residual, *_ = np.linalg.lstsq(design, np.log(H**2 * noise), rcond=None)
    covariance = residual[0] / 5 * np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(law.stderr, covariance[0, 0] ** 0.5, rtol=1e-9)


def test_errors_of_the_size_of_the_way_travelled_are_left_out():
    """Far outside the regime the error is as large as the run, whatever h: a settled slope of nothing."""
    nonsense = np.where(H > 0.02, 0.5, H**2)
    assert not fit_tail(H[:3], np.full(3, 0.5), NO_FLOOR[:3], np.ones(3), expected=1).settled
    law = fit_tail(H, nonsense, NO_FLOOR, np.ones(7), expected=2)
    np.testing.assert_allclose(law.slope, 2, rtol=1e-9)
