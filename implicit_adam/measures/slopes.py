"""Fits error = C h^slope to a few errors, leaving out those near rounding or at too large an h."""

from typing import NamedTuple

import numpy as np

# Errors this far above the rounding floor, itself an upper estimate, are bent by a few percent at most.
FLOOR_MARGIN = 10.0
# How far the local slopes of the tail may differ from the last one, and the last one from the limit.
SETTLED = 0.1
# Step sizes closer together than this factor do not determine a power.
SPAN = 3.0


class PowerLaw(NamedTuple):
    """The fitted slope and the C of error = C h^expected; NaN where fewer than three errors can be used.

    `limit` is the limit of the local slopes as h goes to zero, `drift` its distance from the last one, and
    `tail` the errors fitted. `unsettled` says why the slope is not settled; it is empty where it is.
    """

    slope: float
    stderr: float
    constant: float
    limit: float
    drift: float
    tail: slice
    unsettled: str


def local_slopes(h: np.ndarray, error: np.ndarray) -> np.ndarray:
    """d log(error) / d log(h) between neighbours; NaN where an error is zero or not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.diff(np.log(error)) / np.diff(np.log(h))
    return np.where(np.isfinite(slopes), slopes, np.nan)


def usable(error: np.ndarray, floor: np.ndarray, small: np.ndarray) -> slice:
    """The range of errors to fit: every h in it is small, and it ends before rounding shows.

    `h` decreases. The range ends at the first error near the rounding floor, even if a later error is larger
    again, since that may be rounding, too.
    """
    near = error <= FLOOR_MARGIN * floor
    stop = int(np.argmax(near)) if near.any() else len(error)
    too_large = np.flatnonzero(~small[:stop])
    return slice(int(too_large[-1]) + 1 if too_large.size else 0, stop)


def fit_tail(h: np.ndarray, error: np.ndarray, chosen: slice, expected: int) -> PowerLaw:
    """Fit the longest tail of the chosen errors whose local slopes agree within `SETTLED` with the last one.

    `h` decreases; `chosen` is what `usable` returns. At least two local slopes (three errors) must agree for
    the law to count as settled.
    """
    h, error = h[chosen], error[chosen]
    if len(h) < 3:
        few = f"only {len(h)} of the errors can be used, and a settled slope takes three"
        return PowerLaw(*[np.nan] * 5, tail=chosen, unsettled=few)
    slopes = local_slopes(h, error)
    agrees = np.abs(slopes - slopes[-1]) <= SETTLED
    agreeing = len(agrees) if agrees.all() else int(np.argmin(agrees[::-1]))
    tail = slice(-max(agreeing, 2) - 1, None)
    slope, stderr = _regress(np.log(h[tail]), np.log(error[tail]))
    constant = np.exp(np.mean(np.log(error[tail]) - expected * np.log(h[tail])))
    drift = _drift(h, slopes)
    unsettled = ""
    if agreeing < 2 or abs(drift) > SETTLED:
        unsettled = f"the local slopes still move: {', '.join(f'{x:.2f}' for x in slopes[-3:])}"
    elif h[tail][0] < SPAN * h[tail][-1]:
        unsettled = f"the slopes agree over a factor of {h[tail][0] / h[tail][-1]:.2g} in h only"
    fitted = slice(chosen.stop - len(h[tail]), chosen.stop)
    return PowerLaw(slope, stderr, float(constant), float(slopes[-1] + drift), drift, fitted, unsettled)


def _drift(h: np.ndarray, slopes: np.ndarray) -> float:
    """The distance of the last local slope from the limit, if slopes approach it in proportion to h.

    If h is halved each time, it is the last difference of slopes; for closer steps, a multiple of it.
    """
    middle = np.sqrt(h[1:] * h[:-1])
    ratio = middle[-1] / middle[-2]
    return float((slopes[-1] - slopes[-2]) * ratio / (1 - ratio))


def _regress(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope of y on x and its standard error."""
    x = x - x.mean()
    slope = (x @ y) / (x @ x)
    residual = y - y.mean() - slope * x
    return float(slope), float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x)))
