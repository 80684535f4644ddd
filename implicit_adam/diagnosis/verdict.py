"""The verdict of a diagnosis: which equation predicts the run, and the findings in words."""

from typing import Any

import numpy as np

from implicit_adam.diagnosis.forecasts import CARRIED, CORRECTED, PLAIN, TWO_BRANCH

# An equation predicts a run if its error is below this share of the distance, plus the sampling error.
PREDICTS = 0.02
# Updates alternate if their successive changes are at least this large and this opposed.
SWING, OPPOSED = 0.1, -0.5
# The mean run tells little of a single run that is further from it than this many distances travelled.
APART = 1.0
# Steps are too long if the memory makes them this many times as long as the present gradient calls for.
TOO_LONG = 3.0
# In per cent: larger errors are not told apart.
MOST = 1000

EQUATIONS = {
    PLAIN: "the plain flow (sign-type, without memory: ia.flow(.., order=0))",
    CORRECTED: "the paper's corrected flow (ia.flow)",
    CARRIED: "the equation with carried memory (ia.carried_flow)",
    TWO_BRANCH: "the closure with two branches (ia.carried_flow(closure='two-branch'))",
}
PAST_EDGE, NOISE, NONE = "past the edge", "noise-dominated", "none"


def which(found: Any) -> str:
    """The name of the simplest equation that predicts the next steps, or the reason why none does."""
    if alternates(found):
        return PAST_EDGE
    allowed = PREDICTS + 2 * float(found.sampling_error)
    for name in EQUATIONS:
        if float(found.error[name]) <= allowed:
            return NOISE if float(found.spread) > APART else name
    return NONE


def alternates(found: Any) -> bool:
    """Whether consecutive full-batch updates alternate."""
    return bool(float(found.alternation) < OPPOSED and float(found.swing) > SWING)


def sentences(found: Any) -> list[str]:
    """The findings of a diagnosis in sentences."""
    said = [_equation(found), _bias(found)]
    if _known(found.edge):
        said.append(_edge(found))
    if float(found.speed) > TOO_LONG:
        said.append(
            f"The memory of squared gradients lags behind the gradient: steps are {float(found.speed):.1f} "
            "times as long as the present gradient calls for, so a spike of the loss may follow."
        )
    if _known(found.noise):
        said.append(noise_in_words(found))
    return said


def _equation(found: Any) -> str:
    k = int(found.horizon)
    errors = ", ".join(f"{name} {_percent(x)}" for name, x in found.error.items() if _known(x))
    measured = f"errors after {k} steps, of the distance: {errors}"
    if found.equation not in (PLAIN, CORRECTED) and int(found.leaps) >= k:
        measured += (
            "; with carried memory in steps no longer than the optimizer's own, so that its error says little"
        )
    if found.equation in EQUATIONS:
        return f"The next {k} steps follow {EQUATIONS[found.equation]}: {measured}."
    if found.equation == NOISE:
        return (
            f"Only the mean over random orders of the mini-batches follows an equation ({measured}): single "
            f"runs are {float(found.spread):.1f} times the distance apart."
        )
    if found.equation == PAST_EDGE:
        said = f"{alternating(found)}: {measured}."
        follows = float(found.error[TWO_BRANCH]) <= PREDICTS
        return said + f" Their centre follows {EQUATIONS[TWO_BRANCH]}." * follows
    return f"No equation here predicts the next {k} steps: {measured}."


def _bias(found: Any) -> str:
    rate = found.norms["one_norm"]
    if not _known(rate.bias) or float(rate.bias) == 0:
        return "What memory and step do to the one-norm of the gradient is zero or not known here."
    rest = max(abs(float(rate.velocity - rate.bias)), np.finfo(float).tiny)
    does = "penalise" if float(rate.bias) < 0 else "hinder the decrease of"
    return (
        f"Memory and step {does} the one-norm of the gradient: they change it at "
        f"{_percent(abs(float(rate.bias)) / rest)} of the rate of the rest of the velocity."
    )


def _edge(found: Any) -> str:
    edge = float(found.edge)
    where = "below the edge" if edge < 1 else "above the edge"
    along = f"{_share(found, found.update_sharpness)} along the update"
    if _known(found.batch_sharpness):
        along += f", {_share(found, found.batch_sharpness)} in a mini-batch along its own gradient"
    return (
        f"The curvature that the optimizer feels is {_ratio(edge)} of its stability threshold, {where} "
        f"({along})."
    )


def _share(found: Any, curvature: Any) -> str:
    return _ratio(float(curvature) / float(found.threshold))


def _ratio(x: float) -> str:
    """Two decimals, or two significant digits where that would leave only one or none."""
    return f"{x:.2f}" if abs(x) >= 0.1 else f"{x:.2g}"


def alternating(found: Any) -> str:
    """That updates alternate."""
    return (
        "Past the edge of stability: consecutive updates alternate "
        f"(cosine {float(found.alternation):.2f}), which no smooth equation follows"
    )


def noise_in_words(found: Any) -> str:
    """How large the noise is."""
    return f"The variance of a mini-batch gradient is {float(found.noise):.3g} times the square of the mean."


def _known(x: Any) -> bool:
    return bool(np.isfinite(float(x)))


def _percent(x: Any) -> str:
    x = 100 * float(x)
    if x > MOST:
        return f"over {MOST} %"
    return f"{x:.2g} %" if x < 100 else f"{x:.0f} %"
