"""The hill of a norm curve: it decreases, then rises again, and then decreases further (section 5)."""

import numpy as np


def smoothed(curves: np.ndarray, share: float) -> np.ndarray:
    """Running means along the last axis over this share of it."""
    width = max(1, int(share * curves.shape[-1]))
    total = np.cumsum(np.concatenate([np.zeros((*curves.shape[:-1], 1)), curves], axis=-1), axis=-1)
    return (total[..., width:] - total[..., :-width]) / width


def top(curves: np.ndarray) -> np.ndarray:
    """Where along the last axis a curve stands highest, as a ratio, above its lowest value so far."""
    return np.asarray(np.argmax(curves / np.minimum.accumulate(curves, axis=-1), axis=-1))


def height(curves: np.ndarray) -> np.ndarray:
    """The value at the top."""
    return np.take_along_axis(curves, top(curves)[..., None], axis=-1)[..., 0]


def has_hill(curve: np.ndarray, by: float) -> bool:
    """Whether a curve falls, then rises, then falls again, each time by at least this share."""
    i = int(top(curve))
    before, after = curve[: i + 1].min(), curve[i:].min()
    return bool(curve[0] > (1 + by) * before and curve[i] > (1 + by) * max(before, after))
