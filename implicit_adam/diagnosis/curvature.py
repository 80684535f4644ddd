"""The curvature that the optimizer feels at this moment, compared with its stability threshold.

A rule's denominator R and threshold are those of `preconditioned_sharpness` and `stability_threshold`. For a
transformation both are found by differentiating its update, with memories that have no sign (squares) held
fixed. A lasting change dg of the gradient changes the update by dg / R, and the share of each memory, with
decay d, in that response is a term of V(z) in `rules.root_locus`. This holds where the response is
elementwise and memories are fed by the gradient alone; elsewhere both are NaN.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.diagnosis.moment import Moment
from implicit_adam.fields.carried.carried_field import carrier_of
from implicit_adam.fields.carried.fading import weight
from implicit_adam.fields.carried.rule_carrier import held
from implicit_adam.inputs import Inputs
from implicit_adam.measures.sharpness import TopEigenvalue, extreme, search_for
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.feature_sums import read
from implicit_adam.rules.from_optax.packed import packed_memories
from implicit_adam.rules.from_optax.state import away_from_zero
from implicit_adam.rules.linear import LinearPart, denominator, linear_part
from implicit_adam.rules.root_locus import first_crossing
from implicit_adam.rules.scheduled import unscheduled
from implicit_adam.types import Scalar, Vector

# A response counts as elementwise if it differs from one by less than this part of its largest entry.
ELEMENTWISE = 1e-3


class Curvature(NamedTuple):
    """The k largest eigenvalues of R^-1/2 Hess E R^-1/2 with residuals, and curvatures in two directions.

    `along_update` is u^T Hess E u / (u^T R u) for the velocity u. `in_batch` is the mean over mini-batches of
    the same for each one's own Hessian and u = g_b / R. All have the unit 1/time, as the `threshold`.
    """

    top: Float[Array, " k"]
    residual: Float[Array, " k"]
    along_update: Scalar
    in_batch: Scalar
    threshold: Scalar


def curvature(now: Moment, velocity: Vector, k: int, iterations: int) -> Curvature:
    """The `Curvature` at a moment of a run, with R from the optimizer's own memory of squared gradients.

    E is the mean over the mini-batches.
    """
    R, threshold = _felt(now)
    threshold = jnp.where(_known(R), threshold, jnp.full_like(threshold, jnp.nan))
    return felt_with(now, velocity, R, k, iterations)._replace(threshold=threshold)


def felt_with(now: Moment, velocity: Vector, R: Vector, k: int, iterations: int) -> Curvature:
    """The `Curvature` with this R, and no threshold (NaN); all NaN unless R is finite and positive."""
    known, found = _known(R), _top(now.inputs, R, k, iterations)

    def told(x: Any) -> Any:
        return jnp.where(known, x, jnp.full_like(x, jnp.nan))

    top, residual = (jnp.atleast_1d(told(x)) for x in (found.value, found.residual))
    along, in_batch = told(_along(now, velocity, R)), told(_in_batch(now, R))
    return Curvature(top, residual, along, in_batch, jnp.full_like(along, jnp.nan))


def edge(now: Moment, iterations: int) -> Scalar:
    """The largest eigenvalue over the threshold, above which updates alternate and grow; NaN if unknown."""
    R, threshold = _felt(now)
    top = _top(now.inputs, R, 1, iterations).value
    return jnp.where(_known(R), top / threshold, jnp.full_like(top, jnp.nan))


def _felt(now: Moment) -> tuple[Vector, Scalar]:
    """R, and the stability threshold."""
    rule = isinstance(now.inputs.rule, AbstractRule)
    R, part, h = _of_rule(now) if rule else _of_transformation(now)
    return R, first_crossing(part, h)


def _known(R: Vector) -> Any:
    return jnp.all(jnp.isfinite(R) & (R > 0))


def _top(inputs: Inputs, R: Vector, k: int, iterations: int) -> TopEigenvalue:
    scale = 1 / jnp.sqrt(jnp.where(_known(R), R, jnp.ones_like(R)))
    return extreme(inputs, scale, search_for(inputs.params, k, None, iterations, 0), smallest=False)


def _along(now: Moment, u: Vector, R: Vector) -> Scalar:
    """u^T Hess E u / (u^T R u), at most the largest eigenvalue."""
    gradient = jax.grad(now.inputs.objective.full_batch().loss)
    moved = jax.jvp(lambda theta: gradient(theta, None), (now.inputs.theta,), (u,))[1]
    return u @ moved / (u @ (R * u))


def _in_batch(now: Moment, R: Vector) -> Scalar:
    """The mean over b of u^T Hess E_b u / (u^T R u), with u = g_b / R; NaN in full batch.

    For R = 1 it is the batch sharpness of Andreyev and Beneventano (2024, arXiv:2412.20553), which SGD keeps
    near its threshold 2/h.
    """
    inputs = now.inputs
    if inputs.batches is None:
        return jnp.full_like(inputs.rule.h, jnp.nan)

    def of_batch(batch: Any) -> Scalar:
        gradient = jax.grad(inputs.objective.loss)
        g = gradient(inputs.theta, batch)
        moved = jax.jvp(lambda theta: gradient(theta, batch), (inputs.theta,), (g / R,))[1]
        return (g / R) @ moved / (g @ (g / R))

    return jnp.mean(jax.lax.map(of_batch, inputs.batches))


def _of_rule(now: Moment) -> tuple[Vector, LinearPart, Scalar]:
    """At the last step taken."""
    inputs, n = now.inputs, now.n - 1
    rule, carrier = unscheduled(inputs.rule, now.n), carrier_of(inputs)
    psi = carrier.gradients(inputs.theta)
    # Of a decay of zero, whose state nobody reads, it is the present psi.
    memory = carrier.after(now.memory, psi, jax.tree.map(jnp.zeros_like, psi), jnp.zeros_like(n))
    kernels = rule.kernels(n)
    s = read(kernels, held(kernels, memory, psi))
    return denominator(rule, s, inputs.theta, n), linear_part(rule, n), rule.h


def _of_transformation(now: Moment) -> tuple[Vector, LinearPart, Scalar]:
    """R, the linear part of the update, and h, found by differentiating a transformation's update.

    A change of the present gradient alone changes the update by delta + sum_i (1-d_i) c_i, where c_i is the
    effect of the same change of all of memory i.
    """
    inputs, theta = now.inputs, now.inputs.theta
    packed = packed_memories(inputs.rule.tx, inputs.objective.params)
    kinds, decays = packed.kinds, packed.decays
    signed = [not kind.nonnegative for kind in kinds]
    g = away_from_zero(jax.grad(inputs.objective.full_batch().loss)(theta, None))

    def psi(g: Vector) -> list[Vector]:
        new = packed.update(now.n, g, [jnp.zeros_like(y) for y in now.memory], theta)[1]
        return [y / weight(d) for y, d in zip(new, decays, strict=True)]

    def update(g: Vector, memory: list[Vector], theta: Vector) -> Vector:
        return -packed.update(now.n, g, memory, theta)[0]

    def response(dg: Vector) -> tuple[Vector, list[Vector]]:
        """Delta, and c_i for the memories that have a sign."""
        moved = jax.jvp(psi, (g,), (dg,))[1]
        none = [jnp.zeros_like(y) for y in now.memory]

        def along(dg: Vector, d_memory: list[Vector]) -> Vector:
            here = (g, now.memory, theta)
            return jax.jvp(update, here, (dg, d_memory, jnp.zeros_like(theta)))[1]

        def through(i: int) -> Vector:
            only = [moved[i] if j == i else y for j, y in enumerate(none)]
            return along(jnp.zeros_like(dg), only) / decays[i]

        # Squares are held fixed: what the gradient adds to one is subtracted from its old value.
        held = [y if s else -weight(d) / d * x
                for s, y, d, x in zip(signed, none, decays, moved, strict=True)]  # fmt: skip
        c = [through(i) for i in range(len(kinds)) if signed[i]]
        alone = along(dg, held)
        remembered = [weight(d) for d, s in zip(decays, signed, strict=True) if s]
        return alone - sum((w * x for w, x in zip(remembered, c, strict=True)), jnp.zeros_like(alone)), c

    if any(kind.decay == 0 or (s and kind.level > 0) for kind, s in zip(kinds, signed, strict=True)):
        return _unknown(now)
    delta, c = response(jnp.ones_like(theta))
    total = sum(c, start=delta)
    turn = jnp.sign(jnp.cos(1 + jnp.arange(theta.size, dtype=theta.dtype)))
    turned_delta, turned = response(turn)
    off = jnp.max(jnp.abs(sum(turned, start=turned_delta) - turn * total))
    elementwise = off <= ELEMENTWISE * jnp.max(jnp.abs(total))
    R = jnp.where(elementwise, 1 / total, jnp.full_like(total, jnp.nan))
    shares = jnp.stack([jnp.sum(x) for x in (delta, *c)]) / jnp.sum(total)
    own = [d.astype(theta.dtype) for d, s in zip(decays, signed, strict=True) if s]
    decay = jnp.stack([jnp.zeros_like(now.n), *own])
    of_point = jax.jvp(lambda theta: update(g, now.memory, theta), (theta,), (jnp.ones_like(theta),))[1]
    return R, LinearPart(shares * (1 - decay), decay, jnp.mean(of_point)), inputs.rule.h


def _unknown(now: Moment) -> tuple[Vector, LinearPart, Scalar]:
    nothing = jnp.full_like(now.inputs.theta, jnp.nan)
    one = jnp.ones((1,), nothing.dtype)
    return nothing, LinearPart(one, jnp.zeros_like(one), jnp.zeros_like(one[0])), now.inputs.rule.h
