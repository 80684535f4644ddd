"""Is a Hessian-vector product the derivative of the gradient that the optimizer sees?

It is not where the loss hides a dependence from autodiff: with `stop_gradient` (temporal-difference targets,
straight-through estimators) or a custom derivative that is not the true one, jvp(grad(loss)) misses terms
that change the gradient from step to step, and every correction of order h would be silently wrong.

The gradient is traced to a program. The product that autodiff gives is compared with that of the same
program with nothing hidden (stops become the identity, custom derivatives the functions themselves). Both
are exact, so they either agree to rounding or are different things; kinks such as ReLU's do no harm.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from implicit_adam.checks.numbers import is_traced
from implicit_adam.programs.captured import equations, inner_jaxprs, trace
from implicit_adam.programs.quickly import TracedError, compiled_quickly
from implicit_adam.types import Params

CUSTOM = ("custom_jvp_call", "custom_vjp_call")
HIDING = ("stop_gradient", *CUSTOM)
# The call that `jax.checkpoint` leaves, whose jaxpr must not hold constants.
RECOMPUTING = ("checkpoint", "remat")

# Keys of losses whose products were compared and agree.
_compared: set[Any] = set()


def check_products(loss: Callable[..., Any], key: Hashable, *args: Params) -> None:
    """Refuse a loss whose Hessian-vector products, in its first argument, miss a dependence.

    Compared along one random direction, once for each `key`: a digest of the loss's programs and arrays.
    Traced values are replaced by random ones: two programs are compared, and any point tells them apart.
    """
    if key in _compared:
        return
    jaxpr, _ = trace(jax.grad(loss), *args)
    agree = _products_agree(jaxpr, *args)
    if not agree:
        msg = (
            "the loss hides a dependence on the parameters from autodiff (jax.lax.stop_gradient, or a custom "
            "derivative that is not the derivative), so that its Hessian-vector products are not the "
            "derivative of its gradient and the result would be wrong; write the loss without it, or, where "
            "there is such an argument, pass shifted=True, which differences the gradient itself, or order=0"
        )
        raise ValueError(msg)
    _compared.add(key)


def may_hide(jaxpr: Any) -> bool:
    """Whether anything in a program stops derivatives or defines its own."""
    return _has(jaxpr, HIDING)


def has_custom_derivative(jaxpr: Any) -> bool:
    """Whether anything in a program defines its own derivative."""
    return _has(jaxpr, CUSTOM)


def _has(jaxpr: Any, names: tuple[str, ...]) -> bool:
    return any(equation.primitive.name.startswith(names) for equation in equations(jaxpr))


def _products_agree(jaxpr: Any, params: Params, *rest: Any) -> bool:
    given = (list(jaxpr.consts), params, *rest)
    known = [None if any(map(is_traced, jax.tree.leaves(x))) else x for x in given]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)

    def compared(values: list[Any], direction: Params) -> tuple[Any, Any]:
        consts, point, *others = values

        def product(*, hidden: bool) -> Any:
            def gradient(point: Params) -> Any:
                return evaluate(jaxpr.jaxpr, consts, jax.tree.leaves([point, *others]), hidden=hidden)

            return jax.jvp(gradient, (point,), (direction,))[1]

        left, right = product(hidden=True), product(hidden=False)
        size = sum(jnp.sum(jnp.abs(x)) for x in left + right)
        return sum(jnp.sum(jnp.abs(x - y)) for x, y in zip(left, right, strict=True)), size

    draw = np.random.default_rng(0)
    direction, *drawn = (
        _random_like(draw, shape) if value is None else value
        for value, shape in zip([None, *known], [shapes[1], *shapes], strict=True)
    )
    try:
        apart, size = compiled_quickly(compared, drawn, direction)(drawn, direction)
    except TracedError:  # inside a custom derivative; outside of a trace, the same loss is compared
        return True
    rounding = float(jnp.finfo(apart.dtype).eps) ** 0.5
    # Without its custom derivative a function may give the 0/0 that it avoids: that decides nothing.
    return not float(apart) > rounding * float(size)


def _random_like(draw: np.random.Generator, tree: Any) -> Any:
    """Normal random numbers, zeros for leaves that are not real; from NumPy, which compiles nothing."""

    def one(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            with jax.ensure_compile_time_eval():  # NumPy has no keys
                return jnp.zeros(x.shape, x.dtype)
        return draw.standard_normal(x.shape, np.float32).astype(x.dtype)

    return jax.tree.map(one, tree)


def evaluate(jaxpr: Any, consts: Any, args: Any, *, hidden: bool) -> list[Any]:
    """The outputs of a jaxpr; with `hidden=False` every stop is the identity and every call is inlined."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(x: Any) -> Any:
        return x.val if _is_literal(x) else values[x]

    for equation in _live(jaxpr):
        results = _apply(jaxpr, equation, read, hidden=hidden)
        values.update(zip(_read_later(equation), results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _live(jaxpr: Any) -> list[Any]:
    """The equations that the outputs need; those that do not enter the gradient cannot hide any of it."""
    needed, kept = {x for x in jaxpr.outvars if not _is_literal(x)}, []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(x for x in equation.invars if not _is_literal(x))
    return kept[::-1]


def _apply(jaxpr: Any, equation: Any, read: Callable[[Any], Any], *, hidden: bool) -> list[Any]:
    inner = inner_jaxprs(equation)
    if not hidden and equation.primitive.name.startswith((*HIDING, *RECOMPUTING)):
        args = [read(x) for x in equation.invars]
        results = evaluate(_opened(inner[0]), _consts(inner[0]), args, hidden=False) if inner else args
        return [x for x, out in zip(results, equation.outvars, strict=True) if out in _read_later(equation)]
    if not hidden and inner:
        unhidden = jax.tree.map(_unhidden, equation.params, is_leaf=lambda x: hasattr(x, "eqns"))
        equation = equation.replace(params=unhidden)
    invars = list(dict.fromkeys(x for x in equation.invars if not _is_literal(x)))
    alone = jaxpr.replace(constvars=[], invars=invars, outvars=_read_later(equation), eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*map(read, invars))


def _unhidden(inner: Any) -> Any:
    """A jaxpr inside a loop, a branch or a call, traced again with nothing hidden."""
    if not hasattr(inner, "consts"):
        return inner
    shapes = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in _opened(inner).invars]
    traced = jax.make_jaxpr(lambda *args: evaluate(_opened(inner), _consts(inner), args, hidden=False))
    return traced(*shapes)


def _is_literal(x: Any) -> bool:
    return hasattr(x, "val")


def _read_later(equation: Any) -> list[Any]:
    """The results of an equation that are not dropped."""
    return [x for x in equation.outvars if type(x).__name__ != "DropVar"]


def _opened(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _consts(jaxpr: Any) -> Any:
    return getattr(jaxpr, "consts", ())
