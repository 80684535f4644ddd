"""`central_flow`: the mean path of an optimizer at the edge of stability, as a run."""

from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from implicit_adam.checks.numbers import check_count, is_traced
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.runs import check_saves
from implicit_adam.fields.carried.carried_field import carried_inputs, carrier_of
from implicit_adam.fields.carried.carrier import Memory, carried_velocity
from implicit_adam.fields.edge.central import Edge, Oscillation, mean_over, turned, with_covariance
from implicit_adam.inputs import Inputs
from implicit_adam.reprs import line
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.hyperparameters import made_up
from implicit_adam.rules.linear import linear_features, linear_part
from implicit_adam.rules.root_locus import crossing_at_minus_one, first_crossing
from implicit_adam.rules.scheduled import Scheduled
from implicit_adam.runs.carried_flow import first_steps
from implicit_adam.runs.carried_options import checked_start
from implicit_adam.runs.trajectory import all_finite
from implicit_adam.types import Flag, Loss, Params, Scalar, StepNumber, Vector

DIRECTIONS = 3
# Of the Runge-Kutta method, in a step of the optimizer: across the edge the centre relaxes within a step.
SUBSTEPS = 4
# Products for each direction, in a step.
ITERATIONS = 4
# How far from complementary a covariance may be, in parts of the slack.
TOLERANCE = 1e-3


class CentralFlow(NamedTuple):
    """The mean path at the saved times, with the start, and the covariance of the oscillation about it.

    - `t`: (saves,) times n h; `params`: the centre, a pytree with a leading axis of saves.
    - `mean_loss`: (saves,) the loss in the mean over the oscillation, E + <Hess E, Sigma> / 2.
    - `covariance`: (saves, k, k) X of Sigma = sum_ij X_ij u_i u_j^T; `directions`: u, a pytree with leading
      axes (saves, k), u_i . R u_j = delta_ij with R the denominator of the update.
    - `edge`: (saves, k) the top eigenvalues of R^-1/2 Hess E R^-1/2 over the threshold of stability.
      Above one the optimizer is past its edge and not held there: a start beyond it, or a run that diverged.
    - `finite`: whether every saved number is; False also where no covariance keeps the optimizer at its edge.

    Of the optimizer's own first steps covariance, directions and `edge` are zero.
    """

    t: Float[Array, " saves"]
    params: Params
    mean_loss: Float[Array, " saves"]
    covariance: Float[Array, "saves k k"]
    directions: PyTree
    edge: Float[Array, "saves k"]
    finite: Flag

    def __repr__(self) -> str:
        return line(self)


def central_flow(
    rule: AbstractRule,
    loss: Loss,
    params: Params,
    steps: int,
    *,
    directions: int | None = None,
    start: int | None = None,
    save_every: int = 1,
) -> CentralFlow:
    """The mean path of an optimizer at the edge of stability, and the covariance of its oscillation.

    The central flow of Cohen et al. (arXiv:2410.24206). Where `carried_flow(.., closure="two-branch")`
    follows an alternation through its bursts, this flow has only their mean: a covariance Sigma >= 0 in the
    span of the top eigenvectors, just large enough to keep the curvature from passing the threshold. For
    gradient descent and RMSProp it is the flow of that paper. Rules with a memory of the gradient, such as
    Adam, are new here, with their own threshold, and with their memories as states.

    - `rule`: a rule whose update is linear in one fading memory of the gradient: `GradientDescent`,
      `HeavyBall`, `Nesterov`, `RMSProp`, `Adam`, `AdamW`, `NAdam`, `Adagrad`, or one of your own.
    - `loss`, `params`, `steps`: as in `iterate`, in full batch.
    - `directions`: k, in how many top eigenvectors iterates may oscillate; three by default. More than are at
      the edge change nothing but the cost.
    - `start`: how many steps the optimizer takes itself first, at least one; ten by default.
    - `save_every`: how often to save, beside the start.

    A reference for small networks: each step takes 6 k + 4 Hessian-vector products, k (k+1) / 2 third
    derivatives and 18 gradients. A run that diverges, or that no covariance keeps at its edge, is flagged
    (`finite`). Compiles once for all values of the hyperparameters and the start; forward derivatives only.

    Raises `ValueError` for bad arguments and for what has no central flow here: Lion and Signum, whose update
    bends with its memory; AdEMAMix, which has two; a schedule, which moves the threshold; a rule that becomes
    unstable by turning before it alternates.
    """
    steps, save_every = check_saves(steps, save_every)
    check_rule(rule, AbstractRule)
    start = checked_start(start, steps, 1, None)
    check_count("start", start)
    inputs = carried_inputs(rule, loss, params, None, None, products=True)
    k = min(DIRECTIONS, inputs.theta.size) if directions is None else check_count("directions", directions)
    if k > inputs.theta.size:
        msg = f"directions = {k} of {inputs.theta.size} parameters do not exist; give at most that"
        raise ValueError(msg)
    threshold, settling = checked_edge(cast(AbstractRule, inputs.rule))
    saves = range(0, steps + 1, save_every)
    early = tuple(n for n in saves if n <= start)
    late = jnp.asarray([n for n in saves if n > start], int)
    return _central_flow(inputs, threshold, settling, early, late, start, k)


def checked_edge(rule: AbstractRule) -> tuple[Scalar, Scalar]:
    """The threshold at which iterates begin to alternate, and the time constant of the slack."""
    name = type(rule).__name__
    if isinstance(rule, Scheduled):
        msg = "a central flow has one threshold, which a schedule would move: give the rule without it"
        raise ValueError(msg)  # noqa: TRY004
    if bends(rule):
        msg = (
            f"the update of {name} is no linear function of its memory of the gradient: the mean over an "
            "oscillation is more than its mean gradient; take a rule such as ia.Adam(1e-3)"
        )
        raise ValueError(msg)
    part = linear_part(rule, jnp.inf)
    threshold, first = crossing_at_minus_one(part, rule.h), first_crossing(part, rule.h)
    alternates = first >= threshold * (1 - 1e-6)
    if not is_traced(alternates) and not alternates:
        msg = (
            f"{name} becomes unstable by turning, at {float(first):.4g}, before it alternates at "
            f"{float(threshold):.4g}: a central flow is that of iterates that alternate"
        )
        raise ValueError(msg)
    # Memories of squares have the scale zero, and may last for ever.
    remembers = (jnp.abs(part.scale) > 0) & (part.decay > 0)
    if not is_traced(remembers) and jnp.sum(remembers) > 1:
        msg = f"{name} has more than one memory of the gradient, and a central flow settles only one"
        raise ValueError(msg)
    fades = 1 - jnp.where(remembers, part.decay, jnp.zeros_like(part.decay))
    lag = jnp.sum(jnp.where(remembers, part.scale * part.decay, jnp.zeros_like(fades)) / fades**2)
    return jnp.where(alternates, threshold, jnp.nan), 1 + 4 * lag


def bends(rule: AbstractRule) -> bool:
    """Whether the readout is nonlinear in linear memories, found by trying made-up hyperparameters."""
    leaves, structure = jax.tree.flatten(rule)
    with jax.ensure_compile_time_eval():
        rule = structure.unflatten(
            map(jnp.asarray, made_up((jnp.shape(leaf), leaf.dtype) for leaf in leaves))
        )
        s = rule.features(jnp.asarray([0.7, -2.0, 1.3], leaves[0].dtype))
        along = tuple(x * jnp.ones_like(y) for x, y in zip(linear_features(rule), s, strict=True))

        def slope(s: Any) -> Vector:
            return jax.jvp(lambda s: rule.readout(s, s[0], 1), (s,), (along,))[1]

        return bool(jnp.any(jax.jvp(slope, (s,), (along,))[1] != 0))


class _State(NamedTuple):
    c: Vector
    memory: Memory
    oscillation: Oscillation
    distance: Scalar


@eqx.filter_jit
def _central_flow(
    inputs: Inputs,
    threshold: Scalar,
    settling: Scalar,
    early: tuple[int, ...],
    late: Int[Array, " late"],
    start: int,
    k: int,
) -> CentralFlow:
    carrier, objective = carrier_of(inputs), inputs.objective
    edge = Edge(cast(AbstractRule, inputs.rule), objective, carrier, threshold, settling)
    (c, memory), (kept, _) = first_steps(carrier, inputs.theta, start, early, None)
    key = jax.random.key(0)

    def advance(n: StepNumber, state: _State) -> _State:
        c, memory, old, distance = state
        # One more at random, since another eigenvalue may have become one of the largest.
        fresh = jax.random.normal(jax.random.fold_in(key, n), (1, c.size), c.dtype)
        starts = jnp.concatenate([old.directions, fresh])[: c.size]
        tau, g = jnp.asarray(n).astype(c.dtype), objective.gradients(c)[0]
        found = turned(old, edge, tau, c, memory, starts, ITERATIONS)
        oscillation, off = with_covariance(found, edge, tau, c, memory, g)
        velocity = carried_velocity(mean_over(oscillation, edge), 1)
        c, memory = midpoints(velocity, n, (c, memory))
        return _State(c, memory, oscillation, jnp.maximum(distance, off))

    def segment(state: _State, ends: tuple[Any, Any]) -> tuple[_State, Any]:
        state = jax.lax.fori_loop(*ends, advance, state)
        known = jnp.where(state.distance < TOLERANCE, 1.0, jnp.nan).astype(c.dtype)
        shown = jax.tree.map(lambda x: x * known, (state.c, state.oscillation))
        loss = objective.loss(shown[0], None) + shown[1].more_loss()
        return state, (shown[0], loss, shown[1].X, shown[1].directions, jnp.diag(shown[1].curvature()))

    none = jnp.zeros((k, k), c.dtype)
    drawn = jax.random.normal(key, (k, c.size), c.dtype)
    unknown = Oscillation(drawn, drawn, jnp.zeros((k, k, c.size), c.dtype), none)
    state = _State(c, memory, unknown, none[0, 0])
    begins = jnp.concatenate([jnp.asarray([start]), late])[:-1]
    _, (centres, losses, X, u, chi) = jax.lax.scan(segment, state, (begins, late))
    before = jax.lax.map(lambda c: objective.loss(c, None), kept)
    thetas, losses = jnp.concatenate([kept, centres]), jnp.concatenate([before, losses])
    X, u, chi = (jnp.concatenate([jnp.zeros((len(early), *x.shape[1:]), x.dtype), x]) for x in (X, u, chi))
    times = jnp.concatenate([jnp.asarray(early, int), late]).astype(c.dtype) * edge.rule.h
    points = jax.vmap(inputs.unraveled)
    return CentralFlow(
        times, points(thetas), losses, X, jax.vmap(points)(u), chi / threshold, all_finite((thetas, X))
    )


def midpoints(velocity: Any, n: StepNumber, state: tuple[Vector, Memory]) -> tuple[Vector, Memory]:
    """The state one optimizer step later, by the midpoint rule."""
    dtype = state[0].dtype

    def stage(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        # Both stages in one loop, so that the velocity is compiled once.
        begin, here = carry
        tau = jnp.asarray(n).astype(dtype) + jnp.asarray(i).astype(dtype) / (2 * SUBSTEPS)
        is_middle = i % 2 == 1
        by = jnp.where(is_middle, 1.0, 0.5).astype(dtype) / SUBSTEPS
        there = jax.tree.map(lambda x, dx: x + by * dx, begin, velocity(tau, *here))
        return jax.tree.map(lambda x, y: jnp.where(is_middle, y, x), begin, there), there

    return jax.lax.fori_loop(0, 2 * SUBSTEPS, stage, (state, state))[0]
