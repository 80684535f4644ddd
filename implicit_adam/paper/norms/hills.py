"""The hill of a norm curve, which decreases, then rises again, and then decreases further (section 5)."""

import numpy as np


def smoothed(curves: np.ndarray, share: float) -> np.ndarray:
    """Running means along the last axis, over windows of this share of its length."""
    width = max(1, int(share * curves.shape[-1]))
    total = np.cumsum(np.concatenate([np.zeros((*curves.shape[:-1], 1)), curves], axis=-1), axis=-1)
    return (total[..., width:] - total[..., :-width]) / width


def height(curves: np.ndarray, by: float) -> np.ndarray:
    """The height of the hill: the highest value that is a share `by` above the lowest value before it.

    NaN without such a rise.
    """
    risen = curves > (1 + by) * np.minimum.accumulate(curves, axis=-1)
    highest = np.max(curves, axis=-1, where=risen, initial=-np.inf)
    return np.where(risen.any(axis=-1), highest, np.nan)


def top(curves: np.ndarray, by: float) -> np.ndarray:
    """The index of the hill's highest value along the curve; NaN without a rise."""
    highest = height(curves, by)
    return np.where(np.isnan(highest), np.nan, np.argmax(curves == highest[..., None], axis=-1))


def first_below(curves: np.ndarray, level: float) -> np.ndarray:
    """Where each curve, linear between its entries, first is at most `level`, as an index; NaN if nowhere."""
    low = curves <= level
    after = np.argmax(low, axis=-1)
    before = np.maximum(after - 1, 0)
    above, below = _at(curves, before), _at(curves, after)
    share = np.divide(above - level, above - below, where=above > below, out=np.zeros_like(above))
    return np.where(low.any(axis=-1), before + share, np.nan)


def taken(curves: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The value of each curve, linear between its entries, at its own index; NaN where the index is."""
    known = np.nan_to_num(index)
    before = np.floor(known).astype(int)
    here, after = _at(curves, before), _at(curves, np.minimum(before + 1, curves.shape[-1] - 1))
    share = known - before
    # An entry that is not finite must not spoil the one before it.
    value = (1 - share) * here + share * np.where(share > 0, after, 0)
    return np.where(np.isnan(index), np.nan, value)


def _at(curves: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(curves, index[..., None], axis=-1)[..., 0]


def has_hill(curve: np.ndarray, by: float) -> bool:
    """Whether a curve falls, then rises, then falls again, each time by at least this share."""
    highest = height(curve, by)
    if np.isnan(highest):
        return False
    i = int(top(curve, by))
    before, after = curve[: i + 1].min(), curve[i:].min()
    return bool(curve[0] > (1 + by) * before and highest > (1 + by) * after)
