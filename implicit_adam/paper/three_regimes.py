"""Section 5: the three training regimes of Adam (Ma et al. 2022), by the distance of beta and rho."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.losses.problems import digits, digits_start
from implicit_adam.measures.training_regime import REGIMES, training_regime
from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import greek, shades
from implicit_adam.rules import Adam
from implicit_adam.runs.iterate import iterate

# In the order of REGIMES: what the paper says brings each about.
CAUSES = ("rho is sufficiently close to beta", "rho is much larger than beta", "beta is much larger than rho")


@dataclass(frozen=True)
class RegimesConfig:
    """Pairs (beta, rho) for each regime, on the digits network in full batch; `placements` of eps."""

    stable: tuple[tuple[float, float], ...] = ((0.9, 0.95), (0.95, 0.9), (0.98, 0.99))
    spikes: tuple[tuple[float, float], ...] = ((0.0, 0.999), (0.1, 0.999), (0.3, 0.999))
    divergence: tuple[tuple[float, float], ...] = ((0.999, 0.01), (0.99, 0.1), (0.99, 0.3))
    h: float = 1e-2
    eps: float = 1e-8
    placements: tuple[str, ...] = ("inside", "outside")
    steps: int = 2000
    samples: int = 500
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def pairs(self) -> tuple[tuple[tuple[float, float], ...], ...]:
        """In the order of REGIMES."""
        return self.stable, self.spikes, self.divergence


class ThreeRegimes(NamedTuple):
    """Axes (placements, expected regime, pairs, seeds): the regime found, and the losses (.., saves)."""

    regime: np.ndarray
    loss: np.ndarray


def run(config: RegimesConfig, advance: Advance) -> ThreeRegimes:
    """Every pair with every seed, for every placement."""
    problem = digits(batches=1, samples=config.samples)
    loss = problem.mean_loss

    @partial(jax.jit, static_argnums=0)
    def one(placement: str, beta: Any, rho: Any, seed: Any) -> Any:
        adam = Adam(config.h, beta, rho, config.eps, eps_in_sqrt=placement == "inside")
        found = training_regime(iterate(adam, loss, digits_start(seed), config.steps), loss)
        return found.regime, found.loss

    points = jnp.asarray(config.pairs).reshape(-1, 2)
    runs = [(placement, *point) for placement in config.placements for point in points]
    rows = []
    for i, run_of in enumerate(runs):
        rows.append([jax.device_get(one(*run_of, jnp.asarray(seed))) for seed in config.seeds])
        advance((i + 1) / len(runs))
    shape = (len(config.placements), *np.shape(config.pairs)[:2], len(config.seeds))
    regime, losses = (np.asarray([[seed[j] for seed in row] for row in rows]) for j in (0, 1))
    return ThreeRegimes(regime.reshape(shape), losses.reshape(*shape, -1))


def claims(config: RegimesConfig, found: ThreeRegimes) -> tuple[Claim, ...]:
    """One for each regime and placement."""
    return tuple(
        claim
        for placement, regime in zip(config.placements, found.regime, strict=True)
        for claim in _claims_for(config, placement, regime)
    )


def _claims_for(config: RegimesConfig, placement: str, regime: np.ndarray) -> Iterator[Claim]:
    for i, (name, cause) in enumerate(zip(REGIMES, CAUSES, strict=True)):
        here = (regime == i).mean(axis=(1, 2))
        share, elsewhere = float(here[i]), float(np.delete(here, i).mean())
        counts = ", ".join(f"{int((regime[i] == j).sum())} {other}" for j, other in enumerate(REGIMES))
        pairs = ", ".join(f"({beta:g}, {rho:g})" for beta, rho in config.pairs[i])
        yield Claim(
            "section 5",
            f"{name[0].upper()}{name[1:]} when {cause} (eps {placement} the root).",
            "by `ia.training_regime` at least three quarters of these runs are in this regime, and at "
            "most half of the others (at most one quarter of these: it did not hold)",
            f"of {regime[i].size} runs with (beta, rho) among {pairs}: {counts}; of the others "
            f"{elsewhere:.0%} are in this regime",
            decided(held=share >= 0.75 and elsewhere <= 0.5, refuted=share <= 0.25),
        )


@styled
def picture(config: RegimesConfig, found: ThreeRegimes) -> Any:
    """The losses of one seed, a row for each placement of eps and a panel for each regime."""
    figure, rows = panels(len(config.placements), len(REGIMES), 3.2, 2.8)
    for row, placement, loss in zip(rows, config.placements, found.loss, strict=True):
        _regimes(config, loss, placement, row)
    return figure


def _regimes(config: RegimesConfig, loss: np.ndarray, placement: str, row: Any) -> None:
    for ax, name, cause, pairs, losses in zip(row, REGIMES, CAUSES, config.pairs, loss, strict=True):
        for (beta, rho), curve, colour in zip(pairs, losses[:, 0], shades(len(pairs)), strict=True):
            ax.semilogy(curve, color=colour, linewidth=0.9, label=rf"$\beta = {beta:g}$, $\rho = {rho:g}$")
        ax.set(xlabel="step $n$", title=greek(f"expected: {name},\nas {cause}"))
        ax.legend()
    row[0].set_ylabel(greek(f"loss $E$, eps {placement}"))


THREE_REGIMES = Experiment(
    "Three regimes of training",
    "a small network on digits",
    RegimesConfig(),
    RegimesConfig(steps=500, samples=200, seeds=(0,)),
    run,
    claims,
    picture,
    "One step size on one small network: which regime a pair is in depends on both, which the statement "
    "leaves open. The criterion is simple and knows no scale: a spike is a rise of the loss above its "
    "lowest value so far by a tenth of all that was gained.",
)
