"""How an optax transformation behaves, found by running it: its state and its names say too little.

The transformation is run for `STEPS` steps at random points with random gradients about a mean, large at
first and small later (what is clipped responds only then, and a maximum is no longer renewed). Four tangents
travel along:

    all       every gradient moves:                      does the update respond?
    early     those of the first `EARLY` steps move:     is that forgotten?
    together  every point moves by one and the same w:   is only the difference of two points seen?
    apart     every point moves by a w of its own

Numbers of the state that follow the step number alone are found by a second run with other gradients; set
forward by them, a third and a fourth run see late steps. Everything is one compiled program, and what it says
of a transformation is kept.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.checks import is_traced
from implicit_adam.rules.optax_state import initial_state, is_number, set_forward
from implicit_adam.types import Params

STEPS, EARLY, SMALL_FROM, SMALL = 96, 24, 48, 1e-4
# Over this last stretch a memory that fades loses something; periods up to a third of the run are seen.
STRETCH = 36
# A decay closer to 1 than 3e-7 a step is none: that is what float32 can tell over the stretch.
UNCHANGED = 1e-5
ROUNDING = 100
LATE = (10_000, 1_000_000)
ALL, EARLY_ONES, TOGETHER, APART = range(4)
# So many states are tried alone, those whose tangents fade least.
TRIED = 6


class Clock(NamedTuple):
    """The numbers in a state that follow the step number alone: n + period steps in, each is `advance` more.

    `advance` is a list, one entry a leaf of the state (0 for those that do not count); `unpredictable` are
    the names of leaves that change otherwise and matter, such as random keys.
    """

    period: int
    advance: tuple[float, ...]
    unpredictable: tuple[str, ...]


class Behaviour(NamedTuple):
    """What the runs show.

    - `finite`: whether all derivatives are; `responds`: whether any update has one but zero; `flat`: names
      of parameters whose update changes with the gradients while its derivative is zero.
    - `differences`: whether points count only by their differences; `projects`: whether it sets parameters.
    - `narrow`: state leaves that remember gradients in a narrower dtype than the parameters'.
    - `kept`: state leaves from which an old gradient never fades; `growing`: whose memory grows with n.
    - `decay`: the slowest decay a step.
    """

    finite: bool
    responds: bool
    flat: tuple[str, ...]
    differences: bool
    projects: bool
    narrow: tuple[str, ...]
    kept: tuple[str, ...]
    growing: tuple[str, ...]
    decay: float
    clock: Clock


_KNOWN: dict[Any, Behaviour] = {}
_MOST = 256


def behaviour(tx: optax.GradientTransformation, params: Any) -> Behaviour | None:
    """How `tx` behaves on parameters of these shapes and dtypes; None where that depends on traced values."""
    leaves, structure = jax.tree.flatten(params)
    key = (tx, structure, tuple((x.shape, jnp.dtype(x.dtype)) for x in leaves))
    try:
        if key not in _KNOWN:
            found = _Probe(tx, params).behaviour()
            if len(_KNOWN) >= _MOST:
                _KNOWN.pop(next(iter(_KNOWN)))
            _KNOWN[key] = found
        return _KNOWN[key]
    except _TracedError:
        return None


class _TracedError(Exception):
    """The transformation holds values that are traced at this point."""


class _Record(NamedTuple):
    """One row a step. Sizes are sums of absolute values.

    - `counts`, `floats`: before the step, whole numbers (a checksum a leaf) and scalar floats of the state.
    - `update`: one projection a parameter leaf, `size`: of the update; `response`: (lanes, parameter leaves)
      of its tangents.
    - `memory`: (lanes, float leaves of the state) sizes of the tangents after the step.
    - `held`: how many parameters the update sets, whatever they were.
    """

    counts: Any
    floats: Any
    update: Any
    size: Any
    response: Any
    memory: Any
    held: Any


class _Probe:
    """The runs of one transformation and what they say."""

    def __init__(self, tx: optax.GradientTransformation, params: Any) -> None:
        self.like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        state = jax.eval_shape(lambda: initial_state(tx, _zeros(self.like)))
        paths = jax.tree_util.tree_leaves_with_path(state)
        self.names = [jax.tree_util.keystr(path) for path, _ in paths]
        self.leaves = [leaf for _, leaf in paths]
        self.moving = [i for i, x in enumerate(self.leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]
        self.program = jax.jit(_program(tx, self.like))
        rng = np.random.default_rng(0)
        self.vectors = tuple(
            jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), self.like) for _ in range(2)
        )

    def run(self, seed: int = 0, jump: Any = None, kept: Any = None) -> _Record:
        """A run with the gradients of a seed, a state set forward by `jump`, and only `kept` tangents."""
        jump = np.zeros(len(self.leaves)) if jump is None else np.asarray(jump, float)
        kept = np.ones(len(self.moving)) if kept is None else kept
        rng, points = np.random.default_rng(seed + 1), np.random.default_rng(0)
        scale = np.where(np.arange(STEPS) < SMALL_FROM, 1.0, SMALL)[:, None]
        gradients = scale * (rng.standard_normal((STEPS, 2)) + 1)
        others = points.standard_normal((3, STEPS + 1, 2))
        with jax.ensure_compile_time_eval():
            record = self.program(self.vectors, gradients, others, jump, kept)
        if any(is_traced(x) for x in jax.tree.leaves(record)):
            raise _TracedError
        return jax.tree.map(np.asarray, record)

    def behaviour(self) -> Behaviour:
        first = self.run()
        second = self.run(seed=1)
        clock = self._clock(first, second)
        jumps = [np.asarray(clock.advance) * (n // clock.period) for n in LATE]
        late = [self.run(jump=jump) for jump in jumps]
        runs = [first, second, *late]
        responses = np.sum([run.response[:, ALL] for run in runs], axis=(0, 1))
        # A trust ratio of a single number is a sign up to rounding.
        responds = responses > ROUNDING * self._eps * np.sum([run.size for run in runs], axis=(0, 1))
        to_points = np.sum(first.response[:, (TOGETHER, APART)], axis=(0, 2))
        changed = np.any(first.update != second.update, axis=0)
        remembers = np.any(np.sum([run.memory[:, ALL] for run in runs], axis=0) > 0, axis=0)
        kept, growing, decay = self._memory(first, jumps, late)
        return Behaviour(
            finite=all(np.isfinite(run.response).all() and np.isfinite(run.memory).all() for run in runs),
            responds=bool(np.any(responds) or not np.isfinite(responses).all()),
            flat=tuple(
                x for x, is_flat in zip(_names(self.like), changed & ~responds, strict=True) if is_flat
            ),
            differences=bool(to_points[0] < 1e-2 * to_points[1]),
            projects=bool(np.any(first.held != second.held)),
            narrow=tuple(
                f"{self.names[i]} ({self.leaves[i].dtype})"
                for i, is_memory in zip(self.moving, remembers, strict=True)
                if is_memory and jnp.finfo(self.leaves[i].dtype).eps > self._eps
            ),
            kept=kept,
            growing=growing,
            decay=decay,
            clock=clock,
        )

    @property
    def _eps(self) -> float:
        return max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(self.like))

    def _memory(
        self, first: _Record, jumps: list[Any], late: list[_Record]
    ) -> tuple[tuple[str, ...], tuple[str, ...], float]:
        """Each of the slowest states alone: kept for good, growing with n, and the slowest decay a step.

        Alone, since a fast memory behind a slow one follows its pace.
        """
        kept, growing, decay = [], [], 0.0
        slowest = {i for run in (first, late[-1]) for i in _slowest(run)}
        for i in slowest:
            alone = np.zeros(len(self.moving))
            alone[i] = 1.0
            run = self.run(kept=alone)
            if not run.response[-STRETCH:, EARLY_ONES].any():
                continue
            ratio = _ratio(run, i)
            if ratio >= 1 - UNCHANGED:
                kept.append(self.names[self.moving[i]])
                continue
            decay = max(decay, ratio ** (1 / STRETCH))
            sooner, later = (-math.log(max(_ratio(self.run(jump=j, kept=alone), i), 1e-300)) for j in jumps)
            if 0 < later + UNCHANGED < sooner / 2:
                growing.append(self.names[self.moving[i]])
        return tuple(kept), tuple(growing), decay

    def _clock(self, first: _Record, second: _Record) -> Clock:
        """Each leaf's own period, and all of them together."""
        still = [i for i in range(len(self.leaves)) if i not in self.moving]
        scalars = [i for i in self.moving if self.leaves[i].ndim == 0]
        free = ~np.any(first.memory[:, ALL] > 0, axis=0)
        columns = dict(zip(still, zip(first.counts.T, second.counts.T, strict=True), strict=True))
        for i, pair in zip(scalars, zip(first.floats.T, second.floats.T, strict=True), strict=True):
            if free[self.moving.index(i)]:
                columns[i] = pair
        found = {i: _period(*pair) for i, pair in columns.items()}
        periods = [pattern[0] for pattern in found.values() if pattern is not None]
        period = math.lcm(*periods)
        advance, unpredictable = [0.0] * len(self.leaves), []
        for i, pattern in found.items():
            if pattern is not None and period <= STEPS // 3:
                advance[i] = pattern[1] * (period // pattern[0])
                # A whole array that counts cannot be set forward by its checksum.
                if pattern[1] == 0 or is_number(self.leaves[i]):
                    continue
            if self._matters(i, first):
                unpredictable.append(self.names[i])
        if period > STEPS // 3:
            period, advance = 1, [0.0] * len(self.leaves)
        return Clock(period, tuple(advance), tuple(unpredictable))

    def _matters(self, i: int, first: _Record) -> bool:
        """Whether another value of a number changes any update; what cannot be nudged is taken to."""
        leaf = self.leaves[i]
        if not is_number(leaf):
            return True
        nudge = np.zeros(len(self.leaves))
        nudge[i] = 1.0
        return not np.array_equal(self.run(jump=nudge).update, first.update)


def _names(like: Any) -> list[str]:
    paths = jax.tree_util.tree_leaves_with_path(like)
    return [f"params{jax.tree_util.keystr(path)}" for path, _ in paths]


def _ratio(run: _Record, i: int) -> float:
    """What the last stretch leaves of the early gradients' influence on a state; 0 where there was none."""
    before, after = run.memory[-1 - STRETCH, EARLY_ONES, i], run.memory[-1, EARLY_ONES, i]
    return float(after / before) if before > 0 and np.isfinite(before) else 0.0


def _slowest(run: _Record) -> list[int]:
    ratios = np.array([_ratio(run, i) for i in range(run.memory.shape[2])])
    with np.errstate(divide="ignore"):
        distance = np.where(ratios > 0, np.abs(np.log(ratios)), np.inf)
    return [int(i) for i in np.argsort(distance)[:TRIED] if np.isfinite(distance[i])]


def _period(first: np.ndarray, second: np.ndarray) -> tuple[int, float] | None:
    """(P, a) with v(n + P) = v(n) + a for all n, the same in both runs; None where there is no such P.

    A flag that is something else at the very first step only is constant: a window may start with it.
    """
    if not np.array_equal(first, second):
        return None
    if np.all(first[1:] == first[1]) and np.all(np.abs(first) <= 1):
        return 1, 0.0
    for period in range(1, STEPS // 3 + 1):
        steps = first[period:] - first[:-period]
        if np.all(steps == steps[0]):
            return period, float(steps[0])
    return None


def _zeros(like: Any) -> Params:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)


def _checksum(x: Any) -> Any:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    x = x.astype(jnp.int32).ravel()
    return jnp.sum(x * (1 + jnp.arange(x.size, dtype=jnp.int32)), dtype=jnp.int32)


def _size(x: Any) -> Any:
    return jnp.sum(jnp.abs(x).astype(float))


def _stacked(numbers: list[Any], dtype: Any = float) -> Any:
    return jnp.stack([jnp.asarray(x, dtype) for x in numbers]) if numbers else jnp.zeros((0,), dtype)


def _program(tx: optax.GradientTransformation, like: Any) -> Callable[..., _Record]:
    """(two vectors, coefficients of the gradients, of the rest, jump, kept) -> the record of a run."""

    def run(vectors: Any, gradients: Any, others: Any, jump: Any, kept: Any) -> _Record:
        def mixed(c: Any) -> Params:
            return jax.tree.map(lambda x, y: c[0].astype(x.dtype) * x + c[1].astype(x.dtype) * y, *vectors)

        def of_lanes(*lanes: Params) -> Params:
            return jax.tree.map(lambda *x: jnp.stack(x), *lanes)

        points, moves, shifts = others
        still_zero, together = _zeros(like), mixed(shifts[0])

        def split(state: Any) -> tuple[Any, Any]:
            return eqx.partition(state, eqx.is_inexact_array)

        def begun(point: Params) -> tuple[Any, Any]:
            return split(set_forward(initial_state(tx, point), jump, 1))

        def pushed(f: Callable[..., Any], primals: tuple[Any, ...], lanes: tuple[Any, ...]) -> Any:
            return jax.vmap(lambda *d: jax.jvp(f, primals, d)[1])(*lanes)

        def advance(carry: Any, x: Any) -> Any:
            moving, still, dots = carry
            n, c_gradient, c_point, c_move, c_shift = x
            g, point, move, shift = mixed(c_gradient), mixed(c_point), mixed(c_move), mixed(c_shift)
            early = jax.tree.map(lambda v: jnp.where(n < EARLY, v, jnp.zeros_like(v)), move)
            dg = of_lanes(move, early, still_zero, still_zero)
            dpoint = of_lanes(still_zero, still_zero, together, shift)

            def step(moving: Any, g: Params, point: Params) -> Any:
                u, new = tx.update(g, eqx.combine(moving, still), point)
                new, new_still = split(jax.tree.map(jnp.asarray, new))
                new = jax.tree.map(lambda x, old: x.astype(old.dtype), new, moving)
                return (u, new), new_still

            (u, new), new_still = step(moving, g, point)
            du, new_dots = pushed(lambda *a: step(*a)[0], (moving, g, point), (dots, dg, dpoint))
            leaves, structure = jax.tree.flatten(new_dots)
            only = jnp.where(n == EARLY - 1, kept, jnp.ones_like(kept))
            leaves = [d.at[EARLY_ONES].multiply(only[i].astype(d.dtype)) for i, d in enumerate(leaves)]
            new_dots = jax.tree.unflatten(structure, leaves)
            held = jax.tree.map(lambda d, w: jnp.sum((d[APART] + w == 0) & (w != 0)), du, shift)

            def sizes(tree: Any) -> Any:
                rows = [jax.vmap(_size)(d) for d in jax.tree.leaves(tree)]
                return jnp.stack(rows, axis=1) if rows else jnp.zeros((4, 0))

            record = _Record(
                counts=_stacked([_checksum(x) for x in jax.tree.leaves(still)], jnp.int32),
                floats=_stacked([x for x in jax.tree.leaves(moving) if x.ndim == 0]),
                update=_stacked(
                    [jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (u, vectors[1])), strict=True)]
                ),
                size=_stacked([_size(x) for x in jax.tree.leaves(u)]),
                response=sizes(du),
                memory=sizes(new_dots),
                held=sum(jax.tree.leaves(held)),
            )
            return (new, new_still, new_dots), record

        with jax.numpy_dtype_promotion("standard"):
            start = mixed(points[-1])
            moving, still = begun(start)
            at_start = of_lanes(still_zero, still_zero, together, mixed(shifts[-1]))
            dots = pushed(lambda point: begun(point)[0], (start,), (at_start,))
            rows = (jnp.arange(STEPS), gradients, points[:-1], moves[:-1], shifts[:-1])
            return jax.lax.scan(advance, (moving, still, dots), rows)[1]

    return run


def updates_along(tx: optax.GradientTransformation, params: Any, steps: int = 12) -> Any:
    """The updates of some steps at random points with random gradients about a mean, always the same ones."""
    rng = np.random.default_rng(0)

    def random(mean: float) -> Any:
        return jax.tree.map(
            lambda x: jnp.asarray(mean + rng.standard_normal((steps, *x.shape)), x.dtype), params
        )

    def step(state: Any, x: Any) -> Any:
        u, new = tx.update(x[0], state, x[1])
        return jax.tree.map(lambda a, b: jnp.asarray(a, jnp.asarray(b).dtype), new, state), u

    run = jax.jit(lambda start, xs: jax.lax.scan(step, jax.tree.map(jnp.asarray, tx.init(start)), xs)[1])
    return run(jax.tree.map(jnp.zeros_like, params), (random(1.0), random(0.0)))
