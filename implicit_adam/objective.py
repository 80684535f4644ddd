"""The mini-batch losses as functions of one flat vector, so that formulas read as in the paper.

Below this layer the parameters are a vector theta of length p. The m mini-batch losses are E_0 .. E_{m-1},
and step n uses E_b with b = schedule[n] (cyclic, n mod m, without a schedule).

Parameters narrower than float32 (bfloat16, float16) become a float32 vector. The loss is evaluated in their
own dtype, everything else (hyperparameters, memories, fields, solvers) in float32: in bfloat16 the decays
.996 and .998 are the same number, and a step with a small h moves nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, DTypeLike, Float, Int

from implicit_adam.types import Batches, Loss, Params, Scalar, Schedule, StepNumber, Vector, working_dtype
from implicit_adam.vectors import ravel, unravel_like

Gradients = Float[Array, "m p"]

# How many gradients are taken at once: the activations of their mini-batches are in memory together.
AT_ONCE = 4


class Objective(NamedTuple):
    """The m mini-batch losses on flat vectors, and the order in which the steps visit them.

    - `of_params(params, batch)`: the loss on pytrees.
    - `like`: shape and dtype of theta.
    - `dtype`: the parameters' own dtype, if it is narrower than theta's.
    - `shift`: if given, a difference of gradients over this short time replaces Hessian-vector products,
      Hess E v = (grad E(theta + shift v) - grad E(theta)) / shift + O(shift), at half the cost. It is made
      longer where rounding would spoil the difference (`_shift_along`).
    - `noise`: if given, averages over the mini-batches are taken as if the variance of their gradients were
      this many times as large.
    """

    of_params: Callable[[Params, Any], Scalar]
    unravel: Callable[[Vector], Params]
    like: jax.ShapeDtypeStruct
    batches: Batches
    schedule: Schedule | None
    m: int
    shift: Scalar | None = None
    dtype: DTypeLike | None = None
    noise: Scalar | None = None

    def loss(self, theta: Vector, batch: Any) -> Scalar:
        """E at theta for a mini-batch."""
        return self.of_params(self.unravel(theta), batch)

    def gradient(self, theta: Vector, batch: Any = None) -> Vector:
        """grad E at theta for a mini-batch, written into a vector once (`vectors`)."""
        return ravel(jax.grad(self.of_params)(self.unravel(theta), batch))

    @property
    def params(self) -> Any:
        """The shapes of the parameters, in the dtype of theta."""
        return jax.eval_shape(self.unravel, self.like)

    def stored(self, theta: Vector) -> Vector:
        """theta rounded to the parameters' own dtype."""
        if self.dtype is None:
            return theta
        # Without the barrier XLA drops both conversions ("excess precision").
        return jax.lax.optimization_barrier(theta.astype(self.dtype)).astype(theta.dtype)

    def visited(self, n: StepNumber) -> Int[Array, ""]:
        """The index b of the mini-batch of step n; m if a traced schedule has no valid index there."""
        if self.schedule is None:
            return jnp.asarray(n) % self.m
        b = self.schedule.at[n].get(mode="fill", fill_value=self.m)
        return jnp.where((b >= 0) & (b < self.m), b, jnp.full_like(b, self.m))

    def step_gradient(self, theta: Vector, n: StepNumber) -> Vector:
        """grad E_b at theta for the mini-batch of step n."""
        b = self.visited(n)
        g = self.gradient(theta, jax.tree.map(lambda x: x[b], self.batches))
        return g if self.schedule is None else jnp.where(b < self.m, g, jnp.full_like(g, jnp.nan))

    def of_step(self, G: Gradients, n: StepNumber) -> Vector:
        """The row of `G` for the mini-batch of step n; NaN if there is none."""
        return G.at[self.visited(n)].get(mode="fill", fill_value=jnp.nan)

    def gradient_of_step(self, n: StepNumber) -> Callable[[Vector], Vector]:
        """theta -> grad E_b for the mini-batch of step n; `shift` makes its derivative a difference."""

        def gradient(theta: Vector) -> Vector:
            return self.step_gradient(theta, n)

        if self.shift is None:
            return gradient
        shifted, shortest = jax.custom_jvp(gradient), self.shift

        @shifted.defjvp
        def along(points: tuple[Vector], directions: tuple[Vector]) -> tuple[Vector, Vector]:
            (theta,), (v,) = points, directions
            g, shift = gradient(theta), _shift_along(v, theta, shortest)
            return g, (gradient(theta + shift * v) - g) / shift

        return shifted

    def gradients(self, theta: Vector) -> Gradients:
        """grad E_b at theta for every mini-batch."""
        if self.m <= AT_ONCE:
            return self._for_each_batch(lambda gradient: gradient(theta))
        pieces = jax.lax.map(lambda i: self.piece(i).gradients(theta), self.pieces)
        return pieces.reshape(self.m, theta.size)

    @property
    def pieces(self) -> Int[Array, " pieces"]:
        """The numbers of the pieces, of at most `AT_ONCE` mini-batches each."""
        return jnp.arange(self.m // self._together)

    def piece(self, i: StepNumber) -> "Objective":
        """The mini-batches of one piece, as an objective."""
        return self._replace(
            batches=jax.tree.map(lambda x: self.of_piece(i, x), self.batches), schedule=None, m=self._together
        )

    def of_piece(self, i: StepNumber, x: Array, axis: int = 0) -> Array:
        """The entries of x for the mini-batches of one piece."""
        return jax.lax.dynamic_slice_in_dim(x, i * self._together, self._together, axis)

    @property
    def _together(self) -> int:
        return max(c for c in range(1, AT_ONCE + 1) if self.m % c == 0)

    def linearize(
        self, theta: Vector, known: Gradients | None = None
    ) -> tuple[Gradients, Callable[[Gradients], Gradients]]:
        """All mini-batch gradients, and V -> (Hess E_b(theta) V_b)_b without recomputing them.

        If they are `known`, shifted products need not compute them.
        """
        if self.shift is not None:
            return self._shifted(theta, self.shift, known)

        # All mini-batches share one theta and differ only in their directions, so that the forward passes
        # share their products with the weights. The compiler removes the value at V = 0.
        def along(V: Gradients) -> tuple[Gradients, Gradients]:
            return self._for_each_batch(lambda gradient, v: jax.jvp(gradient, (theta,), (v,)), V)

        (G, _), products = jax.linearize(along, jnp.zeros((self.m, theta.size), theta.dtype))
        return G, lambda V: products(V)[1]

    def by_leaves(self, f: Callable[..., Any], *vectors: Any) -> Any:
        """f(*vectors) for an elementwise f, evaluated leaf by leaf of the parameters.

        On a CPU, XLA concatenates the leaves of a gradient again for every element that an elementwise loop
        reads. Working on the leaves avoids this: with 10^6 parameters a field costs 3 gradients instead of 6,
        with 10^7 it costs 3 instead of 12.
        """
        leaves = zip(*(self._leaves(x) for x in vectors), strict=True)
        return jax.tree.map(lambda *x: jnp.concatenate(x), *(f(*x) for x in leaves))

    def by_trees(self, f: Callable[..., Any], *vectors: Vector) -> Any:
        """f(*pytrees like the parameters), whose results are such pytrees, again as vectors."""
        structure = jax.tree.structure(self.params)

        def is_whole(x: Any) -> bool:
            return jax.tree.structure(x) == structure

        results = f(*map(self.unravel, vectors))
        return jax.tree.map(lambda x: ravel_pytree(x)[0], results, is_leaf=is_whole)

    def _leaves(self, vectors: Any) -> list[Any]:
        """For each leaf of the parameters, the pytree of vectors cut to that leaf."""
        x, structure = jax.tree.flatten(vectors)
        pieces = [[leaf.ravel() for leaf in jax.tree.leaves(self.unravel(v))] for v in x]
        return [jax.tree.unflatten(structure, piece) for piece in zip(*pieces, strict=True)]

    def full_batch(self) -> "Objective":
        """The mean of the mini-batch losses as one loss."""

        def mean(params: Params, _: Any) -> Scalar:
            return jnp.mean(jax.vmap(self.of_params, (None, 0), axis_size=self.m)(params, self.batches))

        return Objective(mean, self.unravel, self.like, None, None, 1, dtype=self.dtype)

    def _shifted(
        self, theta: Vector, shortest: Scalar, known: Gradients | None
    ) -> tuple[Gradients, Callable[[Gradients], Gradients]]:
        G = self.gradients(theta) if known is None else known

        def products(V: Gradients) -> Gradients:
            shift = jax.vmap(lambda v: _shift_along(v, theta, shortest))(V)[:, None]
            moved = self._for_each_batch(lambda gradient, v: gradient(v), theta[None] + shift * V)
            return (moved - G) / shift

        return G, products

    def _for_each_batch(self, f: Callable[..., Any], *along_batches: Gradients) -> Any:
        """f(grad E_b, *rows_b) for every mini-batch b, stacked."""

        def one(batch: Any, *rows: Vector) -> Any:
            return f(lambda theta: jax.grad(self.loss)(theta, batch), *rows)

        if self.m > 1:
            return jax.vmap(one, axis_size=self.m)(self.batches, *along_batches)
        # A batch axis of length one would cost a transposition of every product.
        only = one(*jax.tree.map(lambda x: x[0], (self.batches, *along_batches)))
        return jax.tree.map(lambda x: x[None], only)


def _shift_along(v: Vector, theta: Vector, shortest: Scalar) -> Scalar:
    """The shift along v: `shortest`, or longer, until theta moves by sqrt(eps) of its size (the dtype's eps).

    At that distance the rounding of theta + shift v and the curvature along v cause errors of the same size,
    sqrt(eps) relative to the difference. Sizes are 1-norms, so that one large parameter does not set the step
    for all. At theta = 0 moving causes no rounding, and `shortest` is kept.
    """
    length = jnp.sum(jnp.abs(v))
    far = jnp.finfo(theta.dtype).eps ** 0.5 * jnp.sum(jnp.abs(theta))
    return jnp.where(
        far > shortest * length, far / jnp.where(length > 0, length, jnp.ones_like(length)), shortest
    )


def raveled_loss(
    loss: Loss, params: Params, batches: Batches = None, schedule: Schedule | None = None
) -> Objective:
    """`loss(params)`, or `loss(params, batch)` with its batches, as an objective on flat vectors."""
    unravel = unravel_like(params)
    own = jnp.result_type(*jax.tree.leaves(params))
    like = jax.eval_shape(ravel, params)
    dtype = None if own == working_dtype(own) else own

    def of_params(params: Params, *batch: Any) -> Scalar:
        params = jax.tree.map(lambda leaf: leaf.astype(own), params)
        return jnp.asarray(loss(params, *batch)).astype(like.dtype)

    if batches is None:
        return Objective(lambda params, _: of_params(params), unravel, like, None, None, 1, dtype=dtype)
    m = jax.tree.leaves(batches)[0].shape[0]
    return Objective(of_params, unravel, like, batches, schedule, m, dtype=dtype)


def first_arguments(params: Params, batches: Batches) -> tuple[Any, ...]:
    """The arguments of the loss for the first mini-batch."""
    return (params,) if batches is None else (params, jax.tree.map(lambda x: x[0], batches))


def mean_loss(loss: Loss, batches: Batches = None) -> Callable[[Params], Scalar]:
    """The full-batch loss: the mean over the mini-batches, if there are any."""
    if batches is None:
        return loss
    return lambda params: jnp.mean(jax.vmap(loss, (None, 0))(params, batches))
