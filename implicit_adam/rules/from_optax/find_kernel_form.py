"""Whether an optax transformation has features, kernels and a readout, found by tracing and trying it.

Its memories must be linear recursions of one level, psi and the memories before the first step independent of
the point and the step number, as its program shows.

Whether the update is *steady* is found by trying: with averages s of unit mass, y_(n+1) = (1-d^(n+1)) s, the
update of a bias-corrected optimizer such as `optax.adamw` is the same function of s at every step. Then
updates frozen at one point are the same, and full-batch fields have closed forms. If late updates are, as of
any optimizer whose memories fade, without a schedule, the field has a limit for n to infinity.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.loops import in_rows
from implicit_adam.programs.dependence import dependence
from implicit_adam.programs.quickly import compiled_quickly
from implicit_adam.rules.from_optax.found_once import found_once
from implicit_adam.rules.from_optax.kernel_form import LATE, KernelForm
from implicit_adam.rules.from_optax.packed import Memory, Packed, packed_memories
from implicit_adam.rules.from_optax.rule import Optax, promoting
from implicit_adam.rules.from_optax.smaller import smaller
from implicit_adam.rules.from_optax.state import initial_state
from implicit_adam.rules.kernels import power
from implicit_adam.types import Params, Scalar, Vector
from implicit_adam.vectors import ravel, unravel_like

# The update is tried at these steps, with gradients and points of these sizes, and compared with that of step
# LATE, when all has faded.
STEPS = np.unique([*range(10), *np.geomspace(10, 10 * LATE, 150).round()])
LATER = np.geomspace(LATE, 10 * LATE, 20).round()
SIZES = ((1.0, 1.0), (1e-4, 1.0), (1e-8, 1.0), (1.0, 1e4), (1.0, 1e-4))


def kernel_form(rule: Optax, params: Any) -> KernelForm | None:
    """`rule` on parameters of these shapes and dtypes as features, kernels and a readout, or None.

    There is no such form if a memory is no linear recursion, if its psi depends on the point, the step number
    or other memories, if it covers only some of the parameters, or forgets all in one step (b1 = 0); nor with
    a window, which cuts the memory.
    """
    if rule.window is not None:
        return None
    found = _form(rule.tx, params)
    return None if found is None else found._replace(h=rule.h)


@found_once
def _form(tx: optax.GradientTransformation, params: Any) -> KernelForm | None:
    try:
        packed = packed_memories(tx, params)
    except ValueError:
        return None
    if any(kind.level > 0 or kind.decay == 0 for kind in packed.kinds):
        return None
    # Tried on few parameters, and used for all.
    fewer = smaller(tx, params)
    form = _tried(tx, packed_memories(tx, fewer), fewer)
    return None if form is None else form._replace(packed=packed, unravel=_unravel(params))


def _unravel(params: Any) -> Callable[[Vector], Params]:
    with jax.ensure_compile_time_eval():
        return unravel_like(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params))


def _tried(tx: optax.GradientTransformation, packed: Packed, params: Any) -> KernelForm | None:
    """The transformation of these memories on parameters of these shapes."""
    theta = jax.eval_shape(ravel, params)
    shapes = [y.shape for y in jax.eval_shape(lambda: _zeros(packed))]
    if any(shape != theta.shape for shape in shapes) or not _of_the_gradient(packed, theta):
        return None

    def begun(theta: Vector) -> Memory:
        return packed.memory(initial_state(packed.known.at.tx, theta))

    zeros = np.zeros(theta.shape, theta.dtype)
    first = [np.asarray(y) for y in compiled_quickly(begun, zeros)(zeros)]
    if any(np.any(y != y[0]) for y in first):
        return None
    begins = tuple(float(y[0]) for y in first)
    with jax.ensure_compile_time_eval():
        one = jnp.ones((), theta.dtype)
    form = KernelForm(one, packed, begins, promoting(tx), _unravel(params), steady=False, settled=False)
    if packed.known.at.scheduled or not _fades(packed, theta):
        return form
    # A memory that begins at zero begins at a negligible number here.
    from_zero = all(abs(y) <= float(jnp.finfo(theta.dtype).tiny) ** 0.8 for y in begins)
    steady = from_zero and _is_the_same(form, theta, STEPS)
    return form._replace(steady=steady, settled=steady or _is_the_same(form, theta, LATER))


def _of_the_gradient(packed: Packed, theta: Any) -> bool:
    """Whether psi and the memories before the first step depend on neither the point nor the step number."""
    at = packed.known.at

    def memories(n: Scalar, whole: Any, theta: Vector) -> Any:
        start = at.memories(initial_state(at.tx, theta))
        return start, at.update_of(n, whole, jnp.ones_like(theta), packed.unpacked(_zeros(packed)), theta)[1]

    return not dependence(memories, theta.dtype.type(1), np.int32(1), theta).any()


def _fades(packed: Packed, theta: Any) -> bool:
    return all(kind.decay**LATE < float(jnp.finfo(theta.dtype).eps) for kind in packed.kinds)


def _is_the_same(form: KernelForm, theta: Any, steps: np.ndarray) -> bool:
    """Whether the update is the same function of averages of unit mass at these steps and at step LATE."""
    packed, eps = form.packed, float(jnp.finfo(theta.dtype).eps)

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
        apart = in_rows(lambda n: jnp.max(jnp.abs(update(n) - late)), jnp.asarray(steps, theta.dtype))
        return jnp.max(apart) / jnp.max(jnp.abs(late))

    rows = np.random.default_rng(0).standard_normal((2 + len(packed.kinds), *theta.shape)).astype(theta.dtype)
    # In float32 optax's own 1 - d^n is that far off.
    arguments = (rows, *np.asarray(SIZES, theta.dtype).T)
    return float(compiled_quickly(program, *arguments)(*arguments)) < eps**0.5


def _zeros(packed: Packed) -> Memory:
    known = zip(packed.known.kinds, packed.known.shapes, strict=True)
    return packed.packed([jnp.zeros(shape, kind.dtype) for kind, shape in known])
