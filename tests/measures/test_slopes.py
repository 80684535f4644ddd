"""Reading the order off errors: what may be fitted, and when it counts."""

import numpy as np
import pytest

from implicit_adam.measures.slopes import SETTLED, SPAN, fit_tail, local_slopes, usable

H = 0.1 / 2.0 ** np.arange(7)


def read(h, error, expected, floor=0.0, small=True):
    """The law of all errors that are clear of the floor, from where on h is small."""
    chosen = usable(error, np.broadcast_to(floor, h.shape), np.broadcast_to(small, h.shape))
    return fit_tail(h, error, chosen, expected)


def test_a_pure_power_law_is_read_exactly():
    law = read(H, 3.0 * H**2, 2)
    assert not law.unsettled
    np.testing.assert_allclose([law.slope, law.constant], [2, 3], rtol=1e-12)
    assert law.stderr < 1e-12


@pytest.mark.parametrize("p", [1, 2])
def test_a_law_that_bends_at_large_h_is_read_off_its_tail(p):
    law = read(H, H**p * (1 + 20 * H), p)
    assert not law.unsettled
    assert abs(law.slope - p) < 0.1
    # The bend is really there.
    assert local_slopes(H, H**p * (1 + 20 * H))[0] > p + 0.3


def test_a_law_still_bending_is_not_settled():
    assert "still move" in read(H[:3], H[:3] * (1 + 100 * H[:3] ** 2), 1).unsettled


def test_errors_at_the_rounding_floor_are_left_out():
    error = np.maximum(H**2, 9e-6)
    law = read(H, error, 2, floor=1e-6)
    assert not law.unsettled
    np.testing.assert_allclose(law.slope, 2, rtol=1e-9)
    assert read(H, error, 2).slope < 1.9


def test_too_few_usable_errors_decide_nothing():
    law = read(H, H**2, 2, floor=H[2] ** 2)
    assert law.unsettled
    assert np.isnan(law.slope)


@pytest.mark.parametrize("ratio", [2.0, 1.5, 1.1])
def test_the_limit_is_extrapolated_whatever_the_ratio_of_the_steps(ratio):
    h = 0.02 / ratio ** np.arange(14)
    law = read(h, h**2 * (1 + 10 * h), 2)
    assert abs(law.limit - 2) < 0.02
    assert abs(law.limit - 2) < abs(local_slopes(h, h**2 * (1 + 10 * h))[-1] - 2)


def test_steps_close_together_do_not_settle_anything():
    """Neighbouring slopes then agree whatever the law is."""
    h = 1.0 / np.array([10, 11, 12, 13])
    assert "factor of 1.3 in h" in read(h, h**2, 2).unsettled
    h = 1.0 / 1.3 ** np.arange(6)
    assert read(h, h * (1 + 3 * h), 1).unsettled


def test_only_an_unbroken_tail_is_fitted():
    """An early slope that happens to agree, beyond one that does not, is no part of it."""
    slopes = np.array([2.0, 2.0, 1.0, 2.0, 2.0])
    error = np.exp(np.concatenate([[0.0], np.cumsum(slopes * np.diff(np.log(H[:6])))]))
    law = read(H[:6], error, 2)
    np.testing.assert_allclose(law.slope, 2, rtol=1e-12)


def test_zero_and_infinite_errors_give_nan_slopes_and_no_warning():
    error = np.array([np.inf, 1.0, 0.5, 0.0])
    assert np.isnan(local_slopes(H[:4], error)).tolist() == [True, False, True]


def test_the_standard_error_is_that_of_least_squares():
    noise = np.exp(0.01 * np.array([1, -1, 1, -1, 1, -1, 1]))
    law = read(H, H**2 * noise, 2)
    design = np.stack([np.log(H), np.ones(7)], axis=1)
    _, residual, *_ = np.linalg.lstsq(design, np.log(H**2 * noise), rcond=None)
    covariance = residual[0] / 5 * np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(law.stderr, covariance[0, 0] ** 0.5, rtol=1e-9)


def test_only_what_comes_after_the_last_h_that_is_too_large_is_fitted():
    """An error that happens to look small at a large h does not hide the smaller ones."""
    error = np.where(H > 0.02, 0.5, H**2)
    small = np.array([True, False, False, True, True, True, True])
    law = read(H, error, 2, small=small)
    np.testing.assert_allclose(law.slope, 2, rtol=1e-9)
    assert law.tail == slice(3, 7)
    assert read(H, error, 2, small=np.zeros(7, bool)).unsettled
    nan_at_first = np.where(np.arange(7) < 2, np.nan, H**2)
    np.testing.assert_allclose(read(H, nan_at_first, 2, small=np.isfinite(nan_at_first)).slope, 2, rtol=1e-9)


def test_an_error_of_ten_floors_is_rounding_and_one_above_is_not():
    error = H[:3] ** 2
    for margin, settled in ((9.9, False), (10.1, True)):
        assert (read(H[:3], error, 2, floor=error[-1] / margin).unsettled == "") == settled


def law_of(slopes, h):
    error = np.exp(np.concatenate([[0.0], np.cumsum(np.asarray(slopes) * np.diff(np.log(h)))]))
    return read(h, error, 2)


def test_local_slopes_agree_up_to_a_tenth_and_may_still_have_a_tenth_to_go():
    """With h divided by four the drift is a third of the last difference, so that agreement decides."""
    h = 1.0 / 4.0 ** np.arange(4)
    assert pytest.approx(0.1) == SETTLED
    assert not law_of([2.099, 2.0, 2.0], h).unsettled
    assert law_of([2.099, 2.0, 2.0], h).tail == slice(0, 4)
    assert law_of([2.101, 2.0, 2.0], h).tail == slice(1, 4)
    assert "still move" in law_of([2.0, 2.0, 2.101], h).unsettled
    # With h divided by 1.5 it is twice the difference, so that the drift decides.
    h = 1.0 / 1.5 ** np.arange(5)
    assert not law_of([2.0, 2.0, 2.0, 2.049], h).unsettled
    assert "still move" in law_of([2.0, 2.0, 2.0, 2.051], h).unsettled


@pytest.mark.parametrize(("ratio", "settled"), [(0.999, False), (1.001, True)])
def test_the_fitted_steps_span_a_factor_of_three(ratio, settled):
    h = np.array([3.0 * ratio, 1.7, 1.0])
    assert pytest.approx(3.0) == SPAN
    assert (read(h, h**2, 2).unsettled == "") == settled
