"""Past the edge of stability: an equation for the centre and the amplitude of iterates that alternate.

There theta_n = c + (-1)^n d, and every memory is S + (-1)^n D. With c, S, d, D smooth, the two branches c + d
and c - d each have their own gradient, psi+- = psi(g(c +- d)). The mean and the alternating part of a memory
of decay delta are, one step later,

    S_(n+1) = delta S + (1-delta) (psi+ + psi-)/2,        D+ = -delta D - (1-delta) (psi+ - psi-)/2

Each branch reads its own memory, hF+- = h readout(S -+ D+, c +- d), and so

    c' = -(hF+ + hF-)/2,        d' = k [-2 (d - floor) + (hF+ - hF-)/2],        D' = k (D+ - D)      per step.

From order 1 on the corrections for the step are those of `carrier`, with c and S in place of theta and
memory: the gradients of one step ago give the change of psi, and F is that of the step about now. In a burst
d grows within that step, too, by a factor mu >= 1. One step ago the branches were c +- d/mu, and half a step
ago, where all right sides but S' are read, c +- d/sqrt(mu). The factor k = sqrt(mu) log(mu)/(mu-1) makes d
grow by mu in a step; at order 0, where d is read now, it is log(mu)/(mu-1). What decays may turn within a
step, and keeps mu = 1 (`bursts`). d' vanishes exactly where the optimizer's
own linearised step has the eigenvalue -1, its threshold of stability. Below it d sinks to its floor; above it
d grows until the curvature that the branches see, or what they average, has brought the optimizer back.
Directions without curvature are damped at the rate 2 and left to c. d is a vector: any number of directions
may alternate.

The floor stands for what keeps an optimizer from being exactly at rest across its path, which in floating
point is rounding: without it d underflows before the edge is reached, and the first burst comes late.
Describing two branches by a mean and a difference is the idea of rod flow (arXiv:2602.01480, and 2605.06821
for Adam); `docs/theory.md` says what is different here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from implicit_adam.fields.carried.bursts import (
    Burst,
    burst,
    half_a_step_ago,
    times,
)
from implicit_adam.fields.carried.carrier import (
    Carrier,
    Features,
    Memory,
    centred,
    on_the_line,
)
from implicit_adam.types import Scalar, StepNumber, Vector

# (S, d, D): the mean memory, the half-difference of the branches, the half-difference of their memories.
Branched = tuple[Memory, Vector, Memory]


# Weights of x_n, .., x_(n+4) in their alternating part; polynomials up to degree three have none.
STENCIL = tuple(x / 16 for x in (1, -4, 6, -4, 1))


def two_branches(
    carrier: Carrier, n: StepNumber, theta: Vector, memory: Memory, floor: Scalar
) -> tuple[Vector, Branched]:
    """The branches before step n, from the alternation of the steps that the optimizer would take next."""
    states = [(theta, memory)]
    for k in range(len(STENCIL) - 1):
        states.append(carrier.step(n + k, *states[-1]))
    d, D = jax.tree.map(lambda *xs: sum(w * x for w, x in zip(STENCIL, xs, strict=True)), *states)
    return theta - d, (carrier.plus(memory, _minus(D)), d + floored(theta, floor), D)


def two_branch_velocity(
    carrier: Carrier, order: int, floor: Scalar
) -> Callable[[Scalar, Vector, Branched], tuple[Vector, Branched]]:
    """The right side of the equation per step: (c, (S, d, D)) -> their derivatives in tau."""

    def velocity(tau: Scalar, c: Vector, memory: Branched) -> tuple[Vector, Branched]:
        S, d, D = memory
        lowest, now = floored(c, floor), jnp.zeros_like(tau)
        branches = Branches(carrier, d, D)
        psi = branches.features(tau, branches.gradients(c), c, S, None)
        change = jax.tree.map(jnp.zeros_like, psi)
        plus, minus = branches.updates(tau, c, S, psi, change, now)
        grown = burst(d, alternation(d, lowest, plus, minus), plus, minus, order)
        hF = (plus + minus) / 2
        if order > 0:
            psi, change = with_change(branches.shorter(grown.mu), tau, c + hF, S, psi, grown.mu)
            branches = branches.shorter(jnp.sqrt(grown.mu))
            plus, minus = branches.updates(tau, c + hF / 2, S, psi, change, now, grown)
            hF = (plus + minus) / 2
        c_dot = centred(branches.centre(), tau, c, S, psi, change, hF, order)
        # In a burst a square grows tenfold in a step, too fast for a linear extrapolation to two steps ago.
        c_dot = jnp.clip(c_dot + hF, -jnp.abs(hF), jnp.abs(hF)) - hF
        d_more = alternation(branches.d, lowest, plus, minus)
        D_more = jax.tree.map(jnp.subtract, branches.next_memory(psi[1]), branches.D)
        S_dot = carrier.rate(S, psi[0], change[0], grown.in_rate)
        return c_dot, (S_dot, *times(grown.rate, (d_more, D_more)))

    return velocity


def left_by(
    carrier: Carrier, velocity: Callable[..., Any], n: StepNumber, c: Vector, memory: Branched
) -> Scalar:
    """How far the mean step of the optimizer from the two branches is from that of the equation.

    An optimizer that diverges without alternating, by more than a factor of e per step, has a point at which
    the equation, which looks back by its step, sees no gradient and stands still.
    """
    S, d, D = memory
    plus, _ = carrier.step(n, c + d, carrier.plus(S, D))
    minus, _ = carrier.step(n, c - d, carrier.plus(S, _minus(D)))
    c_dot, _ = velocity(jnp.asarray(n).astype(c.dtype), c, memory)
    return jnp.linalg.norm((plus + minus) / 2 - c - c_dot)


def alternation(d: Vector, lowest: Vector, plus: Vector, minus: Vector) -> Vector:
    """-2 (d - floor) + (hF+ - hF-)/2: what a step adds to d."""
    return (plus - minus) / 2 - 2 * (d - lowest)


def with_change(
    ago: "Branches", tau: Scalar, before: Vector, S: Memory, psi: Features, mu: Scalar
) -> tuple[Features, Features]:
    """psi with its alternating part half a step ago, and the change of its mean part, from those branches."""
    _, (dp, dq) = ago.arrive(tau, S, psi, -jnp.ones_like(tau), before, ago.gradients(before))
    p, q = psi
    return (p, half_a_step_ago(q, dq, mu)), (dp, jax.tree.map(jnp.zeros_like, dq))


def floored(c: Vector, floor: Scalar) -> Vector:
    """A fixed random vector, `floor` times as long as c."""
    xi = jax.random.normal(jax.random.key(0), c.shape, c.dtype)
    square = jnp.sum(c**2) / jnp.sum(xi**2)
    return floor * jnp.sqrt(jnp.where(square > 0, square, jnp.ones_like(square))) * xi


class Branches:
    """The two branches of an optimizer for a given half-difference d and alternating memory D.

    Features are pairs (mean of the branches, half their difference).
    """

    def __init__(self, carrier: Carrier, d: Vector, D: Memory):
        self.carrier, self.d, self.D = carrier, d, D

    def shorter(self, factor: Scalar) -> "Branches":
        return Branches(self.carrier, *times(1 / factor, (self.d, self.D)))

    def centre(self) -> Carrier:
        """The mean over the branches as a carrier of its own."""
        return self.carrier._replace(
            gradients=self.gradients,
            features=self.features,
            arrive=self.arrive,
            rate=lambda S, psi, change: self.carrier.rate(S, psi[0], change[0]),
            ahead=lambda S, psi, change, v: self.carrier.ahead(S, psi[0], change[0], v),
            update=lambda *at: _mean(*self.updates(*at)),
        )

    def gradients(self, c: Vector) -> Any:
        return self.carrier.gradients(c + self.d), self.carrier.gradients(c - self.d)

    def features(self, tau: Scalar, g: Any, c: Vector, S: Memory, _change: Any) -> Features:
        carrier = self.carrier
        plus = carrier.features(tau, g[0], c + self.d, carrier.plus(S, self.D), None)
        minus = carrier.features(tau, g[1], c - self.d, carrier.plus(S, _minus(self.D)), None)
        return _mean(plus, minus), _mean(plus, _minus(minus))

    def arrive(self, tau: Scalar, S: Memory, psi: Features, v: Scalar, c: Vector, g: Any) -> Any:
        change = jax.tree.map(jnp.zeros_like, psi)
        there = psi
        for _ in range(self.carrier.levels):
            S_there = self.carrier.ahead(S, psi[0], change[0], v)
            there = self.features(tau + v, g, c, S_there, None)
            change = jax.tree.map(lambda a, b: (b - a) / v.astype(a.dtype), psi, there)
        return there, change

    def next_memory(self, psi: Features) -> Memory:
        """D+, from half the difference of the branches' features."""
        still = jax.tree.map(jnp.zeros_like, psi)
        return _minus(self.carrier.ahead(self.D, psi, still, jnp.ones_like(self.d[0])))

    def updates(
        self,
        tau: Scalar,
        c: Vector,
        S: Memory,
        psi: Features,
        change: Features,
        v: Scalar,
        grown: Burst | None = None,
    ) -> tuple[Vector, Vector]:
        """h F of each branch at tau + v, with d and D held fixed; in a burst for v = 0 only."""
        carrier, (p, q), dp = self.carrier, psi, change[0]
        w = v - 1 / 2
        now = on_the_line(p, dp if grown is None else times(grown.in_present(), dp), w)
        before = carrier.ahead(S, p, dp, w, None if grown is None else grown.in_before)
        after = carrier.after(S, p, dp, v + 1 / 2, None if grown is None else grown.in_after)
        alternating = self.next_memory(q)
        plus = carrier.read(
            tau + w,
            c + self.d,
            jax.tree.map(jnp.add, now, q),
            carrier.plus(before, self.D),
            carrier.plus(after, _minus(alternating)),
        )
        minus = carrier.read(
            tau + w,
            c - self.d,
            jax.tree.map(jnp.subtract, now, q),
            carrier.plus(before, _minus(self.D)),
            carrier.plus(after, alternating),
        )
        return plus, minus


def _mean(a: Any, b: Any) -> Any:
    return jax.tree.map(lambda a, b: (a + b) / 2, a, b)


def _minus(tree: Any) -> Any:
    return jax.tree.map(jnp.negative, tree)
