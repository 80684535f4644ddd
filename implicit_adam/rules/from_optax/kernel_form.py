"""An optax transformation as features, kernels and a readout, if its memories are of the gradient alone.

Most memories are linear recursions (`from_optax.recursion`) whose psi depends on the present gradient and
nothing else. Then they are sums over the past like those of a rule,

    y_(n+1) = d y_n + (1-d) psi(g_n) = sum_{k<=n} (1-d) d^(n-k) psi(g_k) + d^(n+1) y_0

so that psi are features with exponential kernels. The readout is the update itself, from the memories before
the step, y_n = (y_(n+1) - (1-d) psi(g_n))/d. It needs g_n, which is one more feature with the kernel [k = n].

Whether the update is *steady* is found by trying: with averages s of unit mass, y_(n+1) = (1-d^(n+1)) s, the
update of a bias-corrected optimizer such as `optax.adamw` is the same function of s at every step. Then
updates frozen at one point are the same, and full-batch fields have closed forms.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.loops import in_rows
from implicit_adam.objective import ravel
from implicit_adam.programs.dependence import dependence
from implicit_adam.programs.quickly import compiled_quickly
from implicit_adam.rules.from_optax.found_once import found_once
from implicit_adam.rules.from_optax.packed import Memory, Packed, packed_memories
from implicit_adam.rules.from_optax.rule import Optax
from implicit_adam.rules.from_optax.smaller import smaller
from implicit_adam.rules.from_optax.state import away_from_zero, initial_state
from implicit_adam.rules.kernels import Kernel, average, delta, power, total
from implicit_adam.types import Params, Scalar, StepNumber, Vector

# The update is tried at these steps, with gradients and points of these sizes, and compared with that of step
# LATE, when all has faded.
LATE = 1_000_000.0
STEPS = np.unique([*range(10), *np.geomspace(10, 10 * LATE, 150).round()])
SIZES = ((1.0, 1.0), (1e-4, 1.0), (1e-8, 1.0), (1.0, 1e4), (1.0, 1e-4))


class KernelForm(NamedTuple):
    """F^(n) = readout(s, theta, n), s_0 = g_n, s_i = sum_k w_i(n, k) psi_i(g_k); not elementwise.

    - `h`: the step size.
    - `packed`: the transformation and its memories; `first`: the value of each before the first step.
    - `steady`: whether kernels have unit mass and the readout is the same at every step.
    """

    h: Scalar
    packed: Packed
    first: tuple[float, ...]
    steady: bool

    def features(self, g: Vector) -> tuple[Vector, ...]:
        """(g, psi_1(g), ..) for one gradient, or row by row for several."""
        if g.ndim > 1:
            return jax.vmap(self.features)(g)
        g, packed = away_from_zero(g), self.packed
        # With all memories zero, the new ones are (1-d) psi.
        new = packed.update(jnp.ones_like(self.h), g, _zeros(packed), g)[1]
        return g, *(y / w for y, w in zip(new, packed.weights, strict=True))

    def kernels(self, n: StepNumber) -> tuple[Kernel, ...]:
        """[k = n], and an exponential for each memory."""

        def of(decay: float) -> Kernel:
            d = jnp.asarray(decay, self.h.dtype)
            return total(d) if decay == 1 else average(d, n, bias_correction=self.steady)

        return delta(self.h), *(of(kind.decay) for kind in self.packed.kinds)

    def readout(self, s: tuple[Vector, ...], theta: Vector, n: StepNumber) -> Vector:
        """F^(n), the negative of the update."""
        g, *sums = s
        _, *psi = self.features(g)
        n = jnp.asarray(LATE if self.steady else n).astype(theta.dtype)
        rows = zip(
            self.packed.kinds, self.packed.decays, self.packed.weights, self.first, sums, psi, strict=True
        )
        before = []
        for kind, d, w, y_0, y, psi_i in rows:
            y_n = (y + power(d, n + 1) * y_0 - w * psi_i) / d
            # Rounding must not make a square negative; its derivative stays what it is.
            lift = jnp.maximum(-y_n, 0) if kind.nonnegative else jnp.zeros_like(y_n)
            before.append(y_n + jax.lax.stop_gradient(lift))
        return -self.packed.update(n, g, before, theta)[0]


def kernel_form(rule: Optax, params: Params) -> KernelForm | None:
    """`rule` on parameters of these shapes and dtypes as features, kernels and a readout, or None.

    There is no such form if a memory is no linear recursion, if its psi depends on the point, the step number
    or other memories, or if it covers only some of the parameters; nor with a window, which cuts the memory.
    """
    if rule.window is not None:
        return None
    found = _form(rule.tx, params)
    return None if found is None else found._replace(h=rule.h)


@found_once
def _form(tx: optax.GradientTransformation, params: Params) -> KernelForm | None:
    try:
        packed = packed_memories(tx, params)
    except ValueError:
        return None
    if any(kind.level > 0 or kind.decay == 0 for kind in packed.kinds):
        return None
    # Tried on few parameters, and used for all.
    fewer = smaller(tx, params)
    form = _tried(packed_memories(tx, fewer), jax.eval_shape(ravel, fewer))
    return None if form is None else form._replace(packed=packed)


def _tried(packed: Packed, theta: Any) -> KernelForm | None:
    """The transformation of these memories on vectors like theta."""
    shapes = [y.shape for y in jax.eval_shape(lambda: _zeros(packed))]
    if any(shape != theta.shape for shape in shapes) or not _of_the_gradient(packed, theta):
        return None

    def begun(theta: Vector) -> Memory:
        return packed.memory(initial_state(packed.known.at.tx, theta))

    zeros = np.zeros(theta.shape, theta.dtype)
    first = [np.asarray(y) for y in compiled_quickly(begun, zeros)(zeros)]
    if any(np.any(y != y[0]) for y in first):
        return None
    form = KernelForm(theta.dtype.type(1), packed, tuple(float(y[0]) for y in first), steady=False)
    return form._replace(steady=_is_steady(form, theta))


def _of_the_gradient(packed: Packed, theta: Any) -> bool:
    """Whether psi and the memories before the first step depend on neither the point nor the step number."""
    at = packed.known.at

    def memories(n: Scalar, whole: Any, theta: Vector) -> Any:
        start = at.memories(initial_state(at.tx, theta))
        return start, at.update_of(n, whole, jnp.ones_like(theta), packed.unpacked(_zeros(packed)), theta)[1]

    return not dependence(memories, theta.dtype.type(1), np.int32(1), theta).any()


def _is_steady(form: KernelForm, theta: Any) -> bool:
    """Whether the update is the same function of averages of unit mass at every step."""
    packed, eps = form.packed, float(jnp.finfo(theta.dtype).eps)
    fades = all(kind.decay**LATE < eps for kind in packed.kinds)
    # A memory that begins at zero begins at a negligible number here.
    begun = any(abs(y) > float(jnp.finfo(theta.dtype).tiny) ** 0.8 for y in form.first)
    if packed.known.at.scheduled or not fades or begun:
        return False

    def program(rows: Any, *sizes: Any) -> Scalar:
        return jnp.max(in_rows(lambda *at: off(rows, *at), *sizes))

    def off(rows: Any, of_g: Scalar, of_theta: Scalar) -> Scalar:
        theta, g, *more = rows
        theta, (g, *psi) = of_theta * theta, form.features(of_g * g)

        def update(n: Scalar) -> Vector:
            masses = [1 - power(d, n + 1) for d in packed.decays]
            s = [mass * (1 + jnp.abs(x)) * psi_i for mass, x, psi_i in zip(masses, more, psi, strict=True)]
            return form.readout((g, *s), theta, n)

        late = update(jnp.asarray(LATE, theta.dtype))
        apart = in_rows(lambda n: jnp.max(jnp.abs(update(n) - late)), jnp.asarray(STEPS, theta.dtype))
        return jnp.max(apart) / jnp.max(jnp.abs(late))

    rows = np.random.default_rng(0).standard_normal((2 + len(packed.kinds), *theta.shape)).astype(theta.dtype)
    # In float32 optax's own 1 - d^n is that far off.
    arguments = (rows, *np.asarray(SIZES, theta.dtype).T)
    return float(compiled_quickly(program, *arguments)(*arguments)) < eps**0.5


def _zeros(packed: Packed) -> Memory:
    known = zip(packed.known.kinds, packed.known.shapes, strict=True)
    return packed.packed([jnp.zeros(shape, kind.dtype) for kind, shape in known])
