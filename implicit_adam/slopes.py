"""Reading a power of h off a few errors: error = C h^slope for small h, rounding below, bends above."""

from typing import NamedTuple

import numpy as np

# Errors this far above the rounding floor, itself an upper estimate, are bent by a few percent at most.
FLOOR_MARGIN = 10.0
# As the local slopes approach their limit geometrically, what is left to go is about the last difference.
SETTLED = 0.1


class PowerLaw(NamedTuple):
    """error = constant h^expected near the fitted slope; NaN where fewer than three errors can be used."""

    slope: float
    stderr: float
    constant: float
    settled: bool


def local_slopes(h: np.ndarray, error: np.ndarray) -> np.ndarray:
    """d log(error) / d log(h) between neighbours; NaN where an error is zero or not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.diff(np.log(error)) / np.diff(np.log(h))
    return np.where(np.isfinite(slopes), slopes, np.nan)


def fit_tail(h: np.ndarray, error: np.ndarray, floor: np.ndarray, expected: int) -> PowerLaw:
    """Fit the longest tail whose local slopes agree within `SETTLED` with the last one above the floor.

    `h` decreases. At least two local slopes (three errors) must agree for the law to count as settled.
    """
    usable = np.isfinite(error) & (error > FLOOR_MARGIN * floor)
    # The first unusable error ends the range: below it, larger ones may be rounding again.
    end = len(h) if usable.all() else int(np.argmin(usable))
    if end < 3:
        return PowerLaw(np.nan, np.nan, np.nan, settled=False)
    h, error = h[:end], error[:end]
    agrees = np.abs(local_slopes(h, error) - local_slopes(h, error)[-1]) <= SETTLED
    agreeing = len(agrees) if agrees.all() else int(np.argmin(agrees[::-1]))
    tail = slice(-max(agreeing, 2) - 1, None)
    slope, stderr = _regress(np.log(h[tail]), np.log(error[tail]))
    constant = np.exp(np.mean(np.log(error[tail]) - expected * np.log(h[tail])))
    return PowerLaw(slope, stderr, float(constant), settled=agreeing >= 2)


def _regress(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope of y on x and its standard error."""
    x = x - x.mean()
    slope = (x @ y) / (x @ x)
    residual = y - y.mean() - slope * x
    return float(slope), float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x)))
