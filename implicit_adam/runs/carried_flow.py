"""Runs of the equation with carried memory."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from implicit_adam.checks.numbers import check_count
from implicit_adam.checks.runs import check_order, check_saved, check_saves
from implicit_adam.fields.carried.carried_field import (
    HIGHEST_CARRIED_ORDER,
    carried_inputs,
    carrier_of,
    checked_noise,
    shown,
)
from implicit_adam.fields.carried.carrier import Carrier, Memory, carried_velocity
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.leaps import Leaps, RelativeToTheMove
from implicit_adam.runs.trajectory import Trajectory, all_finite
from implicit_adam.types import Batches, Loss, Params, Scalar, Vector

State = tuple[Vector, Memory]

# How many steps the optimizer takes itself at first, and what part of its path the solver may be wrong by.
START, TOLERANCE = 10, 1e-3


def carried_flow(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    steps: int,
    *,
    order: int = 1,
    batches: Batches = None,
    noise: Any = None,
    start: int = START,
    save_every: int = 1,
    save_at: Any = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    memories: bool = False,
) -> Trajectory:
    """The solution of the equation with carried memory, `carried_field`, over as many steps of the optimizer.

    Stays within O(h^2) of `iterate` with the same arguments, however long the memories are and however small
    eps is, at a cost that depends on the time constants h/(1-d) and the landscape but not on h. What changes
    within a few steps, however small h is, leaves a small O(h): the first steps, and for fixed decays and eps
    near 0 the change of a gradient's sign (Adam, .9, .999, 1e-8, on a small tanh network: slopes of 2 up to
    the first such change, 1.3 to 1.9 after it, at errors of 1e-7). Past the edge of stability, where iterates
    alternate, no smooth equation follows them.

    - `rule`, `loss`, `params`, `steps`, `batches`, `noise`, `order`: as in `carried_field`.
    - `start`: how many steps the optimizer takes itself before the equation takes over. At first its memory
      is as short as a step, and where a gradient changes its sign then, no equation can follow. Otherwise
      it matters little: of the distance travelled by Adam the error was 3e-4 to 5e-4 for every start from 0
      to 30 on the digits (full batch, h 1e-3, 1000 steps), and 1e-4 to 5e-4 on a small tanh network
      (h 2.5e-3).
    - `save_every`, or `save_at`, increasing step numbers up to `steps`: what to save, beside the start.
    - `solver`: by default leaps of many steps at one gradient each (`Leaps`), of order 1 only; any diffrax
      solver instead, at 2 gradients for each evaluation of the field (`diffrax.Bosh3()` at order 0).
    - `stepsize_controller`: by default, the error of a leap is kept below a thousandth of what it moves, and
      no leap is shorter than a step: one of one step *is* the optimizer's step. Any diffrax controller
      instead; times are t = n h, the state is (params, memories), flat vectors.
    - `memories`: whether to keep the memories as well, in the trajectory's field of that name.

    A diverging run, or a solver that gave up, is flagged (`finite`), never raised. Raises `ValueError` for
    bad arguments. Compiles once for all values of the hyperparameters and the start. Derivatives in any mode.
    """
    check_order(order, HIGHEST_CARRIED_ORDER)
    steps, save_every = check_saves(steps, save_every)
    start = check_count("start", start, least=0)
    if start >= steps:
        msg = (
            f"start = {start} of steps = {steps}: the optimizer takes its first `start` steps itself, which "
            f"leaves the equation nothing to do; take more steps, or start = {steps // 10}"
        )
        raise ValueError(msg)
    saved = check_saved(steps, save_every, save_at)
    early = tuple(n for n in saved.tolist() if n <= start)
    inputs = carried_inputs(rule, loss, params, batches, checked_noise(noise, batches))
    late = jnp.asarray(saved[len(early) :])
    return _carried_flow(inputs, early, late, order, start, solver, stepsize_controller, memories=memories)


@eqx.filter_jit
def _carried_flow(
    inputs: Inputs,
    early: tuple[int, ...],
    late: Int[Array, " late"],
    order: int,
    start: int,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
    *,
    memories: bool,
) -> Trajectory:
    h, carrier = inputs.rule.h, carrier_of(inputs)
    state, kept = _first_steps(carrier, inputs.theta, start, early)
    times = jnp.concatenate([jnp.asarray(early), late]).astype(h.dtype) * h
    tried = jnp.zeros((), int)
    if len(late):
        solution, tried = _solve(carrier, h, state, start * h, times[len(early) :], order, solver, controller)
        kept = jax.tree.map(lambda *x: jnp.concatenate(x), kept, solution)
    thetas, memory = kept
    points = jax.vmap(inputs.unraveled)(thetas)
    remembered = shown(inputs, memory, saves=True) if memories else None
    unknown = jnp.full_like(times, jnp.nan)
    return Trajectory(times, points, all_finite(thetas), unknown, unknown, unknown, remembered, tried)


def _first_steps(carrier: Carrier, theta: Vector, start: int, early: tuple[int, ...]) -> tuple[State, Any]:
    """The state after the optimizer's first steps, and those to be saved."""
    numbers = jnp.asarray(early)

    def keep(kept: Any, i: Any, state: State) -> Any:
        return jax.tree.map(lambda xs, x: xs.at[i].set(x, mode="drop"), kept, state)

    def advance(n: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
        state, kept = carry
        state = carrier.step(n, *state)
        # Overwritten until the step that is to be kept.
        return state, keep(kept, jnp.searchsorted(numbers, n + 1), state)

    state = (theta, carrier.start(theta))
    empty = jax.tree.map(lambda x: jnp.zeros((len(early), *x.shape), x.dtype), state)
    return jax.lax.fori_loop(0, start, advance, (state, keep(empty, 0, state)))


def _solve(
    carrier: Carrier,
    h: Scalar,
    state: State,
    begin: Scalar,
    times: Float[Array, " saves"],
    order: int,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
) -> tuple[Any, Int[Array, ""]]:
    """The states at the saved times, and how many steps the solver tried."""
    velocity = carried_velocity(carrier, order)
    leaps = solver is None and order > 0
    if solver is None:
        solver = Leaps(carrier, h) if leaps else diffrax.Bosh3()
    if controller is None:
        tolerance = max(TOLERANCE, 1e2 * float(jnp.finfo(h.dtype).eps))
        shortest = h if leaps else None
        # The coefficients of a PI controller damp the chatter of leaps at the limit of stability.
        controller = RelativeToTheMove(
            diffrax.PIDController(tolerance, 0, pcoeff=0.4, icoeff=0.3, factormax=2.0, dtmin=shortest)
        )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(
            lambda t, y, _: jax.tree.map(lambda x: x / h.astype(x.dtype), velocity(jnp.asarray(t) / h, *y))
        ),
        solver,
        begin,
        times[-1],
        h,
        state,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=controller,
        adjoint=diffrax.DirectAdjoint(),
        max_steps=2**16,
        throw=False,
    )
    solved = solution.result == diffrax.RESULTS.successful
    states = jax.tree.map(lambda y: jnp.where(solved, y, jnp.full_like(y, jnp.nan)), solution.ys)
    return states, solution.stats["num_steps"].astype(int)
