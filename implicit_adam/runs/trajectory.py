"""`Trajectory`, a recorded run, and `record`, which records one.

Points are kept at the saved steps; of error estimates and the like, the largest value since the last save.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from implicit_adam.reprs import line
from implicit_adam.types import Flag, Params, Scalar, StepNumber, Vector

State = TypeVar("State")


class Trajectory(NamedTuple):
    """A recorded run: its points at the saved times, the start included, with error estimates and flags.

    - `t`: (saves,) times n h.
    - `params`: the saved points, a pytree like the parameters with a leading axis of saves.
    - `finite`: whether every saved number is finite. False marks a run that diverged, or whose solver failed,
      or that has a traced hyperparameter outside its interval.
    - `step_error`: (saves,) the largest local error estimate (max norm) of the flow's solver among the
      intervals since the last save; zero for an optimizer, NaN where the solver has no estimate.
    - `validity`: (saves,) the largest ||f - f_0|| / ||f_0|| among the steps since the last save, the size of
      the correction over the leading flow (||h DF[v]|| / ||F|| at order 1). Trust the expansion below about
      0.1; above 1 it says nothing. Zero at the start; NaN for an optimizer, for `carried_flow`, and at order
      0, which has no correction.
    - `rounding`: (saves,) how far (max norm) the rounding of each step to the parameters' dtype has moved the
      run so far. Where it is as large as the distance travelled, the steps are too small for the dtype. NaN
      where a solver hides its own steps (`stepsize_controller`, `smooth_flow`).
    - `memories`: from `carried_flow(.., memories=True)`, the saved memories, as in `carried_field`.
    - `solver_steps`: how many steps the solver of a `carried_flow` tried, accepted or not. A leap, the
      default, takes one gradient (of every mini-batch). None for other runs.
    - `alternating`: with a closure, half the difference d between the two branches that the iterates
      alternate between, `params` + d and `params` - d; a pytree like `params`, zero at the steps that the
      optimizer takes itself.
    """

    t: Float[Array, " saves"]
    params: Params
    finite: Flag
    step_error: Float[Array, " saves"]
    validity: Float[Array, " saves"]
    rounding: Float[Array, " saves"]
    memories: PyTree = None
    solver_steps: Int[Array, ""] | None = None
    alternating: PyTree = None

    def __repr__(self) -> str:
        return line(self)


class Place(NamedTuple):
    """The point of a run, and the sum of what rounding has taken from its steps, both (p,)."""

    theta: Vector
    lost: Vector

    def moved(self, by: Vector, stored: Callable[[Vector], Vector]) -> "Place":
        """The place one step on, with the point rounded to the parameters' dtype by `stored`."""
        theta = stored(self.theta + by)
        return Place(theta, self.lost + (by - (theta - self.theta)))

    def seen(self) -> tuple[Vector, Scalar]:
        """The point, and the size (max norm) of what rounding has taken."""
        return self.theta, jnp.max(jnp.abs(self.lost))


class Watched(NamedTuple):
    """Two numbers watched at every step: the solver's error estimate, and the size of the correction."""

    step_error: Scalar
    validity: Scalar


def at_start(theta: Vector) -> Place:
    """The place at the start of a run, where rounding has taken nothing yet."""
    return Place(theta, jnp.zeros_like(theta))


def all_finite(tree: PyTree) -> Flag:
    """Whether every number of a pytree is finite."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(finite))


def record(
    step: Callable[[StepNumber, State], tuple[State, Watched]],
    start: State,
    steps: int,
    save_every: int,
    keep: Callable[[State], Any],
) -> tuple[Any, Watched]:
    """Run `state, watched = step(n, state)`; at every save keep `keep(state)` and the largest `watched`.

    The integer n is carried along, never recovered from a time, since floor(t/h) picks the wrong interval.
    """

    def advance(carry: tuple[State, Watched], n: Int[Array, ""]) -> tuple[tuple[State, Watched], None]:
        state, largest = carry
        state, watched = step(n, state)
        return (state, jax.tree.map(jnp.maximum, largest, watched)), None

    # Traced once for both its shapes and the loop.
    step = jax.jit(step, inline=True)
    shapes = jax.eval_shape(step, jnp.zeros((), int), start)[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def segment(state: State, first: Int[Array, ""]) -> tuple[State, tuple[Any, Watched]]:
        ns = first + jnp.arange(save_every)
        (state, largest), _ = jax.lax.scan(advance, (state, nothing), ns)
        return state, (keep(state), largest)

    _, saved = jax.lax.scan(segment, start, jnp.arange(0, steps, save_every))
    return jax.tree.map(lambda x0, x: jnp.concatenate([x0[None], x]), (keep(start), nothing), saved)


def saved_times(h: Scalar, steps: int, save_every: int) -> Float[Array, " saves"]:
    """n h for the saved n, each by one product rather than by repeated addition."""
    return jnp.arange(0, steps + 1, save_every).astype(h.dtype) * h
