"""Which regime of Ma et al. (2022) a run is in: stable oscillation, spikes or divergence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from implicit_adam.checks.batches import check_batches
from implicit_adam.checks.losses import check_loss
from implicit_adam.objective import mean_loss
from implicit_adam.reprs import fields_of, named
from implicit_adam.runs.trajectory import Trajectory
from implicit_adam.types import Batches, Loss, Scalar

# The regimes of Ma et al. (2022), by the index in `TrainingRegime.regime`.
REGIMES = ("stable oscillation", "spikes", "divergence")
# A rise of the loss is a spike if it exceeds this fraction of the whole gain.
SPIKE = 0.1


class TrainingRegime(NamedTuple):
    """Which regime of Ma et al. (2022) a run is in.

    - `regime`: index into `REGIMES`.
    - `largest_rise`: the largest rise of the loss above its lowest value so far, divided by the whole gain
      (start minus lowest).
    - `loss`: (saves,) the loss along the run.
    """

    regime: Int[Array, ""]
    largest_rise: Scalar
    loss: Float[Array, " saves"]

    def __repr__(self) -> str:
        return fields_of(self, regime=named(self.regime, REGIMES))


def training_regime(trajectory: Trajectory, loss: Loss, *, batches: Batches = None) -> TrainingRegime:
    """Classify a recorded run by its loss: stable oscillation, spikes or divergence (Ma et al. 2022).

    - divergence: the loss is not finite somewhere, or the median of its last tenth is above its start;
    - spikes: otherwise, if it ever rises above its lowest value so far by more than a tenth of the whole gain
      (start minus lowest);
    - stable oscillation: otherwise.

    The criterion does not depend on the scale of the loss or on the optimizer's hyperparameters. `loss` is
    averaged over `batches` if given.
    """
    if not isinstance(trajectory, Trajectory):
        msg = f"trajectory must be a run of ia.iterate or ia.flow, got a {type(trajectory).__name__}"
        raise ValueError(msg)  # noqa: TRY004
    start = jax.tree.map(lambda x: x[0], trajectory.params)
    check_batches(batches)
    check_loss(loss, start, batches)
    return regime_of_losses(jax.lax.map(mean_loss(loss, batches), trajectory.params))


def regime_of_losses(E: Float[Array, " saves"]) -> TrainingRegime:
    """The criterion of `training_regime`, applied to the losses (saves,) of a run."""
    lowest = jax.lax.cummin(E)
    highest_rise, gain = jnp.max(E - lowest), E[0] - lowest[-1]
    rise = jnp.where(highest_rise > 0, highest_rise / gain, jnp.zeros_like(gain))
    last_tenth = E[-max(1, len(E) // 10) :]
    diverged = ~jnp.all(jnp.isfinite(E)) | (jnp.median(last_tenth) > E[0])
    regime = jnp.where(diverged, 2, jnp.where(rise > SPIKE, 1, 0))
    return TrainingRegime(regime, rise, E)
