"""A digest of a function's program and captured constants, so that no stale compiled program is used.

`jax.jit` identifies a function by its identity alone. A bound method, or a function that reads a module's
array, keeps its identity when the array changes, and the old compiled program would be used for the new
array. The digest of a fresh trace tells them apart: it is the same for unchanged code and data, and differs
if either has changed.
"""

import hashlib
import re
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.checks.numbers import is_traced

ADDRESS = re.compile(r"0x[0-9a-f]+")
# Primitives that call one inner program with their own arguments, in the same order.
CALLS = (
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
)


def trace(f: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """The jaxpr of f at arguments like `args`, and the shapes of its results."""
    # A new function each time, since JAX would return the cached trace of an old one.
    return jax.make_jaxpr(lambda *args: f(*args), return_shape=True)(*args)


def digest(*jaxprs: Any) -> Hashable:
    """A digest that is equal for equal programs with equal constants; unique if a constant is traced."""
    total = hashlib.sha256()
    for jaxpr in jaxprs:
        total.update(ADDRESS.sub("", str(jaxpr)).encode())
        for constant in _constants(jaxpr):
            if is_traced(constant):
                return _Unknown()
            _add(total, constant)
    return total.hexdigest()


def digest_of_arrays(*leaves: Any) -> Hashable:
    """A digest that is equal for equal arrays; unique if one is traced. Other leaves are left out."""
    total, arrays = hashlib.sha256(), [x for x in leaves if eqx.is_array(x)]
    if any(map(is_traced, arrays)):
        return _Unknown()
    for array in arrays:
        _add(total, array)
    return total.hexdigest()


class _Unknown:
    """A digest that equals only itself."""


def equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of all jaxprs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_jaxprs(equation):
            yield from equations(inner)


def inner_jaxprs(equation: Any) -> list[Any]:
    """The jaxprs in the parameters of an equation: of a loop, a branch, a jit, .."""
    parameters = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
    return [parameter for parameter in parameters if _is_jaxpr(parameter)]


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns")


def _constants(jaxpr: Any) -> Iterator[Any]:
    """The arrays and numbers that a jaxpr holds, wherever this version of JAX keeps them."""
    yield from getattr(jaxpr, "consts", ())
    for equation in jaxpr.eqns:
        yield from (x.val for x in equation.invars if hasattr(x, "val"))
        for inner in inner_jaxprs(equation):
            yield from _constants(inner)


def _add(total: Any, constant: Any) -> None:
    if jnp.issubdtype(jnp.result_type(constant), jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    array = np.ascontiguousarray(jax.device_get(constant))
    total.update(f"{array.dtype}{array.shape}".encode())
    total.update(array.tobytes())
