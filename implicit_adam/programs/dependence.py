"""Which results of a function depend on which of its arguments, read from its program."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool

from implicit_adam.programs.captured import CALLS, inner_jaxprs, trace

Depends = Bool[np.ndarray, "results arguments"]


def dependence(f: Callable[..., Any], *args: Any) -> Depends:
    """Whether each leaf of f(*args) depends on each leaf of `args`."""
    return dependence_in(trace(f, *args)[0].jaxpr)


def dependence_in(jaxpr: Any) -> Depends:
    """Whether each result of a jaxpr depends on each of its arguments.

    Nothing is computed. A loop counts as one operation, all results of which depend on all of its inputs.
    """
    count = len(jaxpr.invars)
    reached = _reached(jaxpr, [frozenset([i]) for i in range(count)])
    return np.array([[i in sources for i in range(count)] for sources in reached], bool).reshape(
        len(reached), count
    )


def passed_on(f: Callable[..., Any], *args: Any) -> Depends:
    """Whether each leaf of f(*args) is a leaf of `args`, passed on unchanged."""
    jaxpr = trace(f, *args)[0].jaxpr
    rows = [[out is argument for argument in jaxpr.invars] for out in jaxpr.outvars]
    return np.array(rows, bool).reshape(len(rows), len(jaxpr.invars))


def _reached(jaxpr: Any, arguments: list[frozenset[int]]) -> list[frozenset[int]]:
    """The arguments that each result of a jaxpr depends on."""
    known = dict(zip(jaxpr.invars, arguments, strict=True))

    def sources(x: Any) -> frozenset[int]:
        return frozenset() if hasattr(x, "val") else known.get(x, frozenset())

    for equation in jaxpr.eqns:
        results = _through(equation, [sources(x) for x in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [sources(x) for x in jaxpr.outvars]


def _through(equation: Any, arguments: list[frozenset[int]]) -> list[frozenset[int]]:
    name = equation.primitive.name
    inner = [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in inner_jaxprs(equation)]
    if name == "cond":
        chosen, *arguments = arguments
        branches = [_reached(jaxpr, arguments) for jaxpr in inner]
        return [chosen.union(*results) for results in zip(*branches, strict=True)]
    if name in CALLS and len(inner) == 1 and len(inner[0].invars) == len(arguments):
        return _reached(inner[0], arguments)
    return [frozenset().union(*arguments)] * len(equation.outvars)


def levels(depends: Depends) -> list[int] | None:
    """The length of the longest dependency chain below each item; None if there is a cycle.

    Row i of `depends` says which items j item i depends on; that an item depends on itself is ignored.
    """
    others = depends & ~np.eye(len(depends), dtype=bool)
    found = [-1] * len(depends)
    for level in range(len(depends)):
        free = [
            i
            for i in range(len(depends))
            if found[i] < 0 and all(found[j] >= 0 for j in np.flatnonzero(others[i]))
        ]
        for i in free:
            found[i] = level
    return None if -1 in found else found
