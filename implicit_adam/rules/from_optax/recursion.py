"""The memories of an optax transformation as linear recursions, found and checked by running it.

    y_(n+1) = d y_n + (1-d) psi_n,        psi_n = psi(g_n, theta_n, n, the other memories at step n)

Each memory has one number d in [0, 1], the same for every state, gradient, point and step number (d = 1 is a
sum, whose weight is 1 instead of 1-d). Memories are ordered in levels: psi of one may depend on memories of
lower levels, such as the momentum of preconditioned gradients, or the variance about a mean.

The recursion is checked at states that a run with random gradients has reached, also at late step numbers:
by derivatives of the new state with respect to the old and, since a switch has no derivative, by finite
differences. All else is refused with a reason: a maximum, a decay that changes, a transformation that works
differently at some steps than at others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.loops import in_rows
from implicit_adam.programs.dependence import dependence, levels
from implicit_adam.programs.quickly import compiled_quickly
from implicit_adam.rules.from_optax.any_time import AnyTime, Memories, at_any_time
from implicit_adam.rules.from_optax.checks import refusal
from implicit_adam.rules.from_optax.found_once import found_once
from implicit_adam.rules.from_optax.probe import behaviour
from implicit_adam.rules.from_optax.rule import raveled_transformation
from implicit_adam.rules.from_optax.smaller import smaller
from implicit_adam.rules.from_optax.state import initial_state
from implicit_adam.types import Scalar, Vector
from implicit_adam.vectors import ravel, unravel_like

# After how many steps the state of a run is examined, and the size and sign of its mean gradient.
REACHED = ((7, 1.0), (40, -1e-3))
LATE = (10_000.0, 1_000_000.0)
# A gradient of this size is tried, too: what happens to large ones alone is no memory either.
LARGE = 1e4
# Over these steps, all else being equal, an update may jump by JUMP of its size at most FEW times.
SWITCHING, JUMP, FEW = np.arange(1000.0, 1064.0), 0.3, 2
ROUNDING = 1e3


class Kind(NamedTuple):
    """The kind of a memory: decay d, level (from 0), whether psi >= 0, whether psi reads the gradient."""

    decay: float
    level: int
    nonnegative: bool
    of_gradient: bool
    dtype: Any


class Recursions(NamedTuple):
    """A transformation `at` any time, with the kind and the shape of each memory."""

    at: AnyTime
    kinds: tuple[Kind, ...]
    shapes: tuple[tuple[int, ...], ...]


class _Seen(NamedTuple):
    """One step from one state, an entry for each memory: d, and relative sizes of what should vanish.

    - `spread`: how far d is from one number; `bent`: y_(n+1) - d y_n - (1-d) psi by differences.
    - `least`: the smallest (1-d) psi; `finite`: whether all numbers are.
    - `off`: how far a step at a floating step number is from the transformation's own.
    """

    decay: Any
    spread: Any
    bent: Any
    least: Any
    off: Any
    finite: Any


def recursions(tx: optax.GradientTransformation, params: Any) -> Recursions:
    """The recursions of `tx` on parameters of these shapes and dtypes; `ValueError` if there are none."""
    found = _recursions(tx, params)
    if isinstance(found, str):
        raise ValueError(found)  # noqa: TRY004
    return found


@found_once
def _recursions(tx: optax.GradientTransformation, params: Any) -> Recursions | str:
    """The recursions, or why there are none."""
    behaves = behaviour(tx, params)
    if behaves is None:
        return (
            "this transformation holds traced values, so that its memories cannot be looked at; make it "
            "outside of jit, vmap and derivatives (the h of ia.Optax(h, tx) may be traced), or take a rule "
            "such as ia.Adam, whose hyperparameters may be traced"
        )
    wrong = refusal(behaves)
    if wrong is None and behaves.clock.unpredictable:
        wrong = (
            f"what this transformation keeps in {', '.join(behaves.clock.unpredictable)} is no memory of "
            "gradients and counts no steps (a random key? a flag set by gradients?): it has no equation here"
        )
    if wrong is None and behaves.clock.period > 1:
        wrong = (
            f"this transformation repeats itself every {behaves.clock.period} steps only (it accumulates "
            "gradients?); pass the transformation inside, with the mini-batches that it accumulates as one"
        )
    if wrong is not None:
        return wrong
    # Tried on few parameters, and used for all.
    fewer, kinds = smaller(tx, params), None
    if [x.shape for x in jax.tree.leaves(fewer)] != [x.shape for x in jax.tree.leaves(params)]:
        found = _recursions(tx, fewer)
        if isinstance(found, str):
            return found
        kinds = found.kinds
    with jax.ensure_compile_time_eval():
        unravel = unravel_like(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params))
    theta = jax.eval_shape(ravel, params)
    try:
        at = at_any_time(raveled_transformation(tx, unravel), theta, behaves)
    except ValueError as error:
        return str(error)
    kinds = _kinds(at, theta) if kinds is None else kinds
    if isinstance(kinds, str):
        return kinds
    return Recursions(at, kinds, tuple(y.shape for y in _empty(at, theta)))


def _empty(at: AnyTime, theta: Any) -> Memories:
    """The shapes of the memories on vectors like theta."""
    return jax.eval_shape(lambda theta: at.memories(at.tx.init(theta)), theta)


def _kinds(at: AnyTime, theta: Any) -> tuple[Kind, ...] | str:
    """The kind of each memory, or why they are not linear recursions."""
    # Traced once for all the places where it is run.
    at = at._replace(tx=optax.GradientTransformation(at.tx.init, jax.jit(at.tx.update)))
    names, memories = at.memory_names, _empty(at, theta)

    def late(memories: Memories, g: Vector) -> Memories:
        return at.update(jnp.asarray(LATE[0], g.dtype), g, memories, jnp.zeros_like(g))[1]

    try:
        depends = dependence(late, memories, theta)
    except (TypeError, IndexError) as error:
        return (
            "this transformation cannot be run at a step number that is no integer "
            f"({str(error).splitlines()[0]}); write its schedule as optax.scale_by_schedule"
        )
    level = levels(depends[:, :-1])
    if level is None:
        return (
            f"memories of this transformation feed each other, which has no equation here: {', '.join(names)}"
        )
    zeros = np.zeros(theta.shape, theta.dtype)
    seen, jumps = jax.tree.map(np.asarray, compiled_quickly(_program(at, level), zeros)(zeros))
    wrong = _wrong(seen, jumps, names, ROUNDING * float(jnp.finfo(theta.dtype).eps))
    if wrong is not None:
        return wrong
    of_gradient = depends[:, -1]
    for _ in level:
        of_gradient = of_gradient | (depends[:, :-1] @ of_gradient)
    nonnegative = np.all(seen.least >= 0, axis=0)
    rows = zip(seen.decay[0], level, nonnegative, of_gradient, memories, strict=True)
    return tuple(Kind(float(d), l, bool(sign), bool(of), jnp.dtype(y.dtype)) for d, l, sign, of, y in rows)


def _wrong(seen: Any, jumps: np.ndarray, names: list[str], rounding: float) -> str | None:
    """Why the memories are not linear recursions; None if they are."""
    if not np.all(seen.finite):
        return "this transformation gives numbers that are not finite, tried with random gradients"
    if np.max(seen.off) > rounding or np.sum(jumps > JUMP) > FEW:
        return (
            "this transformation does something else at some steps than at others, or rounds its step "
            "number, so that no smooth equation follows it; ia.iterate runs it as it is"
        )
    decay = seen.decay[0]
    wrong = np.any(np.abs(seen.decay - decay) > 0.01 * np.abs(1 - decay) + rounding, axis=0)
    wrong |= np.any((seen.spread > rounding) | (seen.bent > rounding), axis=0)
    wrong |= (decay < 0) | (decay > 1)
    if not np.any(wrong):
        return None
    which = ", ".join(name for name, is_wrong in zip(names, wrong, strict=True) if is_wrong)
    return (
        f"the memory {which} of this transformation does not fade by one and the same factor a step: a "
        "maximum (amsgrad, adamax), a decay that changes with the step number or the state (adafactor, "
        "yogi), a product of matrices? Only linear recursions y <- d y + (1-d) psi(g) are carried; "
        "ia.iterate runs it as it is"
    )


def without(level: tuple[int, ...] | list[int], this: int, memories: Memories) -> Memories:
    """The memories with zeros at one level, so that its next values are (1-d) psi."""
    return [jnp.zeros_like(y) if l == this else y for l, y in zip(level, memories, strict=True)]


def _program(at: AnyTime, level: list[int]) -> Callable[[Vector], tuple[_Seen, Any]]:
    """Zeros like the parameters -> what is seen at every state, and relative jumps of updates."""

    def program(zeros: Vector) -> tuple[_Seen, Any]:
        key = jax.random.key(0)

        def random(key: Any, numbers: Any) -> Any:
            return jax.vmap(
                lambda i: jax.random.normal(jax.random.fold_in(key, i), zeros.shape, zeros.dtype)
            )(jnp.asarray(numbers))

        begin, gradient, point, direction = random(key, (2, 3, 4, 5))

        def run(steps: Any, size: Any) -> tuple[Memories, Any]:
            """The memories after so many steps, and what the transformation itself does next."""

            def step(n: Any, state: Any) -> Any:
                g, theta = random(jax.random.fold_in(key, n), (0, 1))
                new = at.tx.update(size * (g + 1), state, theta)[1]
                return jax.tree.map(lambda x, old: jnp.asarray(x).astype(old.dtype), new, state)

            start = jax.tree.map(jnp.asarray, initial_state(at.tx, begin))
            state = jax.lax.fori_loop(0, steps, step, start)
            own, new = at.tx.update(size * gradient, state, point)
            return at.memories(state), (jnp.asarray(own), at.memories(new))

        def sight(n: Scalar, size: Scalar, memories: Memories) -> tuple[_Seen, Any]:
            return _sight(at, level, n, size * gradient, memories, point)

        # Each is one program for all rows: compiling them is what takes the time.
        steps, sizes = (jnp.asarray(x) for x in zip(*REACHED, strict=True))
        sizes = sizes.astype(zeros.dtype)
        reached, own = in_rows(run, steps, sizes)
        numbers = jnp.concatenate([steps.astype(zeros.dtype), jnp.asarray([*LATE, LATE[0]], zeros.dtype)])
        late = jnp.asarray([*range(len(REACHED)), *[len(REACHED) - 1] * (len(LATE) + 1)])
        given = sizes[late].at[-1].set(LARGE)
        seen, found = in_rows(sight, numbers, given, jax.tree.map(lambda x: x[late], reached))
        found = jax.tree.map(lambda x: x[: len(REACHED)], found)
        seen = seen._replace(off=seen.off.at[: len(REACHED)].set(jax.vmap(_far)(found, own)))
        memories, size = jax.tree.map(lambda x: x[-1], (reached, sizes))

        def projected(n: Scalar) -> Any:
            u, new = at.update(n, size * gradient, memories, point)
            return jnp.stack([jnp.sum(u * direction), *(jnp.sum(x) for x in new)])

        xs = in_rows(projected, jnp.asarray(SWITCHING, zeros.dtype))
        largest = jnp.max(jnp.abs(xs), axis=0, keepdims=True)
        jumps = jnp.abs(xs[2:] - 2 * xs[1:-1] + xs[:-2]) / jnp.where(largest > 0, largest, 1)
        return seen, jnp.max(jumps, axis=1)

    return program


def _sight(
    at: AnyTime, level: list[int], n: Scalar, g: Vector, memories: Memories, theta: Vector
) -> tuple[_Seen, Any]:
    """What is seen of step n, and the step itself."""

    def after(memories: Memories) -> Memories:
        return at.update(n, g, memories, theta)[1]

    u, new = at.update(n, g, memories, theta)
    rows: list[Any] = [None] * len(memories)
    for this in range(1 + max(level, default=-1)):
        mine = [i for i, l in enumerate(level) if l == this]

        def along(dots: Memories) -> Memories:
            return jax.jvp(after, (memories,), (dots,))[1]

        dots = [
            jnp.stack([jnp.ones_like(y), _uneven(y)] if l == this else [jnp.zeros_like(y)] * 2)
            for l, y in zip(level, memories, strict=True)
        ]
        ones, others = zip(*jax.vmap(along)(dots), strict=True)
        zeroed = after(without(level, this, memories))
        for i in mine:
            d = jnp.ravel(ones[i])[0]
            size = jnp.max(jnp.abs(new[i])) + jnp.max(jnp.abs(zeroed[i]))
            bent = jnp.max(jnp.abs(new[i] - d * memories[i] - zeroed[i])) / jnp.where(size > 0, size, 1)
            spread = jnp.max(jnp.abs(others[i] - d * _uneven(memories[i])))
            rows[i] = (d, spread, bent, jnp.min(zeroed[i]))
    columns = [jnp.stack([x.astype(n.dtype) for x in column]) for column in zip(*rows, strict=True)]
    columns = columns or [jnp.zeros(0, n.dtype)] * 4
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in (u, *new, *columns)]))
    return _Seen(*columns, off=jnp.zeros_like(n), finite=finite), (u, new)


def _uneven(y: Any) -> Any:
    """Numbers from 1 to 2, different from their neighbours."""
    return 1 + (jnp.arange(y.size).reshape(y.shape) % 7 / 7).astype(y.dtype)


def _far(found: Any, own: Any) -> Scalar:
    """The largest difference between two pytrees, relative to the size of each leaf."""
    far = []
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(own), strict=True):
        size = jnp.max(jnp.abs(y))
        far.append(jnp.max(jnp.abs(x - y)) / jnp.where(size > 0, size, 1))
    return jnp.max(jnp.stack(far))
