"""Does a measurement rise or fall with a hyperparameter? Rank correlation within a seed, p-value, power."""

from typing import NamedTuple

import numpy as np

from implicit_adam.paper.claims import UNDECIDED, Claim, decided


class Measurement(NamedTuple):
    """Measurements (values, seeds, ..) at the values of a hyperparameter, and which values count."""

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
    """The `Trend` of measurements (seeds, values), with values in increasing order of the hyperparameter.

    Ranks are compared only within a seed, so that differences between seeds do not count. Without ties,
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
    # If all values are equal, the correlation is 0.
    correlations = (centred @ target) / np.where(spread > 0, spread, 1.0)
    return float(correlations.mean())


def noise(measured: np.ndarray) -> float:
    """The standard deviation of measurements (values, seeds), without the effects of seeds and of values."""
    values, seeds = measured.shape
    rest = measured - measured.mean(axis=0) - measured.mean(axis=1, keepdims=True) + measured.mean()
    degrees = (values - 1) * (seeds - 1)
    return float((rest**2).sum() / degrees) ** 0.5 if degrees else np.nan


def power(measured: np.ndarray, effect: float, alpha: float, draws: int = 4000) -> float:
    """The power of Page's test against a steady rise by `effect` from the first to the last value.

    It is simulated with as many values and seeds as were measured, and normal noise of the measured size
    (`noise`), at p < alpha, two-sided. NaN where `trend` is NaN.
    """
    count, seeds = measured.shape
    if count < 3 or seeds < 2 or not np.isfinite(measured).all():
        return np.nan
    drawn = np.random.default_rng(0).normal(size=(2, draws, seeds, count))
    order = np.arange(1, count + 1)

    def statistics(values: np.ndarray) -> np.ndarray:
        return (values.argsort(axis=-1).argsort(axis=-1) @ order).sum(axis=-1)

    critical = np.quantile(statistics(drawn[0]), 1 - alpha / 2)
    rising = noise(measured) * drawn[1] + effect * np.linspace(0, 1, count)
    return float((statistics(rising) > critical).mean())


def judged(found: Trend, sign: int, alpha: float) -> str:
    """The verdict: held if the trend has the claimed sign with p < alpha, refuted if the opposite sign."""
    significant = found.p_value < alpha
    return decided(
        held=significant and sign * found.correlation > 0,
        refuted=significant and sign * found.correlation < 0,
    )


def in_words(found: Trend) -> str:
    """The trend in words, for a report."""
    if not np.isfinite(found.p_value):
        return "no trend (it needs three values, two seeds, and every number finite)"
    return f"rank correlation {found.correlation:+.2f}, p = {found.p_value:.2g}"


def trend_claim(source: str, statement: str, found: Measurement, sign: int, alpha: float, more: str) -> Claim:
    """The claim that the measurement has a trend of this sign over the values that count.

    `more` is added to the text of what was measured.
    """
    result = trend(found.measured[found.kept].T)
    left_out = ", ".join(f"{value:g}" for value in found.values[~found.kept]) or "none"
    return Claim(
        source,
        statement,
        f"Spearman's rank correlation with {found.name} within a seed, over the values that count, has this "
        f"sign with p < {alpha:g} (Page's trend test, two-sided); the opposite sign with p < {alpha:g}: it "
        "did not hold",
        f"{in_words(result)}; {more}; left out: {left_out}",
        judged(result, sign, alpha),
    )


def powerful(claim: Claim, found: Measurement, effect: float, alpha: float, least: float = 0.8) -> Claim:
    """The claim, but undecided unless the power against a trend of size `effect` is at least `least`."""
    reached = power(found.measured[found.kept], effect, alpha)
    enough = reached >= least
    return claim._replace(
        criterion=f"{claim.criterion}; undecided where the power against a steady change by {effect:.1%} "
        f"over these values, simulated with the noise that was measured, is below {least:.0%}",
        measured=f"{claim.measured}; power {reached:.0%}",
        verdict=claim.verdict if enough else UNDECIDED,
    )
