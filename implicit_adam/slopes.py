"""Reading a power of h off a few errors: error = C h^slope for small h, rounding below, bends above."""

from typing import NamedTuple

import numpy as np

# Errors this far above the rounding floor, itself an upper estimate, are bent by a few percent at most.
FLOOR_MARGIN = 10.0
# Where the flow is further off than this share of the way travelled, h is in no sense small.
CEILING = 0.1
# How far the local slopes of the tail may differ, and how much they may still have to go.
SETTLED = 0.1
# Step sizes closer together than this tell nothing of a power.
SPAN = 3.0


class PowerLaw(NamedTuple):
    """error = constant h^expected near the fitted slope; NaN where fewer than three errors can be used.

    `limit` is where the local slopes head as h goes to zero, `drift` how far that is from the last one.
    """

    slope: float
    stderr: float
    constant: float
    limit: float
    drift: float
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
        return PowerLaw(*[np.nan] * 5, settled=False)
    agrees = np.abs(local_slopes(h, error) - local_slopes(h, error)[-1]) <= SETTLED
    agreeing = len(agrees) if agrees.all() else int(np.argmin(agrees[::-1]))
    tail = slice(-max(agreeing, 2) - 1, None)
    slope, stderr = _regress(np.log(h[tail]), np.log(error[tail]))
    constant = np.exp(np.mean(np.log(error[tail]) - expected * np.log(h[tail])))
    last, drift = local_slopes(h, error)[-1], _drift(h, local_slopes(h, error))
    settled = agreeing >= 2 and abs(drift) <= SETTLED and h[tail][0] >= SPAN * h[tail][-1]
    return PowerLaw(slope, stderr, float(constant), float(last + drift), float(drift), bool(settled))


def _drift(h: np.ndarray, slopes: np.ndarray) -> float:
    """What the last local slope still has to go, if they approach their limit in proportion to h.

    For halved h it is the last difference, for steps closer together a multiple of it.
    """
    middle = np.sqrt(h[1:] * h[:-1])
    ratio = middle[-1] / middle[-2]
    return (slopes[-1] - slopes[-2]) * ratio / (1 - ratio)


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
