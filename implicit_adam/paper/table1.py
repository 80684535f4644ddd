"""Table 1: the sign and the kind of Adam's penalty in its four cells, on random losses.

A bias that penalises a norm of grad E points along the gradient of that norm, one that protects it against:

    grad ||grad E||_1 = Hess E sign(grad E)          (grad ||grad E||_2^2)/2 = Hess E grad E
"""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.bias.bias import bias
from implicit_adam.bias.table1 import cosine
from implicit_adam.checks.numbers import check_count
from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.paper.random_losses import Data, random_data, random_loss
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import COLOURS, MARKERS, greek
from implicit_adam.rules import Adam
from implicit_adam.types import Scalar, Vector


@dataclass(frozen=True)
class Table1Config:
    """eps is `apart` times below the least g^2 or above the largest; of |g| in place of g^2 if outside."""

    low: float = 0.9
    high: float = 0.99
    apart: float = 1e6
    placements: tuple[str, ...] = ("inside", "outside")
    losses: int = 100
    p: int = 10
    seed: int = 0
    # The least cosine that counts as aligned.
    aligned: float = 0.99


# The step size, which changes no cosine and no relative difference.
H = 1e-3


class Cell(NamedTuple):
    """A cell of the table: its row (beta against rho), its column (eps, and so the norm) and its sign.

    Sign 1 means that the norm is penalised.
    """

    words: str
    beta_larger: bool
    eps_small: bool
    sign: int


CELLS = (
    Cell("beta >= rho, eps small", beta_larger=True, eps_small=True, sign=1),
    Cell("beta >= rho, eps large", beta_larger=True, eps_small=False, sign=1),
    Cell("rho > beta, eps small", beta_larger=False, eps_small=True, sign=-1),
    Cell("rho > beta, eps large", beta_larger=False, eps_small=False, sign=1),
)


class Table1(NamedTuple):
    """Cosines of the bias with the two gradients, and its relative difference from the paper's formula.

    Axes (placements, cells, losses).
    """

    one_norm: np.ndarray
    two_norm: np.ndarray
    bias_error: np.ndarray


def run(config: Table1Config, advance: Advance) -> Table1:
    """Measure all cells for every placement of eps."""
    check_count("losses", config.losses)
    keys = jax.random.split(jax.random.key(config.seed), config.losses)
    cells, shape = [], (len(config.placements), len(CELLS), config.losses)
    for placement, cell in itertools.product(config.placements, CELLS):
        decays = (config.high, config.low) if cell.beta_larger else (config.low, config.high)
        small = jnp.asarray(cell.eps_small)
        found = _all(config, jnp.asarray(decays), keys, small, inside=placement == "inside")
        cells.append(jax.device_get(found))
        advance(len(cells) / (shape[0] * shape[1]))
    return Table1(*(np.stack(columns).reshape(shape) for columns in zip(*cells, strict=True)))


@partial(jax.jit, static_argnames=("config", "inside"))
def _all(config: Table1Config, decays: jax.Array, keys: jax.Array, small: jax.Array, *, inside: bool) -> Any:
    return jax.vmap(lambda key: _one(config, decays, key, small, inside=inside))(keys)


def _one(
    config: Table1Config, decays: jax.Array, key: jax.Array, small: jax.Array, *, inside: bool
) -> tuple[Scalar, Scalar, Scalar]:
    data_key, start_key = jax.random.split(key)
    data: Data = random_data(data_key, config.p)
    theta = jax.random.normal(start_key, (config.p,))
    E = jax.tree_util.Partial(_loss, data)
    g = jax.grad(E)(theta)
    size = g**2 if inside else jnp.abs(g)
    eps = jnp.where(small, jnp.min(size) / config.apart, jnp.max(size) * config.apart)
    beta, rho = decays
    rule = Adam(H, beta, rho, eps, eps_in_sqrt=inside)
    b = bias(rule, E, theta)
    cb, cr = (1 + beta) / (1 - beta), (1 + rho) / (1 - rho)
    one, two = _product(E, theta, jnp.sign(g)), _product(E, theta, g)
    # Eq. (5), and the display after (7) with the missing factor h; outside, the division is by eps itself.
    floor = jnp.sqrt(eps) if inside else eps
    expected = H / 2 * jnp.where(small, (cb - cr) * one, cb * two / floor)
    error = jnp.linalg.norm(b - expected) / jnp.linalg.norm(expected)
    return cosine(b, one), cosine(b, two), error


def _loss(data: Data, theta: Vector) -> Scalar:
    return random_loss(theta, data)


def _product(E, theta: Vector, v: Vector) -> Vector:
    return jax.jvp(jax.grad(E), (theta,), (v,))[1]


def claims(config: Table1Config, found: Table1) -> tuple[Claim, ...]:
    """One claim per cell and one for the formulas, for every placement of eps."""
    made = []
    for i, placement in enumerate(config.placements):
        made += _claims_for(config, Table1(*(values[i] for values in found)), placement)
    return tuple(made)


def _claims_for(config: Table1Config, found: Table1, placement: str) -> tuple[Claim, ...]:
    columns = zip(CELLS, found.one_norm, found.two_norm, strict=True)
    cells = (_cell(config, cell, one, two, placement) for cell, one, two in columns)
    worst = found.bias_error.max()
    equations = Claim(
        "eqs. (5) and (7)",
        "In the two extremes the bias is (5), and the display after (7) with its missing factor h "
        + ("(eps inside the root)." if placement == "inside" else "and eps for sqrt(eps) (eps outside)."),
        "the bias differs from these formulas by less than a hundredth, on every loss (by more on "
        "any: it did not hold)",
        f"largest difference {worst:.1e}",
        decided(held=worst < 0.01, refuted=worst >= 0.01),
    )
    return (*cells, equations)


def _cell(config: Table1Config, cell: Cell, one: np.ndarray, two: np.ndarray, placement: str) -> Claim:
    claimed, other = (one, two) if cell.eps_small else (two, one)
    name = "one-norm" if cell.eps_small else "squared two-norm"
    along = cell.sign * claimed
    aligned = (along > config.aligned) & (abs(other) < along)
    return Claim(
        "Table 1",
        f"{cell.words}: the {name} of the gradient is {'penalised' if cell.sign > 0 else 'protected'} "
        f"(eps {placement} the root).",
        f"on every random loss the cosine of the bias with {'' if cell.sign > 0 else 'minus '}the gradient "
        f"of the {name} exceeds {config.aligned:g}, and that with the other norm is smaller in size "
        "(below zero on any, or below that on most: it did not hold)",
        f"{int(aligned.sum())} of {len(aligned)} losses; median cosine {np.median(claimed):+.4f}, with the "
        f"other norm {np.median(other):+.3f}",
        decided(held=aligned.all(), refuted=(along < 0).any() or (along < config.aligned).mean() > 0.5),
    )


@styled
def picture(config: Table1Config, found: Table1) -> Any:
    """The two cosines for every loss: a panel for each placement of eps, with a row for each cell."""
    figure, (axes,) = panels(1, len(config.placements), 5.0, 2.6)
    rows = np.arange(len(CELLS))[::-1]
    for k, (ax, placement) in enumerate(zip(axes, config.placements, strict=True)):
        kinds = (
            (found.one_norm[k], r"$\nabla\|\nabla E\|_1$", 0.16),
            (found.two_norm[k], r"$\nabla\|\nabla E\|_2^2$", -0.16),
        )
        for i, (cosines, label, offset) in enumerate(kinds):
            y = np.broadcast_to((rows + offset)[:, None], cosines.shape)
            looks = {"color": COLOURS[i], "alpha": 0.35, "markersize": 4, "linewidth": 0}
            ax.plot(cosines.ravel(), y.ravel(), MARKERS[i], **looks)
            ax.plot([], [], MARKERS[i], color=COLOURS[i], label=label if k == 0 else None)
        ax.set_yticks(rows, labels=[greek(cell.words) for cell in CELLS] if k == 0 else [])
        ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xlim=(-1.05, 1.05), xlabel=f"cosine with the bias, {config.losses} random losses")
        ax.set_title(greek(f"eps {placement} the root"))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


TABLE1 = Experiment(
    "Table 1: the four cells", "random losses", Table1Config(), Table1Config(losses=20), run, claims, picture
)
