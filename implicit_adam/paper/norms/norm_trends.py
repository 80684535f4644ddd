"""The claims of Figures 4 and 5: the norm and the test accuracy, against rho or beta.

The norm is the perturbed one-norm of the full-batch gradient, slightly smoothed, at the top of its hill
(`hills`) or, where curves have none, at a given loss; the accuracy is the best on the test data. As in the
paper, runs outside the stable oscillation regime are left out: if any seed leaves it at a value of the
hyperparameter, that value is left out for all seeds. A value is also left out if its memory, 1/(1-rho) or
1/(1-beta) steps, is not short compared with the time until then: the average then still remembers its start,
and Theorem 3.1, which expands in the length of the memory, says little. Those values are judged separately,
and every curve is compared with the equation with carried memory (`carried_flow`), which needs no short
memory.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from implicit_adam.measures.training_regime import REGIMES
from implicit_adam.paper.claims import Advance, Claim, decided
from implicit_adam.paper.norms.hills import first_below, smoothed, taken, top
from implicit_adam.paper.norms.trends import Measurement, in_words, judged, powerful, trend, trend_claim
from implicit_adam.paper.training.cifar_runs import CifarConfig
from implicit_adam.paper.training.network_runs import NetworkConfig, NetworkRuns


@dataclass(frozen=True)
class TrendConfig:
    """Settings: `varied` is "beta" or "rho", `sign` that of the norm's trend; accuracy has the opposite."""

    varied: str
    sign: int
    network: NetworkConfig | CifarConfig
    # Curves are averaged over this share of the epochs to find their hill.
    smoothing: float = 0.01
    # The relative rise that makes a hill.
    hill: float = 0.1
    # If above zero, curves are compared where the loss first falls to this, and not at their hill.
    level: float = 0.0
    # The hill must come after this many memory lengths; then less than 1% of the average's weight is missing.
    memories: float = 5.0
    # A trend counts with p < alpha.
    alpha: float = 0.05
    # The change of accuracy that the test must be able to detect; the paper shows its own only in a picture.
    effect: float = 0.01
    # Allowed errors of a prediction: of a curve anywhere, and of the height of its hill.
    curve: float = 0.05
    top: float = 0.01

    @property
    def event(self) -> str:
        """Where curves are compared, in words."""
        return f"a loss of {self.level:.3g}" if self.level > 0 else "the peak of the hill"

    def place(self, norm: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """The index along the curves (.., epochs) where they are compared; NaN if there is none."""
        return first_below(loss, self.level) if self.level > 0 else top(norm, self.hill)


class Trends(NamedTuple):
    """Measurements with axes (values, seeds).

    - `height`, `epoch`: of the hill, or where the loss is at the level; NaN without. `accuracy`: the best;
      `regime`: its index.
    - `predicted`: the predicted height (at a level of the loss: at the epoch at which the run is there);
      `looked`: that of the run, from the same epochs.
    - `curve_error`, `relative_error`: the largest error of the predicted curve, over the height and over the
      curve itself. All four are NaN without a prediction.
    """

    values: np.ndarray
    height: np.ndarray
    epoch: np.ndarray
    accuracy: np.ndarray
    regime: np.ndarray
    predicted: np.ndarray
    looked: np.ndarray
    curve_error: np.ndarray
    relative_error: np.ndarray
    runs: NetworkRuns

    def counting(self, config: TrendConfig) -> np.ndarray:
        """(values,) whether the theorem applies: stable, and a memory that is short enough."""
        memories = self.epoch * (1 - self.values[:, None])
        return stable(self.regime) & (memories >= config.memories).all(axis=1)

    def beyond(self, config: TrendConfig) -> np.ndarray:
        """(values,) the stable values with longer memory, together with the last one that counts."""
        kept = self.counting(config)
        if not kept.any():
            return stable(self.regime)
        last = np.flatnonzero(kept)[-1]
        return stable(self.regime) & (np.arange(len(kept)) >= last)


def run(config: TrendConfig, advance: Advance) -> Trends:
    """Run every value of the hyperparameter with every seed, and measure."""
    return summary(config, config.network.trained(advance))


def summary(config: TrendConfig, runs: NetworkRuns) -> Trends:
    """The measurements of the figure on finished runs."""
    fixed = 0 if config.varied == "rho" else 1
    norm, loss, right, regime, predicted = (
        np.take(x, 0, axis=fixed) for x in (runs.norm, runs.loss, runs.accuracy, runs.regime, runs.predicted)
    )
    smooth, smooth_loss = smoothed(norm, config.smoothing), smoothed(loss, config.smoothing)
    place = config.place(smooth, smooth_loss)
    shift = (norm.shape[-1] - smooth.shape[-1]) / 2
    every = max(1, norm.shape[-1] // max(1, predicted.shape[-1]))
    looked, looked_loss = norm[..., ::every], loss[..., ::every]
    unknown = np.full(norm.shape[:-1], np.nan)
    known = predicted.shape[-1] > 0
    tops = taken(looked, config.place(looked, looked_loss)) if known else unknown
    return Trends(
        values=getattr(runs, config.varied),
        height=taken(smooth, place),
        epoch=place + shift,
        accuracy=right.max(axis=-1),
        regime=regime,
        predicted=taken(predicted, config.place(predicted, looked_loss)) if known else unknown,
        looked=tops,
        curve_error=np.abs(predicted - looked).max(axis=-1) / tops if known else unknown,
        relative_error=np.abs(predicted / looked - 1).max(axis=-1) if known else unknown,
        runs=runs,
    )


def stable(regime: np.ndarray) -> np.ndarray:
    """(values, seeds) -> (values,): whether every seed stays in the stable oscillation regime."""
    return (regime == REGIMES.index("stable oscillation")).all(axis=1)


def claims(config: TrendConfig, found: Trends) -> tuple[Claim, ...]:
    """The claims on the two panels of the figure, on longer memories, and on the prediction."""
    figure = {"rho": "Figure 4", "beta": "Figure 5"}[config.varied]
    values, kept, name = found.values, found.counting(config), config.varied
    words = {1: "increase", -1: "decrease"}
    accuracy = Measurement(name, values, found.accuracy, kept)
    return (
        trend_claim(
            figure,
            f"Increasing {name} seems to {words[config.sign]} the perturbed one-norm at {config.event}.",
            Measurement(name, values, found.height, kept),
            config.sign,
            config.alpha,
            f"{_ends('height', values[kept], found.height[kept])}; {_memories(config, found)}",
        ),
        powerful(
            trend_claim(
                figure,
                f"Increasing {name} seems to {words[-config.sign]} the best test accuracy.",
                accuracy,
                -config.sign,
                config.alpha,
                _ends("accuracy", values[kept], found.accuracy[kept]),
            ),
            accuracy,
            config.effect,
            config.alpha,
        ),
        _ending(config, found),
        predicted_claim(config, found),
    )


def _ending(config: TrendConfig, found: Trends) -> Claim:
    beyond = found.beyond(config)
    result = trend(found.height[beyond].T)
    as_before = judged(result, config.sign, config.alpha)
    finite = np.isfinite(result.p_value)
    means = _series(found.values[beyond], found.height[beyond])
    return Claim(
        "beyond the paper",
        f"Where {config.event} comes before {config.memories:g} memories the trend is no longer the "
        "theorem's: it levels off or turns round.",
        f"over the last {config.varied} that counts and those beyond, the heights have no trend of the "
        f"paper's sign with p < {config.alpha:g} (they have: it did not hold)",
        f"{in_words(result)}; mean heights {means}",
        decided(held=finite and as_before != "held", refuted=finite and as_before == "held"),
    )


def predicted_claim(config: TrendConfig, found: Trends) -> Claim:
    """The claim that the equation with carried memory predicts every curve, and the norm compared."""
    kept = stable(found.regime)
    curve, (predicted, looked) = found.curve_error[kept], (found.predicted[kept], found.looked[kept])
    off = np.abs(predicted / looked - 1)
    same = np.argsort(predicted, axis=0) == np.argsort(looked, axis=0)
    measured = np.concatenate([curve.ravel() / config.curve, off.ravel() / config.top])
    known = measured.size > 0 and np.isfinite(measured).all()
    words = "nothing was predicted"
    if known:
        words = (
            f"curves off by at most {curve.max():.2%} of the norm at {config.event}, and there by "
            f"{off.max():.2%}; its order over all values the same in {same.all(axis=0).sum()} of "
            f"{same.shape[1]} seeds; mean predicted {_series(found.values[kept], predicted)}, seen "
            f"{_series(found.values[kept], looked)}; of itself a curve is off by at most "
            f"{found.relative_error[kept].max():.0%}"
        )
    return Claim(
        "beyond the paper",
        f"The equation with carried memory predicts every curve, and the norm at {config.event}.",
        f"of all stable runs the norm is off anywhere by less than {config.curve:.0%} of that at "
        f"{config.event}, and there{_when(config)} by less than {config.top:.0%} (by more: it did not hold)",
        words,
        decided(held=known and (measured < 1).all(), refuted=known and (measured >= 1).any()),
    )


def _when(config: TrendConfig) -> str:
    return " (when the run has it)" if config.level > 0 else ""


def _memories(config: TrendConfig, found: Trends) -> str:
    counts = (found.epoch * (1 - found.values[:, None])).min(axis=1)
    listed = ", ".join(f"{count:.1f}" for count in counts)
    return f"{config.event} comes after {listed} memories for {config.varied} = {_listed(found.values)}"


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _series(values: np.ndarray, measured: np.ndarray) -> str:
    means = ", ".join(f"{mean:.2f}" for mean in measured.mean(axis=1))
    return f"{means} at {_listed(values)}"


def _ends(name: str, values: np.ndarray, measured: np.ndarray) -> str:
    """In words: the mean (and for several seeds the spread) at the first and the last value."""
    if len(values) == 0:
        return f"{name} of no value"
    seeds = measured.shape[1]
    spread = [f" +- {x:.2g}" for x in measured.std(axis=1, ddof=1)] if seeds > 1 else [""] * len(values)
    ends = (0, len(values) - 1)
    parts = " and ".join(f"{measured[i].mean():.4g}{spread[i]} at {values[i]:g}" for i in ends)
    return (
        f"{name} {parts} ({'one seed' if seeds == 1 else f'mean and standard deviation over {seeds} seeds'})"
    )
