"""Section 5: the three training regimes of Adam (Ma et al. 2022), mapped over beta, rho and the step size.

Each run is compared with the equation with carried memory: the regime of its solution, and whether it reaches
the edge of stability, where the top eigenvalue of P^-1/2 Hess E P^-1/2, with P from the carried second
memory, passes the threshold 2 (1+beta) / ((1-beta) h).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.losses.problems import digits, digits_start
from implicit_adam.measures.sharpness import preconditioned_sharpness
from implicit_adam.measures.stability import stability_threshold
from implicit_adam.measures.training_regime import REGIMES, training_regime
from implicit_adam.paper.claims import Advance, Claim, Experiment, Table, decided
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS, greek
from implicit_adam.rules import Adam
from implicit_adam.runs.carried_flow import carried_flow
from implicit_adam.runs.iterate import iterate
from implicit_adam.runs.trajectory import Trajectory
from implicit_adam.sweeps.sweep import sweep
from implicit_adam.types import Loss

# The cause of each regime according to the paper, in the order of REGIMES.
CAUSES = ("rho is sufficiently close to beta", "rho is much larger than beta", "beta is much larger than rho")
STABLE = REGIMES.index("stable oscillation")


@dataclass(frozen=True)
class RegimesConfig:
    """A map for each step size and placement of eps, on the digits network in full batch.

    - `memories`: the values of 1/(1 - beta) and 1/(1 - rho), in steps. rho and beta are close if these differ
      by a factor of at most `close`; one is much larger if its memory is at least `larger` times as long.
    - `every`: the equation is saved after this many steps; `looks`: the eigenvalue is measured at every
      `looks`-th saved point.
    """

    h: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    memories: tuple[float, ...] = (1, 3, 10, 30, 100, 300, 1000)
    close: float = 4.0
    larger: float = 25.0
    eps: float = 1e-8
    placements: tuple[str, ...] = ("inside", "outside")
    steps: int = 2000
    samples: int = 300
    every: int = 10
    looks: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def regions(self) -> np.ndarray:
        """A mask (regimes, beta, rho) of where each regime is expected."""
        memories = np.asarray(self.memories)
        ratio = memories[None, :] / memories[:, None]
        near = np.maximum(ratio, 1 / ratio) <= self.close
        return np.stack([near, ratio >= self.larger, ratio <= 1 / self.larger])


class ThreeRegimes(NamedTuple):
    """Results with axes (placements, h, beta, rho, seeds).

    `regime` of the run and `predicted` by the equation, as indices; `edge`: the largest eigenvalue along the
    equation over the threshold, NaN where not finite.
    """

    regime: np.ndarray
    predicted: np.ndarray
    edge: np.ndarray


def run(config: RegimesConfig, advance: Advance) -> ThreeRegimes:
    """Run every point of the map with every seed, for every placement of eps."""
    loss = digits(batches=1, samples=config.samples).mean_loss

    def one(placement: str, h: Any, beta: Any, rho: Any, seed: Any) -> dict[str, jax.Array]:
        adam = Adam(h, beta, rho, config.eps, eps_in_sqrt=placement == "inside")
        params = digits_start(seed)
        regime = training_regime(iterate(adam, loss, params, config.steps), loss).regime
        every: Any = {"save_every": config.every, "memories": True}
        equation = carried_flow(adam, loss, params, config.steps, **every)
        predicted = training_regime(equation, loss).regime
        return {"regime": regime, "predicted": predicted, "edge": _edge(adam, loss, equation, config.looks)}

    decays = [1 - 1 / memory for memory in config.memories]
    grid = {"h": config.h, "beta": decays, "rho": decays, "seed": config.seeds}
    maps = []
    for i, placement in enumerate(config.placements):

        def told(done: int, lanes: int, i: int = i) -> None:
            advance((i + done / lanes) / len(config.placements))

        # One run a device at a time: adaptive solves of one program would wait for the longest.
        at = partial(one, placement)
        maps.append(sweep(at, grid, chunk_size=1, progress=told).values)
    return ThreeRegimes(**{name: np.stack([found[name] for found in maps]) for name in ThreeRegimes._fields})


def _edge(adam: Adam, loss: Loss, equation: Trajectory, looks: int) -> jax.Array:
    """The largest eigenvalue along the equation over the threshold."""
    _, (second,) = equation.memories
    fresh: Any = adam.transformation().init(jax.tree.map(lambda x: x[0], equation.params))

    def eigenvalue(look: Any) -> jax.Array:
        n, point, v = look
        state = (fresh[0]._replace(count=n.astype(jnp.int32), nu=v), *fresh[1:])
        return preconditioned_sharpness(adam, loss, point, opt_state=state, iterations=15).value

    # The start is left out: there is no second memory yet.
    seen = jax.tree.map(lambda x: x[looks::looks], (jnp.round(equation.t / adam.h), equation.params, second))
    return jnp.max(jax.lax.map(eigenvalue, seen)) / stability_threshold(adam)


def claims(config: RegimesConfig, found: ThreeRegimes) -> tuple[Claim, ...]:
    """One claim for each regime and placement of eps, and those on the equation's predictions."""
    regimes = (
        claim
        for placement, regime in zip(config.placements, found.regime, strict=True)
        for claim in _claims_for(config, placement, regime)
    )
    return (*regimes, _explained(found))


def _claims_for(config: RegimesConfig, placement: str, regime: np.ndarray) -> Iterator[Claim]:
    for i, (name, cause) in enumerate(zip(REGIMES, CAUSES, strict=True)):
        here, elsewhere = _shares(config, regime, i)
        listed = ", ".join(
            f"{x:.0%} and {y:.0%} at h = {h:g}" for h, x, y in zip(config.h, here, elsewhere, strict=True)
        )
        yield Claim(
            "section 5",
            f"{name[0].upper()}{name[1:]} when {cause} (eps {placement} the root).",
            "at one of the step sizes at least three quarters of the runs in this region of the map are by "
            "`ia.training_regime` in this regime, and at most half of the others (at none of them more than "
            "one quarter of these: it did not hold)",
            f"of the runs in the region, and of the others, {listed}",
            decided(held=((here >= 0.75) & (elsewhere <= 0.5)).any(), refuted=(here <= 0.25).all()),
        )


def _shares(config: RegimesConfig, regime: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray]:
    """(h,) the shares of runs in regime i, among those where it is expected and among the others."""
    region = config.regions[i]
    return (regime[:, region] == i).mean(axis=(1, 2)), (regime[:, ~region] == i).mean(axis=(1, 2))


def _explained(found: ThreeRegimes) -> Claim:
    same, below = found.regime == found.predicted, found.edge < 1
    shares = {
        words: f"{np.mean(same[where]):.0%} of {int(where.sum())}"
        for words, where in (("below the edge", below), ("beyond it", ~below))
        if where.any()
    }
    share = float(same[below].mean()) if below.any() else np.nan
    left = found.regime != STABLE
    return Claim(
        "beyond the paper",
        "Below the edge of stability the equation with carried memory is in the regime of the run.",
        "at least 95% of the runs whose equation stays below the threshold are in the regime of the equation "
        "(at most 75%: it did not hold)",
        f"the same regime in {', '.join(f'{x} {words}' for words, x in shares.items())}; of the "
        f"{int(left.sum())} runs with spikes or divergence {int((left & below).sum())} are below the edge",
        decided(held=share >= 0.95, refuted=share <= 0.75),
    )


def tables(config: RegimesConfig, found: ThreeRegimes) -> tuple[Table, ...]:
    """Tables with the number of runs in each regime, by region."""
    rows = tuple(
        (placement, f"{h:g}", cause, *(str(int((regime[j][region] == i).sum())) for i in range(len(REGIMES))))
        for placement, regime in zip(config.placements, found.regime, strict=True)
        for j, h in enumerate(config.h)
        for cause, region in zip(CAUSES, config.regions, strict=True)
    )
    return (Table("Runs by region of the map and regime.", ("eps", "h", "region", *REGIMES), rows),)


@styled
def picture(config: RegimesConfig, found: ThreeRegimes) -> Any:
    """A map for each step size and placement: the regime of most seeds, and the edge of the equation."""
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colours = ("0.88", COLOURS[1], COLOURS[0])
    ticks = np.arange(len(config.memories))
    figure, axes = panels(len(config.placements), len(config.h), 2.1, 2.2)
    for row, placement, regimes, edges in zip(axes, config.placements, found.regime, found.edge, strict=True):
        for ax, h, regime, edge in zip(row, config.h, regimes, edges, strict=True):
            ax.pcolormesh(
                ticks, ticks, np.median(regime, axis=-1), cmap=ListedColormap(colours), vmin=-0.5, vmax=2.5
            )
            height = np.nan_to_num(np.median(edge, axis=-1), nan=np.inf)
            ax.contour(ticks, ticks, np.clip(np.log(height), -3, 3), [0.0], colors="k", linewidths=1.2)
            ax.set(title=greek(f"$h = {h:g}$, eps {placement}"), xticks=ticks[::2], yticks=ticks[::2])
            ax.set_xticklabels([f"{x:g}" for x in config.memories[::2]])
            ax.set_yticklabels([f"{x:g}" for x in config.memories[::2]])
            ax.plot(ticks[[0, -1]], ticks[[0, -1]], color="0.6", linewidth=0.7, linestyle=":")
        row[0].set_ylabel(r"memory of $\beta$, $1/(1-\beta)$")
    for ax in axes[-1]:
        ax.set_xlabel(r"memory of $\rho$, $1/(1-\rho)$")
    figure.legend(
        handles=[
            *(Patch(color=colour, label=name) for colour, name in zip(colours, REGIMES, strict=True)),
            Line2D([], [], color="k", label="the equation reaches the edge"),
            Line2D([], [], color="0.6", linestyle=":", label=greek("beta = rho")),
        ],
        loc="outside upper center",
        ncols=5,
    )
    return figure


THREE_REGIMES = Experiment(
    "Three regimes of training",
    "a small network on digits",
    RegimesConfig(),
    RegimesConfig(
        h=(1e-2, 3e-2), memories=(1, 30, 1000), placements=("inside",), steps=200, samples=50, seeds=(0,)
    ),
    run,
    claims,
    picture,
    "One small network in full batch. Which regime a pair is in depends on the step size, which the "
    "statement leaves open: it is judged at that of the map where it fits best. The criterion is simple and "
    "knows no scale: a spike is a rise of the loss above its lowest value so far by a tenth of all that was "
    "gained.",
    tables,
)
