"""When a measured slope counts, and what it says of `error = O(h^(order+1))`.

It counts where h is small by every measure that no corrected field has a say in (`validity`), stands clear of
rounding, and has settled. A settled slope below order + 1 is then what a wrong term leaves: one of f_q leaves
an error of h^q, a whole power, as large as the term itself (f_0 is held against the first update). Anything
else is not held against the theorem.
"""

from typing import NamedTuple

import numpy as np

from implicit_adam.measures.slopes import FLOOR_MARGIN, PowerLaw, fit_tail, local_slopes, usable

# Where the flow is further off than this share of the distance travelled, h is in no sense small.
CEILING = 0.1
# The largest relative change of the update by memory and step: it bends the slopes by about as much.
SMALL = 0.1
# The largest share of the last update that the first half of the run may still decide.
FADED = 0.1
# The least slope of the validity, 1 for h to zero, and the margin to the slopes of the roughness.
FALLS, MARGIN = 0.75, 0.25
# How far a settled slope may lie below order + 1, or from a whole power: orders beyond 1 bend more.
TOLERANCE = {1: 0.1}
DEFAULT_TOLERANCE = 0.15
# A wrong term leaves this many times more than the next term of the series, at the least.
LEFT = 3.0
# The relative difference of two evaluations of one update that is no rounding.
DIFFERENT = 1e-6

HOLDS, CONTRADICTED, NOT_YET = "holds", "contradicted", "not yet asymptotic"


class Setting(NamedTuple):
    """What was seen at K decreasing h besides the errors, all (K,): see `Convergence` and `validity`.

    `noise` is what rounding makes of the validity; `first`, the relative difference of the first update and
    the leading field, is zero but for rounding.
    """

    h: np.ndarray
    floor: np.ndarray
    travelled: np.ndarray
    validity: np.ndarray
    remembered: np.ndarray
    roughness: np.ndarray
    noise: np.ndarray
    first: np.ndarray


class Judgement(NamedTuple):
    """The fitted law, the verdict in a word, and why it is not yet asymptotic or contradicted."""

    law: PowerLaw
    verdict: str
    why: str


def judged(setting: Setting, error: np.ndarray, order: int) -> Judgement:
    """What errors (K,) of the flow of this order say."""
    law = fit_tail(setting.h, error, usable(error, setting.floor, _small(setting, error)), order + 1)
    if (setting.first > DIFFERENT + FLOOR_MARGIN * setting.noise).any():
        why = "the leading field at the start is not the optimizer's first update"
        return Judgement(law, CONTRADICTED, why)
    if np.isnan(law.slope):
        return Judgement(law, NOT_YET, _too_few(setting, error, order))
    if why := _outside(setting, error, law, order) or law.unsettled:
        return Judgement(law, NOT_YET, why)
    tolerance = TOLERANCE.get(order, DEFAULT_TOLERANCE)
    if law.slope >= order + 1 - tolerance:
        return Judgement(law, HOLDS, "")
    power = round(law.slope)
    if power < 1 or abs(law.slope - power) > tolerance:
        why = f"a slope of {law.slope:.2f} is neither {order + 1} nor a power that a wrong term would leave"
        return Judgement(law, NOT_YET, why)
    error, travelled, validity = (x[law.tail][-1] for x in (error, setting.travelled, setting.validity))
    if not error > LEFT * travelled * validity ** (order + 1):
        why = "the error is no larger than what the next term of the series may leave"
        return Judgement(law, NOT_YET, why)
    return Judgement(law, CONTRADICTED, f"the error falls like h^{power}, as if a term were wrong")


def _small(setting: Setting, error: np.ndarray) -> np.ndarray:
    """At which h memory, step and error are small."""
    close = np.isfinite(error) & (error < CEILING * setting.travelled)
    return close & (setting.validity <= SMALL) & (setting.remembered <= FADED)


def _too_few(setting: Setting, error: np.ndarray, order: int) -> str:
    """Why fewer than three errors can be used: what is wrong at the smallest h."""
    validity, remembered = setting.validity[-1], setting.remembered[-1]
    if not remembered <= FADED:
        return (
            f"the memory is as long as the run, whose first half still changes the last update by "
            f"{remembered:.0%}; more steps, or a shorter memory"
        )
    if not np.isfinite([error[-1], validity]).all():
        return "the flow or the optimizer diverges at the smallest h"
    if not validity <= SMALL:
        return _rough(setting, slice(None), order) or (
            f"h times memory is not small: memory and step change the update by {validity:.0%} at the "
            f"smallest h, and above {SMALL:.0%} the series says nothing; smaller h (more steps, or a shorter "
            "horizon), a shorter memory or a larger eps"
        )
    if not error[-1] < CEILING * setting.travelled[-1]:
        return f"the error is {error[-1] / setting.travelled[-1]:.0%} of the distance travelled; smaller h"
    return "fewer than three errors lie between rounding and too large an h; other steps or a longer horizon"


def _outside(setting: Setting, error: np.ndarray, law: PowerLaw, order: int) -> str:
    """Why the errors fitted are not in the theorem's regime; empty if they are."""
    validity, roughness, noise = (x[law.tail] for x in (setting.validity, setting.roughness, setting.noise))
    # A part of the gradient's change that the correction misses, against what the correction leaves.
    matters = roughness[-1] * validity[-1] > (error / setting.travelled)[law.tail][-1] / 10
    if matters and (why := _rough(setting, law.tail, order)):
        return why
    falls = _slope(setting.h[law.tail], validity)
    if falls < FALLS and validity[-1] > FLOOR_MARGIN * noise[-1]:
        return (
            f"what memory and step change of the update falls like h^{falls:.2f} only: the memory grows with "
            "the run, or components of the update change sign"
        )
    return ""


def _rough(setting: Setting, where: slice, order: int) -> str:
    """Whether the loss has fewer derivatives than the flow of this order takes of it."""
    roughness = setting.roughness[where]
    if _slope(setting.h[where], roughness) >= min(order, 2) - MARGIN:
        return ""
    return (
        f"the loss is not smooth: {roughness[-1]:.2g} of the gradient's change along the run is in no "
        "Hessian-vector product (kinks as of ReLU or abs, or a loss computed in a narrower dtype?)"
    )


def _slope(h: np.ndarray, x: np.ndarray) -> float:
    """From the first to the last, infinite where nothing is left."""
    return float("inf") if x[-1] == 0 else float(local_slopes(h[[0, -1]], x[[0, -1]])[0])
