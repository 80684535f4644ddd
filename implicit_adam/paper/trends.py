"""Does a measurement rise or fall with a hyperparameter? Rank correlation within a seed, and its p-value."""

from typing import NamedTuple

import numpy as np

from implicit_adam.paper.claims import Claim, decided


class Measurement(NamedTuple):
    """Something measured (values, seeds, ..) at the values of a hyperparameter, and which of them count."""

    name: str
    values: np.ndarray
    measured: np.ndarray
    kept: np.ndarray


class Trend(NamedTuple):
    """The mean over the seeds of Spearman's correlation, and the two-sided p-value of Page's trend test.

    NaN where fewer than three values or two seeds are left.
    """

    correlation: float
    p_value: float


def trend(values: np.ndarray) -> Trend:
    """Of measurements (seeds, values), the values in increasing order of the hyperparameter.

    Ranks are compared within a seed only, so that what the seeds differ by does not count. Without ties
    Page's statistic is a monotone function of the mean correlation.
    """
    seeds, count = values.shape
    if count < 3 or seeds < 2 or not np.isfinite(values).all():
        return Trend(np.nan, np.nan)
    from scipy.stats import page_trend_test, rankdata

    ranks = rankdata(values, axis=1)
    order = np.arange(1, count + 1)
    rising, falling = (page_trend_test(ranks, ranked=True, predicted_ranks=p) for p in (order, order[::-1]))
    one_sided = min(float(rising.pvalue), float(falling.pvalue))
    return Trend(_mean_correlation(ranks, order), min(1.0, 2 * one_sided))


def _mean_correlation(ranks: np.ndarray, order: np.ndarray) -> float:
    centred, target = ranks - ranks.mean(axis=1, keepdims=True), order - order.mean()
    spread = np.sqrt((centred**2).sum(axis=1) * (target**2).sum())
    # All values alike have no order.
    correlations = (centred @ target) / np.where(spread > 0, spread, 1.0)
    return float(correlations.mean())


def judged(found: Trend, sign: int, alpha: float) -> str:
    """Held if the trend has the claimed sign and p < alpha; refuted if the opposite one with p < alpha."""
    significant = found.p_value < alpha
    return decided(
        held=significant and sign * found.correlation > 0,
        refuted=significant and sign * found.correlation < 0,
    )


def in_words(found: Trend) -> str:
    """For a report."""
    if not np.isfinite(found.p_value):
        return "no trend (it needs three values, two seeds, and every number finite)"
    return f"rank correlation {found.correlation:+.2f}, p = {found.p_value:.2g}"


def trend_claim(source: str, statement: str, found: Measurement, sign: int, alpha: float, more: str) -> Claim:
    """That what was measured has a trend of this sign; `more` is told of it besides."""
    result = trend(found.measured[found.kept].T)
    left_out = ", ".join(f"{value:g}" for value in found.values[~found.kept]) or "none"
    return Claim(
        source,
        statement,
        f"Spearman's rank correlation with {found.name} within a seed, over the stable values, has this sign "
        f"with p < {alpha:g} (Page's trend test, two-sided); the opposite sign with p < {alpha:g}: it did "
        "not hold",
        f"{in_words(result)}; {more}; unstable and left out: {left_out}",
        judged(result, sign, alpha),
    )
