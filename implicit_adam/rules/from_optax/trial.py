"""Trial runs of an optax transformation: random gradients at random points, with forward tangents.

The gradients are random about a mean, large at first and small later (only then do clipped updates respond,
and a maximum is no longer renewed). Four tangents are propagated through a run of `STEPS` steps:

    all       every gradient is perturbed
    early     the gradients of the first `EARLY` steps are perturbed
    together  all points are shifted by the same w
    apart     each point is shifted by a w of its own

A run is one compiled program. It may start from a state that is set forward to a late step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.loops import scanned_rows
from implicit_adam.programs.quickly import canonical, compiled_quickly
from implicit_adam.rules.from_optax.state import initial_state, set_forward
from implicit_adam.types import Params

STEPS, EARLY, SMALL_FROM, SMALL = 96, 24, 48, 1e-4
ALL, EARLY_ONES, TOGETHER, APART = range(4)


class Record(NamedTuple):
    """One row for each step. Sizes are sums of absolute values.

    - `counts`, `floats`: the state before the step: integer leaves (one checksum each) and scalar floats.
    - `update`: one projection for each parameter leaf; `size`: that of the update; `response`: those of its
      tangents, (lanes, parameter leaves).
    - `memory`: (lanes, float leaves of the state) sizes of the tangents after the step.
    - `held`: how many parameters the update overwrites, whatever they were.
    """

    counts: Any
    floats: Any
    update: Any
    size: Any
    response: Any
    memory: Any
    held: Any


class Trial:
    """A transformation, ready to run on parameters of these shapes and dtypes.

    `names` and `leaves` are those of its state; `moving` are the indices of the floating leaves.
    """

    def __init__(self, tx: optax.GradientTransformation, params: Any) -> None:
        self.like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        state = jax.eval_shape(lambda: initial_state(tx, _zeros(self.like)))
        paths = jax.tree_util.tree_leaves_with_path(state)
        self.names = [jax.tree_util.keystr(path) for path, _ in paths]
        self.leaves = [leaf for _, leaf in paths]
        self.moving = [i for i, x in enumerate(self.leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]
        self.tx, self.program = tx, None
        rng = np.random.default_rng(0)
        self.vectors = tuple(
            jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), self.like) for _ in range(2)
        )

    def run(self, seed: int = 0, jump: Any = None, kept: Any = None) -> Record:
        """A run with gradients from a seed, a state set forward by `jump`, and only `kept` early tangents."""
        jump = np.zeros(len(self.leaves)) if jump is None else np.asarray(jump, float)
        kept = np.ones(len(self.moving)) if kept is None else kept
        rng, points = np.random.default_rng(seed + 1), np.random.default_rng(0)
        scale = np.where(np.arange(STEPS) < SMALL_FROM, 1.0, SMALL)[:, None]
        gradients = scale * (rng.standard_normal((STEPS, 2)) + 1)
        others = points.standard_normal((3, STEPS + 1, 2))
        arguments = jax.tree.map(canonical, (self.vectors, gradients, others, jump, kept))
        if self.program is None:
            self.program = compiled_quickly(compiled_run(self.tx, self.like), *arguments)
        return jax.tree.map(np.asarray, self.program(*arguments))

    @property
    def eps(self) -> float:
        """The coarsest rounding of any parameter's dtype."""
        return max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(self.like))


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


def compiled_run(tx: optax.GradientTransformation, like: Any) -> Callable[..., Record]:
    """(two vectors, coefficients of the gradients, others, jump, kept) -> the record of a run."""

    def run(vectors: Any, gradients: Any, others: Any, jump: Any, kept: Any) -> Record:
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

            record = Record(
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
            return scanned_rows(advance, (moving, still, dots), rows)

    return run


def updates_along(tx: optax.GradientTransformation, params: Any, steps: int = 12) -> Any:
    """The updates of some steps, at fixed random points with fixed random gradients about a mean."""
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
