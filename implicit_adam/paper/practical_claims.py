"""The claims of `practical_settings` about the equation with carried memory, and their criteria."""

from typing import Any

import numpy as np

from implicit_adam.paper.claims import Claim, decided
from implicit_adam.paper.practical_cases import Case, PracticalConfig
from implicit_adam.studies.norm_rates import MEASURED, PREDICTED
from implicit_adam.studies.prediction import CARRIED, CORRECTED, NEARBY, PLAIN, Prediction

# The allowed error of a prediction, relative to the distance travelled or to the loss.
CLOSE = 0.01


def claims(config: PracticalConfig, found: tuple[Prediction, ...]) -> tuple[Claim, ...]:
    """Claims on points, loss, other flows, cost and eq. (4)'s sign in full batch, and on the mean run."""
    pairs = list(zip(config.cases, found, strict=True))
    full = [(case, one) for case, one in pairs if case.batch == case.samples]
    flows = [(case, one) for case, one in full if case.flows]
    cut = [(case, one) for case, one in pairs if case.batches > 1]
    drawn = [(case, one) for case, one in pairs if case.size]
    return (
        _points(full),
        _losses(full),
        _expanded(flows),
        _cost(full),
        _sign([(case, one) for case, one in full if one.norm_rate]),
        _mean_run("In mini-batches it predicts the mean run over random orders.", cut),
        _mean_run("The gradients of single samples predict the mean run at every batch size.", drawn),
        _mean_loss(cut + drawn),
    )


def _points(full: list[tuple[Case, Prediction]]) -> Claim:
    errors = [(one.error[CARRIED], one.error[NEARBY]) for _, one in full]
    missed = [_until_it_parts(*of_run) for of_run in errors]
    return Claim(
        "beyond the paper",
        "At usual settings the equation with carried memory predicts whole runs in full batch.",
        f"it is off by less than {CLOSE:.0%} of the distance travelled, until the optimizer itself, started "
        "again 1e-6 away, is off by that (by more: it did not hold)",
        _listed(full, [f"{x:.2%}{_after(*of_run)}" for x, of_run in zip(missed, errors, strict=True)]),
        _below(missed, CLOSE),
    )


def _losses(full: list[tuple[Case, Prediction]]) -> Claim:
    errors = [(_relative_loss(one, CARRIED), _relative_loss(one, NEARBY)) for _, one in full]
    missed = [_until_it_parts(*of_run) for of_run in errors]
    return Claim(
        "beyond the paper",
        "It predicts the loss all the way down.",
        f"the loss is off by less than {CLOSE:.0%} of itself, until that of the optimizer itself, started "
        "again 1e-6 away, is off by that (by more: it did not hold)",
        _listed(
            full,
            [
                f"{words}{_after(*of_run)}"
                for words, of_run in zip(_down_to(missed, full), errors, strict=True)
            ],
        ),
        _below(missed, CLOSE),
    )


def _expanded(flows: list[tuple[Case, Prediction]]) -> Claim:
    missed = np.array([[np.max(one.error[name]) for name in (PLAIN, CORRECTED)] for _, one in flows])
    missed = np.where(np.isnan(missed), np.inf, missed)
    words = [f"{_percent(plain)} and {_percent(corrected)}" for plain, corrected in missed]
    return Claim(
        "beyond the paper",
        "The flows that expand the memory, plain and corrected, do not.",
        f"both are off by more than ten times {CLOSE:.0%} (one by less than {CLOSE:.0%}: it did not hold)",
        _listed(flows, words),
        decided(held=missed.size > 0 and (missed > 10 * CLOSE).all(), refuted=(missed < CLOSE).any()),
    )


def _cost(full: list[tuple[Case, Prediction]]) -> Claim:
    took = [one.gradients for _, one in full]
    return Claim(
        "beyond the paper",
        "It takes fewer gradients than the optimizer.",
        "fewer on every network (more on one: it did not hold)",
        _listed(full, [f"{equation:.0f} for {optimizer:.0f}" for optimizer, equation in took]),
        _below([equation for _, equation in took], [optimizer for optimizer, _ in took]),
    )


def _sign(rates: list[tuple[Case, Prediction]]) -> Claim:
    signs = [np.sign([one.norm_rate[name] for name in (MEASURED, PREDICTED)]) for _, one in rates]
    agree = [np.mean(measured == predicted) for measured, predicted in signs]
    words = [
        f"{share:.0%}, the norm's decrease hindered in {np.mean(measured > 0):.0%}"
        for share, (measured, _) in zip(agree, signs, strict=True)
    ]
    return Claim(
        "eq. (4), outside its range",
        "The sign of eq. (4) is that of what memory and step really do to the one-norm of the gradient.",
        "the signs agree at more than nine in ten of the saved points of every run (at less than half of one "
        "run's: it did not hold)",
        _listed(rates, words),
        decided(held=len(agree) > 0 and min(agree) > 0.9, refuted=any(share < 0.5 for share in agree)),
    )


def _mean_run(words: str, mini: list[tuple[Case, Prediction]]) -> Claim:
    missed = [(np.max(one.error[CARRIED]), np.max(one.sampling_error)) for _, one in mini]
    return Claim(
        "beyond the paper",
        words,
        "it is off by less than twice the standard error of the mean of the runs (by more: it did not hold)",
        _listed(mini, [f"{error:.2%} with a standard error of {sampling:.2%}" for error, sampling in missed]),
        _below([error for error, _ in missed], [2 * sampling for _, sampling in missed]),
    )


def _mean_loss(mini: list[tuple[Case, Prediction]]) -> Claim:
    missed = [np.max(_relative_loss(one, CARRIED)) for _, one in mini]
    allowed = [2 * CLOSE if case.batch < 16 else CLOSE for case, _ in mini]
    return Claim(
        "beyond the paper",
        "And the mean loss.",
        f"off by less than {CLOSE:.0%} of itself, {2 * CLOSE:.0%} in batches of less than 16 (by more: it "
        "did not hold)",
        _listed(mini, _down_to(missed, mini)),
        _below(missed, allowed),
    )


def _below(values: Any, most: Any) -> str:
    """Held if every value is below its bound; undecided for no values, or NaN and none above its bound."""
    values, most = np.asarray(values), np.asarray(most)
    held = values.size > 0 and (values < most).all()
    return decided(held=held, refuted=(values >= most).any())


def _relative_loss(one: Prediction, name: str) -> np.ndarray:
    return np.abs(one.predicted_loss[name] / one.loss - 1)


def _until_it_parts(error: np.ndarray, nearby: np.ndarray) -> float:
    """The largest error while that of the nearby start is still small; NaN if there is a NaN."""
    return float(np.max(np.where(_parted(nearby), 0, error)))


def _after(error: np.ndarray, nearby: np.ndarray) -> str:
    """In words, the largest error of the whole run, if the run from the nearby start departs."""
    return f" until a nearby start parts, then {np.max(error):.2%}" if _parted(nearby).any() else ""


def _parted(nearby: np.ndarray) -> np.ndarray:
    """(saves,) whether the nearby start has departed so far; it may come close again by chance."""
    return np.logical_or.accumulate(nearby >= CLOSE)


def _down_to(missed: list[float], pairs: list[tuple[Case, Prediction]]) -> list[str]:
    return [f"{x:.2%} down to {one.loss[-1]:.2g}" for x, (_, one) in zip(missed, pairs, strict=True)]


def _percent(x: float) -> str:
    return f"{x:.0%}" if x < 100 else "more than a hundredfold"


def _listed(pairs: list[tuple[Case, Prediction]], words: list[str]) -> str:
    return "; ".join(f"{case}: {word}" for (case, _), word in zip(pairs, words, strict=True))
