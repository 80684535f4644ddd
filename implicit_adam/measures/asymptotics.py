"""The verdict on `error = O(h^(order+1))` from measured slopes: when a slope counts, and what it then says.

A slope counts where h is small by measures that do not involve a corrected field (`validity`), where errors
are clear of rounding, and where the slope has settled. A settled slope below order + 1 then points to a wrong
term: a mistake in f_q leaves an error of h^q, a whole power, as large as the term itself (f_0 is compared
with the first update). Nothing else counts against the theorem.
"""

from typing import NamedTuple

import numpy as np

from implicit_adam.measures.slopes import FLOOR_MARGIN, PowerLaw, fit_tail, local_slopes, usable

# Errors above this fraction of the distance travelled are left out: h is not small there.
CEILING = 0.1
# The largest relative change of the update by memory and step; slopes bend by about as much.
SMALL = 0.1
# The largest share of the last update that the first half of the run may still decide.
FADED = 0.1
# The least slope of the validity (1 as h goes to zero), and the tolerance for slopes of the roughness.
FALLS, MARGIN = 0.75, 0.25
# How far a settled slope may lie below order + 1, or from a whole power; slopes of higher orders bend more.
TOLERANCE = {1: 0.1}
DEFAULT_TOLERANCE = 0.15
# A wrong term leaves an error at least this many times larger than the next term of the series.
LEFT = 3.0
# Two evaluations of one update that differ by more than this, relatively, differ by more than rounding.
DIFFERENT = 1e-6

HOLDS, CONTRADICTED, NOT_YET = "holds", "contradicted", "not yet asymptotic"


class Setting(NamedTuple):
    """Measurements at K decreasing h besides the errors, all (K,): see `Convergence` and `watched`.

    `noise` is the part of the validity due to rounding. `first` is the relative difference between the first
    update and the leading field, zero up to rounding.
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
    """The fitted power law, the verdict, and the reason if it is "not yet asymptotic" or "contradicted"."""

    law: PowerLaw
    verdict: str
    why: str


def judged(setting: Setting, error: np.ndarray, order: int) -> Judgement:
    """The verdict on the errors (K,) of the flow of this order."""
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
    """(K,) where the effect of memory and step, and the error, are small."""
    close = np.isfinite(error) & (error < CEILING * setting.travelled)
    return close & (setting.validity <= SMALL) & (setting.remembered <= FADED)


def _too_few(setting: Setting, error: np.ndarray, order: int) -> str:
    """The reason why fewer than three errors can be used, found at the smallest h."""
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
    """The reason why the fitted errors are not in the theorem's regime; empty if they are."""
    validity, roughness, noise = (x[law.tail] for x in (setting.validity, setting.roughness, setting.noise))
    # Compares the part of the gradient's change that the correction misses with the error that it leaves.
    matters = roughness[-1] * validity[-1] > (error / setting.travelled)[law.tail][-1] / 10
    if matters and (why := _rough(setting, law.tail, order)):
        return why
    falls = _slope(setting.h[law.tail], validity)
    if falls < FALLS and validity[-1] > FLOOR_MARGIN * noise[-1]:
        return (
            f"the change of the update by memory and step falls only like h^{falls:.2f}: the memory grows "
            "with the run, or components of the update change sign"
        )
    return ""


def _rough(setting: Setting, where: slice, order: int) -> str:
    """The reason if the loss has fewer derivatives than a flow of this order needs; empty otherwise."""
    roughness = setting.roughness[where]
    if _slope(setting.h[where], roughness) >= min(order, 2) - MARGIN:
        return ""
    return (
        f"the loss is not smooth: Hessian-vector products do not explain {roughness[-1]:.2g} of the "
        "gradient's change along the run (kinks as of ReLU or abs, or a loss computed in a narrower dtype?)"
    )


def _slope(h: np.ndarray, x: np.ndarray) -> float:
    """The slope from the first to the last h; infinite if the last x is 0."""
    return float("inf") if x[-1] == 0 else float(local_slopes(h[[0, -1]], x[[0, -1]])[0])
