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

from implicit_adam.loops import scanned_rows
from implicit_adam.objective import ravel, unravel_like
from implicit_adam.programs.dependence import dependence, levels
from implicit_adam.rules.from_optax.any_time import AnyTime, Memories, at_any_time
from implicit_adam.rules.from_optax.checks import refusal
from implicit_adam.rules.from_optax.probe import behaviour
from implicit_adam.rules.from_optax.rule import raveled_transformation
from implicit_adam.rules.from_optax.state import initial_state
from implicit_adam.types import Scalar, Vector

# After how many steps the state of a run is examined, and the size and sign of its mean gradient.
REACHED = ((7, 1.0), (40, -1e-3))
LATE = (10_000.0, 1_000_000.0)
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


# A string says why there is no equation.
_KNOWN: dict[Any, Recursions | str] = {}
_MOST = 256


def recursions(tx: optax.GradientTransformation, params: Any) -> Recursions:
    """The recursions of `tx` on parameters of these shapes and dtypes; `ValueError` if there are none."""
    leaves, structure = jax.tree.flatten(params)
    key = (tx, structure, tuple((x.shape, jnp.dtype(x.dtype)) for x in leaves))
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[key] = _found(tx, params)
    known = _KNOWN[key]
    if isinstance(known, str):
        raise ValueError(known)  # noqa: TRY004
    return known


def _found(tx: optax.GradientTransformation, params: Any) -> Recursions | str:
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
    with jax.ensure_compile_time_eval():
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
        theta = ravel(zeros)
        return _checked(at_any_time(raveled_transformation(tx, unravel_like(zeros)), theta, behaves), theta)


def _checked(at: AnyTime, theta: Vector) -> Recursions | str:
    names, memories = at.memory_names, at.memories(at.tx.init(theta))
    late = jnp.asarray(LATE[0], theta.dtype)
    try:
        depends = dependence(lambda memories, g: at.update(late, g, memories, theta)[1], memories, theta)
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
    seen, jumps = jax.tree.map(np.asarray, jax.jit(_program(at, level))(jax.random.key(0), theta))
    wrong = _wrong(seen, jumps, names, ROUNDING * float(jnp.finfo(theta.dtype).eps))
    if wrong is not None:
        return wrong
    of_gradient = depends[:, -1]
    for _ in level:
        of_gradient = of_gradient | (depends[:, :-1] @ of_gradient)
    nonnegative = np.all(seen.least >= 0, axis=0)
    rows = zip(seen.decay[0], level, nonnegative, of_gradient, memories, strict=True)
    kinds = tuple(Kind(float(d), l, bool(sign), bool(of), jnp.dtype(y.dtype)) for d, l, sign, of, y in rows)
    return Recursions(at, kinds, tuple(y.shape for y in memories))


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


def _program(at: AnyTime, level: list[int]) -> Callable[[Any, Vector], tuple[_Seen, Any]]:
    """(key, zeros) -> what is seen at every state, and relative jumps of the updates from step to step."""

    def program(key: Any, zeros: Vector) -> tuple[_Seen, Any]:
        def random(*number: Any) -> Vector:
            k = key
            for i in number:
                k = jax.random.fold_in(k, i)
            return jax.random.normal(k, zeros.shape, zeros.dtype)

        def run(steps: int, size: float) -> Any:
            def step(state: Any, n: Any) -> tuple[Any, None]:
                new = at.tx.update(size * (random(0, n) + 1), state, random(1, n))[1]
                return jax.tree.map(lambda x, old: jnp.asarray(x).astype(old.dtype), new, state), None

            start = jax.tree.map(jnp.asarray, initial_state(at.tx, random(2)))
            return jax.lax.scan(step, start, jnp.arange(steps))[0]

        def sight(n: Any, memories: Memories, size: float) -> tuple[_Seen, Any]:
            return _sight(at, level, jnp.asarray(n, zeros.dtype), size * random(3), memories, random(4))

        seen = []
        for steps, size in REACHED:
            state = run(steps, size)
            own, new = at.tx.update(size * random(3), state, random(4))
            row, found = sight(steps, at.memories(state), size)
            seen.append(row._replace(off=_far(found, (jnp.asarray(own), at.memories(new)))))
        memories, size = at.memories(run(*REACHED[-1])), REACHED[-1][1]
        seen += [sight(n, memories, size)[0] for n in LATE]

        def projected(n: Scalar) -> Any:
            u, new = at.update(n, size * random(3), memories, random(4))
            return jnp.stack([jnp.sum(u * random(5)), *(jnp.sum(x) for x in new)])

        xs = scanned_rows(lambda _, n: (_, projected(n)), (), jnp.asarray(SWITCHING, zeros.dtype))
        sizes = jnp.max(jnp.abs(xs), axis=0, keepdims=True)
        jumps = jnp.abs(xs[2:] - 2 * xs[1:-1] + xs[:-2]) / jnp.where(sizes > 0, sizes, 1)
        return jax.tree.map(lambda *x: jnp.stack(x), *seen), jnp.max(jumps, axis=1)

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

        def along(pattern: Callable[[Any], Any], this: int = this) -> Memories:
            dots = [
                pattern(y) if l == this else jnp.zeros_like(y) for l, y in zip(level, memories, strict=True)
            ]
            return jax.jvp(after, (memories,), (dots,))[1]

        ones, others = along(jnp.ones_like), along(_uneven)
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
