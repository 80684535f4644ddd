"""The constant factor at the end of a program's results, such as a learning rate.

The program is evaluated once with unknown data. For a value that depends on data, only the largest constant
that multiplies it since the last operation other than a scaling is kept,

    c (a + b) -> c max(a, b),       c x -> c a,       f(x) -> 1 for any other f,

with a, b the factors of the operands. Values that depend on no data (a step counter and the schedule that
reads it) are computed as usual.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from implicit_adam.programs.captured import CALLS, inner_jaxprs

# Operations that keep the size of a value.
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
# Operations whose factor is the largest of their operands' factors.
JOINS = ("add", "sub", "add_any", "concatenate")


class Data(NamedTuple):
    """A value that depends on data, and the constant that multiplies it."""

    factor: float


def last_factors(program: Any, arguments: list[Any]) -> list[float | None]:
    """The largest constant at the end of each result of a closed jaxpr; None for a result without data.

    Each of `arguments` is a known number or array, or `Data(1.0)`.
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
    """The factor of a choice, a sum or a concatenation: the largest of the operands with data, else 1."""
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
    """The results of an equation without data; a flag turned into a number (to disable a step) is on."""
    variables = {x: v for x, v in zip(equation.invars, operands, strict=True) if not hasattr(x, "val")}
    alone = jaxpr.replace(
        constvars=[], invars=list(variables), outvars=list(equation.outvars), eqns=[equation]
    )
    results = jaxpr_as_fun(ClosedJaxpr(alone, []))(*variables.values())
    switch = equation.primitive.name == "convert_element_type" and np.asarray(operands[0]).dtype == bool
    return [np.ones_like(x) for x in results] if switch else results


def _parts(inner: Any) -> tuple[Any, Any]:
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
