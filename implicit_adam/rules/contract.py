"""Checks of a rule's contract, from its traced programs.

The program of a function (its jaxpr) is a list of operations on named values. Following the names from an
argument shows which results depend on it; an operation along an axis as long as the parameters mixes
coordinates. Every check is made once for each kind of rule: its class, static fields and dtypes.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.programs.dependence import dependence_in
from implicit_adam.programs.quickly import TracedError, canonical, compiled_quickly
from implicit_adam.rules.hyperparameters import made_up
from implicit_adam.rules.kernels import Kernel
from implicit_adam.types import StepNumber, Vector

# Stands for the number of parameters: a length that no other axis should have.
P = 7919


class Kind(NamedTuple):
    """What a rule is apart from the values of its hyperparameters: its structure, shapes and dtypes."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], Any], ...]


def check_contract(rule: Any) -> None:
    """Raise `ValueError` unless features, kernels and readout are what `AbstractRule` asks for."""
    broken = _broken(_kind(rule))
    if broken:
        msg = f"{type(rule).__name__}: {broken}"
        raise ValueError(msg)


def frozen_update_is_steady(rule: Any) -> bool:
    """Whether the update with all gradients taken at one point is the same at every step."""
    return _is_steady(_kind(rule))


def reads_the_point(rule: Any) -> bool:
    """Whether the readout depends on the parameters, as with weight decay."""
    return _reads_the_point(_kind(rule))


def settles(rule: Any) -> bool:
    """Whether the update frozen at a point approaches a limit as fast as the memory fades.

    Evaluated with made-up hyperparameters, since the rule's own may be traced. Their decays are at most .7,
    so the memory has faded to rounding after a thousand steps: an update that still changes then has no
    limit.
    """
    return _settles(_kind(rule))


@lru_cache(maxsize=512)
def _settles(kind: Kind) -> bool:
    def late(numbers: Any, g: Vector, steps: Any) -> Any:
        def at(n: StepNumber) -> Any:
            psi = _method(kind, "features")(numbers, g)
            scales = [kernel.scale for kernel in _method(kind, "kernels")(numbers, n)]
            return scales, _method(kind, "readout")(numbers, psi, g, n)

        return jax.lax.map(at, steps)

    # The square of a late step number must be an int32.
    found = _evaluated(late, made_up(kind.leaves), np.asarray([0.5]), np.asarray([1000, 40_000]))
    return found is not None and all(np.allclose(*x, rtol=1e-5, atol=0) for x in jax.tree.leaves(found))


def _kind(rule: Any) -> Kind:
    leaves, structure = jax.tree.flatten(rule)
    return Kind(structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves))


@lru_cache(maxsize=512)
def _broken(kind: Kind) -> str:
    """How a rule breaks the contract; empty if it does not."""
    try:
        given, kernels = _given(kind), _kernels(kind)
        features, readout = _features(kind), _readout(kind)
    except (TypeError, AttributeError) as error:
        return (
            "features(g), kernels(n) and readout(s, theta, n) must take vectors of any length and arrays as "
            "hyperparameters (for a decay that is no hyperparameter: jnp.asarray(0.9)), and run under jit: "
            f"{error}"
        )
    if not isinstance(given, tuple) or not isinstance(kernels, tuple):
        return "features(g) and kernels(n) must return tuples, one entry a feature: (g,) where there is one"
    shapes = [x.aval.shape for x in features.jaxpr.outvars]
    if not all(isinstance(kernel, Kernel) for kernel in kernels) or len(kernels) != len(shapes):
        return (
            f"kernels(n) must give one Kernel for each of the {len(shapes)} features, got {kernels}; "
            "see implicit_adam.rules.kernels"
        )
    if any(shape != (P,) for shape in (*shapes, *(x.aval.shape for x in readout.jaxpr.outvars))):
        return "features(g) and readout(s, theta, n) must be elementwise, of the shape of g and theta"
    for program, what in ((features, "features(g)"), (readout, "readout(s, theta, n)")):
        operation = next(_across_coordinates(program.jaxpr), None)
        if operation:
            return (
                f"{what} must be elementwise, but {operation} mixes coordinates; norms of the whole "
                "gradient, as in clipping, are beyond features, kernels and a readout: use ia.Optax"
            )
    if _depends(_of_kernels(kind, "decay")):
        return (
            "the decays of kernels(n) must be the same at every step, but they depend on n; a decay that "
            "changes makes no sum of exponentials in the lag: use ia.Optax"
        )
    if _spoils_dead_coordinates(kind):
        return (
            "its update has a value where all gradients are zero, but no finite derivative, so that a "
            "parameter that never gets a gradient would make its equation NaN. A root with eps outside "
            "does that: implicit_adam.rules.root(s, eps, inside=False, degree=2) guards it"
        )
    return ""


def _spoils_dead_coordinates(kind: Kind) -> bool:
    """Whether the update is finite at zero gradients but its derivative is not (made-up hyperparameters)."""

    def finite(numbers: Any, zero: Vector) -> Any:
        def update(g: Vector) -> Vector:
            return _method(kind, "readout")(numbers, _method(kind, "features")(numbers, g), zero, 1)

        both = jax.jvp(update, (zero,), (jnp.ones_like(zero),))
        return [jnp.isfinite(x).all() for x in both]

    found = _evaluated(finite, made_up(kind.leaves), np.zeros(1))
    return found is not None and bool(found[0] and not found[1])


@lru_cache(maxsize=512)
def _is_steady(kind: Kind) -> bool:
    known = all(kernel.masses is not None for kernel in _kernels(kind))
    return known and not _depends(_of_kernels(kind, "masses")) and not _depends(_readout(kind))


@lru_cache(maxsize=512)
def _reads_the_point(kind: Kind) -> bool:
    return _depends(_readout(kind), argument=-2)


def _evaluated(f: Callable[..., Any], *args: Any) -> Any:
    """f(*args) as one quickly compiled program, also inside of a trace; None if the rule holds traced values,
    as a schedule may.
    """
    args = jax.tree.map(canonical, args)
    try:
        with jax.numpy_dtype_promotion("standard"):
            program = compiled_quickly(f, *args)
    except TracedError:
        return None
    return jax.tree.map(np.asarray, program(*args))


def _method(kind: Kind, name: str) -> Callable[..., Any]:
    return lambda leaves, *args: getattr(jax.tree.unflatten(kind.structure, leaves), name)(*args)


def _arguments(kind: Kind) -> tuple[list[jax.ShapeDtypeStruct]]:
    return ([jax.ShapeDtypeStruct(*leaf) for leaf in kind.leaves],)


def _vector() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((P,), jnp.zeros((), float).dtype)


def _step_number() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jnp.zeros((), int).dtype)


def _kernels(kind: Kind) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        return jax.eval_shape(_method(kind, "kernels"), *_arguments(kind), 0)


def _given(kind: Kind) -> Any:
    """The shapes of what features(g) returns."""
    with jax.numpy_dtype_promotion("standard"):
        return jax.eval_shape(_method(kind, "features"), *_arguments(kind), _vector())


def _features(kind: Kind) -> Any:
    return _program(_method(kind, "features"), *_arguments(kind), _vector())


def _readout(kind: Kind) -> Any:
    """The program of the readout, whose last argument is n."""
    x = _vector()
    s = tuple(x for _ in _features(kind).jaxpr.outvars)
    return _program(_method(kind, "readout"), *_arguments(kind), s, x, _step_number())


def _of_kernels(kind: Kind, field: str) -> Any:
    def program(leaves: Any, n: StepNumber) -> Any:
        return [getattr(kernel, field) for kernel in _method(kind, "kernels")(leaves, n)]

    return _program(program, *_arguments(kind), _step_number())


def _program(f: Callable[..., Any], *args: Any) -> Any:
    # Hyperparameters are cast to the parameters' dtype only later.
    with jax.numpy_dtype_promotion("standard"):
        return jax.make_jaxpr(f)(*args)


def _depends(program: Any, argument: int = -1) -> bool:
    """Whether any result depends on an argument, by default the last one."""
    return bool(dependence_in(program.jaxpr)[:, argument].any())


def _across_coordinates(jaxpr: Any) -> Iterator[str]:
    """Operations that remove or run along an axis of length P: sums, matrix products, sorting, .."""
    for operation in jaxpr.eqns:
        before = [P in getattr(x.aval, "shape", ()) for x in operation.invars]
        after = [P in getattr(x.aval, "shape", ()) for x in operation.outvars]
        along = [operation.params.get(name) for name in ("axis", "dimension")]
        runs = any(axis is not None and _length(operation, axis) == P for axis in along)
        inner = _inner(operation.params)
        for x in inner:
            yield from _across_coordinates(x)
        if not inner and any(before) and (runs or not all(after)):
            yield operation.primitive.name


def _length(operation: Any, axis: int) -> int:
    return operation.invars[0].aval.shape[axis]


def _inner(parameters: Any) -> list[Any]:
    """The programs inside an operation, such as a jitted function or the branches of a condition."""
    leaves = [getattr(x, "jaxpr", x) for x in jax.tree.leaves(parameters)]
    return [x for x in leaves if hasattr(x, "eqns")]
