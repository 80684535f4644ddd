"""Reading a power of h off a few errors: error = C h^slope for small h, rounding below, bends above."""

from typing import NamedTuple

import numpy as np

# Errors this far above the rounding floor, itself an upper estimate, are bent by a few percent at most.
FLOOR_MARGIN = 10.0
# Where the flow is further off than this share of the way travelled, h is in no sense small.
CEILING = 0.1
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


def fit_tail(
    h: np.ndarray, error: np.ndarray, floor: np.ndarray, travelled: np.ndarray, expected: int
) -> PowerLaw:
    """Fit the longest tail whose local slopes agree within `SETTLED` with the last one above the floor.

    `h` decreases; `floor` is what rounding adds and `travelled` how far the run went, for each h. At least
    two local slopes (three errors) must agree for the law to count as settled.
    """
    chosen = _usable(error, floor, travelled)
    h, error = h[chosen], error[chosen]
    if len(h) < 3:
        return PowerLaw(np.nan, np.nan, np.nan, settled=False)
    agrees = np.abs(local_slopes(h, error) - local_slopes(h, error)[-1]) <= SETTLED
    agreeing = len(agrees) if agrees.all() else int(np.argmin(agrees[::-1]))
    tail = slice(-max(agreeing, 2) - 1, None)
    slope, stderr = _regress(np.log(h[tail]), np.log(error[tail]))
    constant = np.exp(np.mean(np.log(error[tail]) - expected * np.log(h[tail])))
    return PowerLaw(slope, stderr, float(constant), settled=agreeing >= 2)


def _usable(error: np.ndarray, floor: np.ndarray, travelled: np.ndarray) -> slice:
    """From the first error small against the way travelled to the last before rounding shows.

    The range ends at the first error near the floor: below it, larger ones may be rounding again.
    """
    small = np.isfinite(error) & (error < CEILING * travelled)
    start = int(np.argmax(small)) if small.any() else len(error)
    usable = (small & (error > FLOOR_MARGIN * floor))[start:]
    return slice(start, start + (len(usable) if usable.all() else int(np.argmin(usable))))


def _regress(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope of y on x and its standard error."""
    x = x - x.mean()
    slope = (x @ y) / (x @ x)
    residual = y - y.mean() - slope * x
    return float(slope), float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x)))
