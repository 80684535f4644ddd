"""Figure 1: the penalty in one dimension, as a function of the gradient x.

The bias of eq. (4) for p = 1 is (h/2) d/d theta of I(E'(theta)),

    I(x) = int_0^x { a - c + c eps/(y^2+eps) } d sqrt(eps+y^2),   a = (1+beta)/(1-beta), c = (1+rho)/(1-rho)
         = (a - c) (R - sqrt(eps)) + c sqrt(eps) (1 - sqrt(eps)/R),          R = sqrt(x^2+eps)
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.bias.bias import bias
from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.plotting.panels import panels, styled
from implicit_adam.plotting.style import shades
from implicit_adam.rules import Adam


@dataclass(frozen=True)
class Figure1Config:
    """The paper's beta; the paper does not print its rho and eps. The picture scales with sqrt(eps)."""

    beta: float = 0.95
    rho: tuple[float, ...] = (0.0, 0.9, 0.95, 0.97, 0.99)
    eps: float = 1e-8
    # The largest x in units of sqrt(eps), and the number of points.
    largest: float = 10.0
    points: int = 101
    nodes: int = 200
    tolerance: float = 1e-9


class Figure1(NamedTuple):
    """x (points,), and the integral in closed form and by quadrature (rho, points), in units of the norm."""

    rho: np.ndarray
    x: np.ndarray
    closed_form: np.ndarray
    quadrature: np.ndarray


def run(config: Figure1Config, advance: Advance) -> Figure1:
    """The closed form of I, and Gauss-Legendre quadrature of `ia.bias` for E = theta^2/2."""
    root = config.eps**0.5
    x = np.linspace(0.0, config.largest * root, config.points)
    rho = np.asarray(config.rho)
    closed = np.stack([_closed_form(x, config.beta, r, config.eps) for r in config.rho])
    quadrature = np.stack([_quadrature(config, x, r) for r in config.rho])
    advance(1.0)
    return Figure1(rho, x, closed, quadrature)


def _closed_form(x: np.ndarray, beta: float, rho: float, eps: float) -> np.ndarray:
    a, c = (1 + beta) / (1 - beta), (1 + rho) / (1 - rho)
    R, root = np.sqrt(x**2 + eps), eps**0.5
    return (a - c) * (R - root) + c * root * (1 - root / R)


def _quadrature(config: Figure1Config, x: np.ndarray, rho: float) -> np.ndarray:
    # The gradient of theta^2/2 is theta itself, and h/2 = 1.
    rule = Adam(2.0, config.beta, rho, config.eps, eps_in_sqrt=True)
    nodes, weights = np.polynomial.legendre.leggauss(config.nodes)
    y = x[:, None] * (nodes + 1) / 2
    at = jax.vmap(lambda theta: bias(rule, lambda t: jnp.sum(t**2) / 2, theta[None])[0])
    values = np.asarray(jax.jit(at)(jnp.asarray(y.ravel()))).reshape(y.shape)
    return values @ weights * x / 2


def claims(config: Figure1Config, found: Figure1) -> tuple[Claim, ...]:
    """The claims that the curves are right, and that their ends agree with Table 1."""
    gap = np.max(abs(found.closed_form - found.quadrature)) / np.max(abs(found.closed_form))
    near = found.closed_form[:, 1]
    far = found.closed_form[:, -1] - found.closed_form[:, -2]
    # Positive where a curve does what is claimed.
    ends = np.concatenate([near, (far * (config.beta - found.rho))[found.rho != config.beta]])
    return (
        Claim(
            "Figure 1",
            "The graphs are those of the integral of the braces of (4).",
            f"closed form and quadrature of the library's bias differ by less than {config.tolerance:g} of "
            "the largest value (by more: it did not hold)",
            f"largest difference {gap:.1e}",
            decided(held=gap < config.tolerance, refuted=gap >= config.tolerance),
        ),
        Claim(
            "Figure 1, section 2",
            "A small gradient is always penalised; a large one is penalised for beta > rho and the opposite "
            "for rho > beta.",
            "each curve rises from x = 0, and at the largest x rises for rho < beta and falls for rho > "
            "beta (one that does not: it did not hold)",
            f"{int((near > 0).sum())} of {len(near)} rise at 0; at x = {config.largest:g} sqrt(eps) "
            f"{int((far > 0).sum())} rise and {int((far < 0).sum())} fall",
            decided(held=(ends > 0).all(), refuted=(ends <= 0).any()),
        ),
    )


@styled
def picture(config: Figure1Config, found: Figure1) -> Any:
    """The integrals of the braces against x in units of sqrt(eps), with a panel for small x."""
    figure, ((ax, start),) = panels(1, 2, 3.8, 3.2)
    root, first = config.eps**0.5, slice(len(found.x) // 10 + 1)
    for rho, closed, quadrature, colour in zip(
        found.rho, found.closed_form, found.quadrature, shades(len(found.rho)), strict=True
    ):
        ax.plot(found.x / root, closed / root, color=colour, label=rf"$\rho = {rho:g}$")
        ax.plot(found.x[::10] / root, quadrature[::10] / root, ".", color=colour)
        start.plot(found.x[first] / root, closed[first] / root, color=colour)
        start.plot(found.x[first] / root, quadrature[first] / root, ".", color=colour)
    for each in (ax, start):
        each.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        each.set(xlabel=r"gradient $x\,/\sqrt{\varepsilon}$")
    ax.set_ylabel(r"$\int_0^x \{\ldots\}\,d\sqrt{\varepsilon + y^2}\;/\sqrt{\varepsilon}$")
    ax.set_title(rf"$\beta = {config.beta:g}$; dots: quadrature of the bias")
    start.set_title("a small gradient is always penalised")
    ax.legend()
    return figure


FIGURE1 = Experiment(
    "Figure 1: what is penalised in one dimension",
    "one parameter",
    Figure1Config(),
    Figure1Config(),
    run,
    claims,
    picture,
    "(4) is for eps inside the root.",
)
