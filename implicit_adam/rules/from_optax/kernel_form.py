"""An optax transformation as features, kernels and a readout, if its memories are of the gradient alone.

Most memories are linear recursions (`from_optax.recursion`) whose psi depends on the present gradient and
nothing else (`from_optax.find_kernel_form`). Then they are sums over the past like those of a rule,

    y_(n+1) = d y_n + (1-d) psi(g_n) = sum_{k<=n} (1-d) d^(n-k) psi(g_k) + d^(n+1) y_0

so that psi are features with exponential kernels. The readout is the update itself, from the memories before
the step, y_n = (y_(n+1) - (1-d) psi(g_n))/d. It needs g_n, which is one more feature with the kernel [k = n].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from implicit_adam.rules.from_optax.any_time import AnyTime, Memories
from implicit_adam.rules.from_optax.packed import Packed
from implicit_adam.rules.from_optax.state import away_from_zero
from implicit_adam.rules.kernels import Kernel, average, delta, power, total
from implicit_adam.types import Params, Scalar, StepNumber, Vector
from implicit_adam.vectors import ravel

Leaf = Float[Array, "*shape"]
# A step at which bias corrections have settled.
LATE = 1_000_000.0


class KernelForm(NamedTuple):
    """F^(n) = readout(s, theta, n), s_0 = g_n, s_i = sum_k w_i(n, k) psi_i(g_k); not elementwise.

    On vectors, and leaf by leaf on pytrees like the parameters, where a memory is a list of leaves: on a CPU,
    XLA puts vectors together again for each number that an elementwise loop reads of them.

    - `h`: the step size.
    - `packed`: the memories of the transformation; `first`: the value of each before the first step.
    - `tx`: the transformation on pytrees, and `unravel`, vector -> pytree.
    - `steady`: whether kernels have unit mass and the readout is the same at every step; `settled`: whether
      both are so at late steps.
    """

    h: Scalar
    packed: Packed
    first: tuple[float, ...]
    tx: optax.GradientTransformation
    unravel: Callable[[Vector], Params]
    steady: bool
    settled: bool

    def features(self, g: Float[Array, "*batch p"]) -> tuple[Float[Array, "*batch p"], ...]:
        """(g, psi_1(g), ..) for one gradient, or row by row for several."""
        if g.ndim > 1:
            return jax.vmap(self.features)(g)
        return tuple(map(ravel, self.features_by_leaves(self.unravel(g))))

    def readout(self, s: tuple[Vector, ...], theta: Vector, n: StepNumber) -> Vector:
        """F^(n), the negative of the update."""
        g, *sums = s
        by_leaves = (self.unravel(g), *self._of_kinds(self.packed.unpacked(sums)))
        return ravel(self.readout_by_leaves(by_leaves, self.unravel(theta), n))

    def features_by_leaves(self, g: Params) -> tuple[Any, ...]:
        """(g, psi_1(g), ..) for one gradient."""
        g = jax.tree.map(away_from_zero, g)
        known = zip(self.packed.known.kinds, self.packed.known.shapes, strict=True)
        # With all memories zero, the new ones are (1-d) psi. No psi reads the point, for which g stands here.
        new = self._at.update(jnp.ones_like(self.h), g, [jnp.zeros(shape, k.dtype) for k, shape in known], g)[
            1
        ]
        psi = zip(self._of_kinds(new), self.packed.weights, strict=True)
        return g, *([y / w for y in leaves] for leaves, w in psi)

    def kernels(self, n: StepNumber) -> tuple[Kernel, ...]:
        """[k = n], and an exponential for each memory."""

        def of(decay: float) -> Kernel:
            d = jnp.asarray(decay, self.h.dtype)
            return total(d) if decay == 1 else average(d, n, bias_correction=self.steady)

        return delta(self.h), *(of(kind.decay) for kind in self.packed.kinds)

    def readout_by_leaves(self, s: tuple[Any, ...], theta: Params, n: StepNumber) -> Params:
        """F^(n), the negative of the update, from the memories before the step."""
        g, *sums = s
        _, *psi = self.features_by_leaves(g)
        n = jnp.asarray(LATE if self.steady else n).astype(self.h.dtype)
        # An update that has settled may still be computed from a count, which cannot be infinite.
        n = jnp.where(jnp.isinf(n), jnp.full_like(n, LATE), n)

        def before(i: int, y: Leaf, psi: Leaf) -> Leaf:
            d = self.packed.decays[i]
            y_n = (y + power(d, n + 1) * self.first[i] - self.packed.weights[i] * psi) / d
            # Rounding must not make a square negative; its derivative stays what it is.
            lift = jnp.maximum(-y_n, 0) if self.packed.kinds[i].nonnegative else jnp.zeros_like(y_n)
            return y_n + jax.lax.stop_gradient(lift)

        kinds = [iter(map(partial(before, i), *x)) for i, x in enumerate(zip(sums, psi, strict=True))]
        memories = [next(kinds[self.packed.kinds.index(kind)]) for kind in self.packed.known.kinds]
        return jax.tree.map(jnp.negative, self._at.update(n, g, memories, theta)[0])

    @property
    def _at(self) -> AnyTime:
        return self.packed.known.at._replace(tx=self.tx)

    def _of_kinds(self, memories: Memories) -> list[list[Any]]:
        """The leaves of memories, in one list for each kind."""
        owned = list(zip(memories, self.packed.known.kinds, strict=True))
        return [[y for y, own in owned if own == kind] for kind in self.packed.kinds]
