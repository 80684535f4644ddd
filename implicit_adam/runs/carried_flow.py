"""`carried_flow`: solves the equation that carries the optimizer's memories as states."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from implicit_adam.checks.numbers import check_switch
from implicit_adam.checks.runs import check_order, check_saved, check_saves
from implicit_adam.fields.carried.carried_field import (
    HIGHEST_CARRIED_ORDER,
    carried_inputs,
    carrier_of,
    checked_noise,
    shown,
)
from implicit_adam.fields.carried.carrier import Carrier, Memory, carried_velocity
from implicit_adam.fields.carried.two_branch import left_by, two_branch_velocity, two_branches
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.carried_options import (
    MOST,
    check_closure_ends,
    check_sampled,
    check_solving,
    checked_floor,
    checked_start,
)
from implicit_adam.runs.leaps import Leaps, RelativeToTheMove
from implicit_adam.runs.mini_batch_noise import Noise, remembering, sampled_run
from implicit_adam.runs.trajectory import Trajectory, all_finite
from implicit_adam.types import Batches, Loss, Params, Scalar, Vector

State = tuple[Vector, Memory]

# The solver's error may be this fraction of the length of the path.
TOLERANCE = 1e-3
# A closure has lost the optimizer if a step leads elsewhere by more than this part of the whole way.
LEFT = 1 / 2


def carried_flow(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    steps: int,
    *,
    order: int = 1,
    batches: Batches = None,
    noise: Any = None,
    key: Any = None,
    replacement: bool = False,
    start: int | None = None,
    save_every: int = 1,
    save_at: Any = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    memories: bool = False,
    closure: str | None = None,
    floor: Any = None,
) -> Trajectory:
    """Solve the equation with the optimizer's memories as states (`carried_field`) for `steps` of its steps.

    The solution stays within O(h^2) of `iterate` with the same arguments, however long the memories are and
    however small eps is. The cost depends on the time constants h/(1-d) and the landscape, not on h. Anything
    that changes within a few steps, however small h is, leaves a small O(h) error: the first steps, and, with
    fixed decays and eps near 0, a gradient that changes its sign (Adam, .9, .999, 1e-8, on a small tanh
    network: slopes of 2 up to the first such change, 1.3 to 1.9 after it, at errors of 1e-7). Past the edge
    of stability the iterates alternate, and no single smooth curve follows them; `closure` follows two.

    - `rule`, `loss`, `params`, `steps`, `batches`, `noise`, `order`: as in `carried_field`.
    - `key`, e.g. `jax.random.key(0)`: simulates one random run in mini-batches instead of the mean run. The
      memories then see Gaussian gradients with the mini-batches' covariance (`runs.mini_batch_noise`), at 2
      gradients a leap. `jax.vmap` over keys gives the mean and the spread of runs, including the effect of
      the spread on the mean. For rules only, at order 1, with the default solver. With `noise` above 1 the
      first steps have the noise of the batches given. Unlike the mean run, it is no cheaper than a real run.
    - `replacement`: whether a sampled run draws its mini-batches with replacement; by default every epoch
      goes through all of them.
    - `start`: how many steps the optimizer takes itself before the equation takes over: ten by default, in a
      sampled run rounded up to whole epochs. At first the memory is only a step long, and no equation can
      follow a gradient that changes its sign then. Otherwise the choice matters little: relative to the
      distance travelled by Adam the error was 3e-4 to 5e-4 for every start from 0 to 30 on the digits (full
      batch, h 1e-3, 1000 steps), and 1e-4 to 5e-4 on a small tanh network (h 2.5e-3).
    - `save_every`, or `save_at` (increasing step numbers up to `steps`): what to save, besides the start.
    - `solver`: by default `Leaps`, each across many steps at the cost of one gradient (order 1 only). Or any
      diffrax solver, at 2 gradients for each evaluation of the field (`diffrax.Bosh3()` at order 0).
    - `stepsize_controller`: by default, the error of a leap is kept below a thousandth of its length, and no
      leap is shorter than one step; a leap of one step *is* the optimizer's step. Or any diffrax controller:
      times are t = n h, and the state is (params, memories), as flat vectors.
    - `memories`: whether to save the memories as well, in the trajectory's field `memories`.
    - `closure`: "two-branch" continues through the edge of stability. It solves for the centre c of the
      alternating iterates (`params` in the trajectory) and for half the difference d between their two
      branches (`alternating`); the mean loss of the optimizer there is (loss(c + d) + loss(c - d)) / 2. For
      full batch only. It takes 4 gradients for each evaluation of the field, 2 at order 0, and at least one
      step of the solver (`diffrax.Bosh3()` by default) per step of the optimizer, at most 65535 of them. d
      starts as the alternating part of the steps that the optimizer takes next; its sign does not tell which
      steps are the even ones.
      Only alternation of period two is followed, not an unstable mode that rotates.
    - `floor`: with the closure, the smallest size of d, relative to that of the parameters; by default
      eps^(3/4), with eps the rounding of their dtype (1.8e-12 in float64). It decides when the first burst
      comes: on the 4-layer tanh network of `reproduce edge` the centre is .03% off at step 95 with 1e-10,
      1e-12 and 1e-14, and in the first burst (step 110) by 1.4, .8 and 1.2%; with 1.5e-8 by .04 and 2.0%.

    A run that diverges, or whose solver gives up, is flagged (`finite`), never raised; so is a closure at
    whose end a step of the optimizer leads elsewhere by more than half of the whole way. Raises `ValueError`
    for bad arguments. Compiles once for all values of the hyperparameters and the start. Differentiable in
    forward and reverse mode; a sampled run with its leaps held fixed, and not in `noise`, which moves its
    epochs (`RuntimeError`).
    """
    check_order(order, HIGHEST_CARRIED_ORDER)
    replacement, memories = check_switch("replacement", replacement), check_switch("memories", memories)
    check_solving(solver, stepsize_controller)
    steps, save_every = check_saves(steps, save_every)
    saved = check_saved(steps, save_every, save_at)
    inputs = carried_inputs(rule, loss, params, batches, checked_noise(noise, batches))
    start = checked_start(start, steps, 1 if key is None else inputs.objective.m, noise)
    early = tuple(n for n in saved.tolist() if n <= start)
    late = jnp.asarray(saved[len(early) :])
    floor = checked_floor(closure, floor, inputs)
    if floor is not None:
        check_closure_ends(int(saved[-1]) - start, stepsize_controller)
    solving = Solving(order, solver, stepsize_controller)
    check_sampled(key, inputs, order, solver, replacement=replacement)
    drawn = None if key is None else (steps, replacement)
    return _carried_flow(inputs, early, late, start, solving, floor, key, drawn, memories=memories)


class Solving(NamedTuple):
    """The order of the equation, its diffrax solver and its step size controller; None for the defaults."""

    order: int
    solver: diffrax.AbstractSolver | None
    controller: diffrax.AbstractStepSizeController | None


@eqx.filter_jit
def _carried_flow(
    inputs: Inputs,
    early: tuple[int, ...],
    late: Int[Array, " late"],
    start: int,
    solving: Solving,
    floor: Scalar | None,
    key: Any,
    drawn: tuple[int, bool] | None,
    *,
    memories: bool,
) -> Trajectory:
    h, carrier = inputs.rule.h, carrier_of(inputs)
    noise = None
    if drawn is not None:
        steps, replacement = drawn
        noise = sampled_run(carrier, inputs.objective, steps, key, replacement=replacement)
    state, kept = first_steps(carrier, inputs.theta, start, early, noise)
    if noise is not None:
        noise = remembering(carrier, noise, start, *state)
    velocity = carried_velocity(carrier, solving.order)
    if floor is not None:
        state = two_branches(carrier, start, *state, floor)
        # The steps that the optimizer takes itself have one branch only.
        kept = (kept[0], (kept[1], jnp.zeros_like(kept[0]), jax.tree.map(jnp.zeros_like, kept[1])))
        velocity = two_branch_velocity(carrier, solving.order, floor)
    times = jnp.concatenate([jnp.asarray(early), late]).astype(h.dtype) * h
    tried = jnp.zeros((), int)
    if len(late):
        if solving.solver is None and solving.order > 0 and floor is None:
            solving = solving._replace(solver=Leaps(carrier, h, noise))
        solution, tried = solved(velocity, h, state, start * h, times[len(early) :], solving, floor)
        kept = jax.tree.map(lambda *x: jnp.concatenate(x), kept, solution)
    thetas, memory = kept
    half, finite = None, all_finite(thetas)
    if floor is not None:
        if len(late):
            end = jax.tree.map(lambda x: x[-1], (thetas, memory))
            gone = jnp.max(jnp.linalg.norm(thetas - inputs.theta[None], axis=1))
            finite &= ~(left_by(carrier, velocity, late[-1], *end) > LEFT * gone)
        memory, half, _ = memory
        half = jax.vmap(inputs.unraveled)(half)
    remembered = shown(inputs, memory, saves=True) if memories else None
    unknown = jnp.full_like(times, jnp.nan)
    points = jax.vmap(inputs.unraveled)(thetas)
    return Trajectory(times, points, finite, unknown, unknown, unknown, remembered, tried, half)


def first_steps(
    carrier: Carrier, theta: Vector, start: int, early: tuple[int, ...], noise: Noise | None
) -> tuple[State, Any]:
    """The state after the optimizer's first `start` steps, and the states among them that are to be saved."""
    numbers = jnp.asarray(early)

    def keep(kept: Any, i: Any, state: State) -> Any:
        return jax.tree.map(lambda xs, x: xs.at[i].set(x, mode="drop"), kept, state)

    def advance(n: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
        state, kept = carry
        state = carrier.step(n, *state, None if noise is None else partial(noise.of_step, n))
        # The row is overwritten until the step that is to be saved.
        return state, keep(kept, jnp.searchsorted(numbers, n + 1), state)

    state = (theta, carrier.start(theta))
    empty = jax.tree.map(lambda x: jnp.zeros((len(early), *x.shape), x.dtype), state)
    return jax.lax.fori_loop(0, start, advance, (state, keep(empty, 0, state)))


def solved(
    velocity: Callable[..., Any],
    h: Scalar,
    state: Any,
    begin: Scalar,
    times: Float[Array, " saves"],
    solving: Solving,
    floor: Scalar | None,
) -> tuple[Any, Int[Array, ""]]:
    """The states at the saved times, and how many steps the solver tried."""
    _, solver, controller = solving
    leaps = isinstance(solver, Leaps)
    if controller is None:
        tolerance = max(TOLERANCE, 1e2 * float(jnp.finfo(h.dtype).eps))
        # The coefficients of a PI controller damp the chatter of leaps at the limit of stability.
        pid = diffrax.PIDController(
            tolerance,
            0,
            pcoeff=0.4,
            icoeff=0.3,
            factormax=2.0,
            # With two branches, longer steps would miss the growth of an alternation that is still small,
            # and shorter steps would follow the rounding of a centre that stands still.
            dtmin=h if leaps else None if floor is None else h / 8,
            dtmax=None if floor is None else h,
        )
        controller = RelativeToTheMove(pid)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(
            lambda t, y, _: jax.tree.map(lambda x: x / h.astype(x.dtype), velocity(jnp.asarray(t) / h, *y))
        ),
        diffrax.Bosh3() if solver is None else solver,
        begin,
        times[-1],
        h if floor is None else h / 2,
        state,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=controller,
        adjoint=diffrax.DirectAdjoint(),
        max_steps=MOST,
        throw=False,
    )
    successful = solution.result == diffrax.RESULTS.successful
    states = jax.tree.map(lambda y: jnp.where(successful, y, jnp.full_like(y, jnp.nan)), solution.ys)
    return states, solution.stats["num_steps"].astype(int)
