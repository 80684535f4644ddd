"""What constant the results of a program are multiplied by at their end, such as a learning rate.

The program is gone through once, with its data unknown: of a value that depends on data only the largest
constant is kept that multiplies it since the last operation that is no scaling,

    c (a + b) -> c max(a, b),       c x -> c a,       f(x) -> 1 for any other f,

with a, b those of the operands. What depends on no data (a step counter and the schedule that reads it) is
computed as it is.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from implicit_adam.programs.captured import CALLS, inner_jaxprs

# A value through these is the same one, or its negative.
SAME = (
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "dynamic_slice",
    "neg",
    "optimization_barrier",
    "reduce_precision",
    "reshape",
    "slice",
    "split",
    "squeeze",
    "transpose",
)
# The largest of several operands.
JOINS = ("add", "sub", "add_any", "concatenate")


class Data(NamedTuple):
    """A value that depends on data, and what it is multiplied by."""

    factor: float


def last_factors(program: Any, arguments: list[Any]) -> list[float | None]:
    """The constant at the end of each result of a closed jaxpr, at most; None for one without data.

    Each of `arguments` is a number or array that is known, or `Data(1.0)`.
    """
    with jax.ensure_compile_time_eval():
        results = _through(program.jaxpr, program.consts, arguments)
    return [x.factor if isinstance(x, Data) else None for x in results]


def _through(jaxpr: Any, consts: Any, arguments: list[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(x: Any) -> Any:
        return x.val if hasattr(x, "val") else values[x]

    for equation in jaxpr.eqns:
        results = _results(jaxpr, equation, [read(x) for x in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _results(jaxpr: Any, equation: Any, operands: list[Any]) -> list[Any]:
    name, inner = equation.primitive.name, inner_jaxprs(equation)
    if not any(isinstance(x, Data) for x in operands):
        return _computed(jaxpr, equation, operands)
    if name == "cond":
        branches = [_through(*_parts(branch), operands[1:]) for branch in inner]
        return [_one_of(list(cases)) for cases in zip(*branches, strict=True)]
    if name in CALLS and len(inner) == 1:
        return _through(*_parts(inner[0]), operands)
    if name == "select_n":
        return [_one_of(operands[1:])]
    if name in JOINS:
        return [_one_of(operands)]
    if name in SAME:
        return [operands[0] for _ in equation.outvars]
    if name in ("mul", "div"):
        return [_scaled(name, *operands)]
    return [Data(1.0) for _ in equation.outvars]


def _one_of(cases: list[Any]) -> Any:
    """One of several values, their sum, or all of them; zeros and other constants have no say."""
    factors = [x.factor for x in cases if isinstance(x, Data)]
    return Data(max(factors)) if factors else Data(1.0)


def _scaled(name: str, x: Any, y: Any) -> Data:
    if isinstance(x, Data) and isinstance(y, Data):
        return Data(1.0)
    if name == "div":
        return Data(x.factor / _largest(y)) if isinstance(x, Data) and _largest(y) > 0 else Data(1.0)
    return Data(x.factor * _largest(y)) if isinstance(x, Data) else Data(y.factor * _largest(x))


def _largest(x: Any) -> float:
    return float(np.max(np.abs(np.asarray(x, np.float64)), initial=0.0))


def _computed(jaxpr: Any, equation: Any, operands: list[Any]) -> list[Any]:
    """Without data; a flag that becomes a number, by which a step is switched off, is taken to be on."""
    variables = {x: v for x, v in zip(equation.invars, operands, strict=True) if not hasattr(x, "val")}
    alone = jaxpr.replace(
        constvars=[], invars=list(variables), outvars=list(equation.outvars), eqns=[equation]
    )
    results = jaxpr_as_fun(ClosedJaxpr(alone, []))(*variables.values())
    switch = equation.primitive.name == "convert_element_type" and np.asarray(operands[0]).dtype == bool
    return [np.ones_like(x) for x in results] if switch else results


def _parts(inner: Any) -> tuple[Any, Any]:
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
