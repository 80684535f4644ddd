"""How well Adam can be known at the edge: how far runs from nearby starts come apart.

An equation is off by something when the alternation begins, and from then on it can be no better than Adam
itself from a start that is off by as much.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.paper.claims import Advance, Claim, Experiment, Table, decided
from implicit_adam.paper.edge.claims import CENTRE
from implicit_adam.paper.edge.networks import on_digits
from implicit_adam.paper.edge.runs import NETWORKS, centres
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS
from implicit_adam.rules import Adam
from implicit_adam.types import Params


@dataclass(frozen=True)
class NearbyConfig:
    """Adam as in `EdgeConfig`; every component of a start is moved by a size times a normal number.

    - `starts`: how many starts for each size; `entry`: the step by which the edge has about been reached.
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    h: float = 2e-3
    beta: float = 0.5
    rho: float = 0.99
    steps: int = 1700
    samples: int = 100
    sizes: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3)
    starts: int = 3
    entry: int = 60


class Apart(NamedTuple):
    """Distances of centres from Adam's, relative to the distance that Adam travels; (sizes, starts) each."""

    at_entry: Float[np.ndarray, "sizes starts"]
    largest: Float[np.ndarray, "sizes starts"]


def run(config: NearbyConfig, advance: Advance) -> dict[str, Apart]:
    """For each network, the distances between Adam and Adam from nearby starts."""
    found = {}
    for i, name in enumerate(config.networks):
        loss, params = on_digits(NETWORKS[name], config.samples)
        adam = centres(Adam(config.h, config.beta, config.rho), loss, config.steps)
        found[name] = _apart(config, params, adam)
        advance((i + 1) / len(config.networks))
    return found


def _apart(config: NearbyConfig, params: Params, adam: Any) -> Apart:
    own = adam(params)
    distance = np.linalg.norm(own - own[:1], axis=1).max()
    rows = [
        np.linalg.norm(adam(_moved(params, size, start)) - own, axis=1) / distance
        for size in config.sizes
        for start in range(config.starts)
    ]
    off = np.stack(rows).reshape(len(config.sizes), config.starts, -1)
    return Apart(off[..., config.entry], off.max(axis=-1))


def _moved(params: Params, size: float, start: int) -> Params:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(start), len(leaves))

    def one(x: Array, key: Array) -> Array:
        return x + jnp.asarray(size, x.dtype) * jax.random.normal(key, x.shape, x.dtype)

    return structure.unflatten(map(one, leaves, keys))


def claims(config: NearbyConfig, found: dict[str, Apart]) -> tuple[Claim, ...]:
    """A claim for each network, about the smallest size."""
    return tuple(_of(config, name, found[name].largest[0]) for name in config.networks)


def _of(config: NearbyConfig, name: str, largest: Float[np.ndarray, " starts"]) -> Claim:
    return Claim(
        "beyond the paper",
        f"{name}: from starts {config.sizes[0]:g} away Adam's centre stays within {CENTRE:.0%}, what is "
        "asked of the closure.",
        f"within {CENTRE:.0%} of the distance that Adam travels, from each of {config.starts} starts (by "
        "more: it did not hold)",
        "at most " + ", ".join(f"{x:.2%}" for x in largest),
        decided(held=(largest <= CENTRE).all(), refuted=(largest > CENTRE).any()),
    )


def tables(config: NearbyConfig, found: dict[str, Apart]) -> tuple[Table, ...]:
    """The distances for every network and size."""
    head = (
        "network",
        "start moved by",
        f"off at step {config.entry}",
        f"off at most in {config.steps} steps",
    )
    rows = tuple(
        (name, f"{size:g}", *(", ".join(f"{x:.2g}%" for x in 100 * off[i]) for off in found[name]))
        for name in config.networks
        for i, size in enumerate(config.sizes)
    )
    return (Table("Adam from nearby starts, in parts of the distance that it travels", head, rows),)


@styled
def picture(config: NearbyConfig, found: dict[str, Apart]) -> Any:
    """How far runs come apart against how far apart they are as they enter the edge."""
    figure, axes = panels(1, len(config.networks), 2.6, 2.4)
    for axis, name in zip(axes[0], config.networks, strict=True):
        at_entry, largest = found[name]
        for i, size in enumerate(config.sizes):
            colour = COLOURS[i % len(COLOURS)]
            axis.loglog(at_entry[i], largest[i], "o", color=colour, label=f"start moved by {size:g}")
        axis.axhline(CENTRE, color="0.85", linewidth=0.8, zorder=0)
        axis.set(title=name, xlabel=f"error at step {config.entry}")
    axes[0, 0].set_ylabel("largest error / distance")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


NEARBY_STARTS = Experiment(
    "Beyond the theorem: how well Adam can be known at the edge of stability",
    "four small networks on digits",
    NearbyConfig(),
    NearbyConfig(networks=("deep linear network",), steps=80, samples=30, sizes=(1e-6, 1e-3)),
    run,
    claims,
    picture,
    "Bursts of the alternation start from what is left of it, which is as small as rounding, so that a tiny "
    "difference decides when they come. An equation that is a thousandth of the distance off as it enters "
    "the edge is in the place of the starts that are as far away there.",
    tables,
)
