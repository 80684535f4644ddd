"""How well Adam can be known at the edge: how far runs come apart that are a little apart below it.

What an equation is off by when the alternation begins moves it as it would move Adam. From then on it cannot
be expected to be better than Adam itself, moved by as much. A difference at the start is not the same: below
the edge Adam forgets the alternating part of it, which is what decides when the first burst comes.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from implicit_adam.paper.claims import Advance, Claim, Experiment, Table, decided
from implicit_adam.paper.edge.claims import CENTRE
from implicit_adam.paper.edge.networks import on_digits
from implicit_adam.paper.edge.runs import MOVED_AT, NETWORKS, AdamOnDigits, all_steps, centres
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS
from implicit_adam.rules import Adam
from implicit_adam.studies.prediction import NUDGE, random_move

MARKERS = "os^v"


@dataclass(frozen=True)
class NearbyConfig(AdamOnDigits):
    """Adam is moved by a size times a normal number in every component, before one of its steps.

    - `at`: before which steps; `sizes`: by how much; `draws`: how often each.
    - `entry`: a step at which the edge has not been reached yet.
    """

    at: tuple[int, ...] = (0, MOVED_AT)
    sizes: tuple[float, ...] = (NUDGE, 1e-5, 1e-4)
    draws: int = 3
    entry: int = MOVED_AT + 2


class Apart(NamedTuple):
    """Distances of centres from Adam's, over the distance that Adam travels; (at, sizes, draws)."""

    at_entry: Float[np.ndarray, "at sizes draws"]
    largest: Float[np.ndarray, "at sizes draws"]


def run(config: NearbyConfig, advance: Advance) -> dict[str, Apart]:
    """For each network, the distances between Adam and Adam after every move."""
    found = {}
    for i, name in enumerate(config.networks):
        loss, params = on_digits(NETWORKS[name], config.samples)
        steps = all_steps(Adam(config.h, config.beta, config.rho), loss, config.steps)

        def path(size: float, draw: int, at: int, params: Any = params, steps: Any = steps) -> np.ndarray:
            return centres(steps(params, random_move(params, size, draw), at).points)

        found[name] = _apart(config, path)
        advance((i + 1) / len(config.networks))
    return found


def _apart(config: NearbyConfig, path: Any) -> Apart:
    own = path(0.0, 0, 0)
    distance = np.linalg.norm(own - own[:1], axis=1).max()
    rows = [
        np.linalg.norm(path(size, draw, at) - own, axis=1) / distance
        for at in config.at
        for size in config.sizes
        for draw in range(config.draws)
    ]
    off = np.stack(rows).reshape(len(config.at), len(config.sizes), config.draws, -1)
    return Apart(off[..., config.entry], off.max(axis=-1))


def claims(config: NearbyConfig, found: dict[str, Apart]) -> tuple[Claim, ...]:
    """A claim for each network and step, about the smallest size."""
    return tuple(
        _of(config, f"{name}: moved by {config.sizes[0]:.0e} {_when(at)}", found[name].largest[i, 0])
        for name in config.networks
        for i, at in enumerate(config.at)
    )


def _of(config: NearbyConfig, moved: str, largest: Float[np.ndarray, " draws"]) -> Claim:
    draws = f"each of {config.draws} draws"
    return Claim(
        "beyond the paper",
        f"{moved}, Adam's centre stays within {CENTRE:.0%}, what is asked of the closure.",
        f"within {CENTRE:.0%} of the distance that Adam travels, in {draws} (by more: it did not hold)",
        "at most " + ", ".join(f"{x:.2%}" for x in largest),
        decided(held=(largest <= CENTRE).all(), refuted=(largest > CENTRE).any()),
    )


def _when(at: int) -> str:
    return f"at step {at}" if at else "at the start"


def tables(config: NearbyConfig, found: dict[str, Apart]) -> tuple[Table, ...]:
    """The distances for every network, step and size."""
    at_entry, largest = f"off at step {config.entry}", f"off at most in {config.steps} steps"
    head = ("network", "moved", "by", at_entry, largest)
    rows = tuple(
        (name, _when(at), f"{size:.0e}", *(_percent(off[i, j]) for off in found[name]))
        for name in config.networks
        for i, at in enumerate(config.at)
        for j, size in enumerate(config.sizes)
    )
    return (Table("Adam after small moves, in parts of the distance that it travels", head, rows),)


def _percent(off: Float[np.ndarray, " draws"]) -> str:
    return ", ".join(f"{x:.2g}%" for x in 100 * off)


@styled
def picture(config: NearbyConfig, found: dict[str, Apart]) -> Any:
    """How far runs come apart against how far apart they are below the edge."""
    figure, axes = panels(1, len(config.networks), 2.6, 2.4)
    for axis, name in zip(axes[0], config.networks, strict=True):
        for i, at in enumerate(config.at):
            for j, size in enumerate(config.sizes):
                points = (off[i, j] for off in found[name])
                look: Any = {"color": COLOURS[j % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
                axis.loglog(*points, linestyle="", label=f"moved by {size:.0e} {_when(at)}", **look)
        axis.axhline(CENTRE, color="0.85", linewidth=0.8, zorder=0)
        axis.set(title=name, xlabel=f"error / distance at step {config.entry}")
    axes[0, 0].set_ylabel("largest error / distance")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


NEARBY_RUNS = Experiment(
    "Beyond the theorem: how well Adam can be known at the edge of stability",
    "four small networks on digits",
    NearbyConfig(),
    NearbyConfig(networks=("deep linear network",), steps=80, samples=30, sizes=(1e-6, 1e-3)),
    run,
    claims,
    picture,
    "Bursts of the alternation start from what is left of it, which is as small as rounding, so that a tiny "
    "difference decides when they come. Of a difference at the start Adam forgets the alternating part "
    "before it enters the edge; of one shortly before the edge it does not. An equation is in the place of "
    "the latter, since it is off by something there.",
    tables,
)
