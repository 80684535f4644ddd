"""Readable reprs of results and optimizers: values if they are few, shapes and ranges if they are many."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Arrays longer than FEW show their range, larger than MANY only their shape: a repr must be cheap.
FEW, MANY = 4, 1_000_000


def listed(names: Iterable[Any]) -> str:
    """Names in quotes, with commas."""
    return ", ".join(repr(str(name)) for name in names)


def exact(value: Any) -> str:
    """One number with just enough digits for its dtype: float32's 0.001 as 0.001."""
    return str(np.asarray(value)[()])


def brief(value: Any) -> str:
    """A leaf of a result: a number, a few numbers, or dtype[shape] and range; tracers as dtype[shape]."""
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        return f"{value:.4g}" if isinstance(value, float) else _named(value)
    kind = f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    hidden = isinstance(value, Tracer) or not getattr(value, "is_fully_addressable", True)
    if hidden or value.size == 0 or value.size > MANY or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return kind
    numbers = np.asarray(value)
    if numbers.ndim == 0:
        return _number(numbers[()])
    if numbers.ndim == 1 and numbers.size <= FEW:
        return f"[{', '.join(map(_number, numbers))}]"
    if numbers.dtype == bool:
        return f"{kind} {numbers.sum()} of {numbers.size} True"
    return f"{kind} {_range(numbers)}"


def tree(value: Any) -> str:
    """A pytree: containers as written in Python, leaves in brief."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {tree(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return ("[{}]" if isinstance(value, list) else "({})").format(", ".join(map(tree, value)))
    if value is None or jax.tree_util.all_leaves([value]):
        return brief(value)
    return f"{type(value).__name__}({', '.join(tree(leaf) for leaf in jax.tree.leaves(value))})"


def call(value: Any) -> str:
    """An optimizer with its hyperparameters: Adam(h=0.001, beta=0.9, ..)."""
    fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return f"{type(value).__name__}({', '.join(f'{name}={_argument(x)}' for name, x in fields)})"


def line(value: Any) -> str:
    """A named tuple on one line."""
    parts = (f"{name}={tree(part)}" for name, part in value._asdict().items())
    return f"{type(value).__name__}({', '.join(parts)})"


def fields_of(value: Any, **instead: str) -> str:
    """A named tuple, one field a line; `instead` gives the text of some fields."""
    return table(type(value).__name__, {**value._asdict(), **instead})


def named(index: Any, words: tuple[str, ...]) -> str:
    """An index with the words it stands for, if it is one known number."""
    known = np.ndim(index) == 0 and not isinstance(index, Tracer)
    return f"{int(index)}: {words[int(index)]}" if known else brief(index)


def norms(value: Any) -> str:
    """A named tuple of vectors, one a line: the 2-norm, then the value."""
    return table(
        type(value).__name__, {name: f"norm {_norm(x)}: {tree(x)}" for name, x in value._asdict().items()}
    )


def study(value: Any) -> str:
    """A study of convergence: one line for each h, then the verdict on each slope."""
    orders = list(value.error)
    lines = [
        "Convergence",
        f"  {'h':>10} {'steps':>8}" + "".join(f" {f'order {q}':>10} {'slope':>6}" for q in orders),
    ]
    for i, (h, steps) in enumerate(zip(value.h, value.steps, strict=True)):
        errors = ""
        for q in orders:
            slope = f"{value.local_slope[q][i - 1]:.2f}" if i else ""
            errors += f" {value.error[q][i]:10.3g} {slope:>6}"
        lines.append(f"  {h:10.3g} {steps:8d}{errors}")
    for q in orders:
        said = f"{value.verdict[q]}: {value.why[q]}"
        lines.append(f"  order {q}: slope {value.slope[q]:.3f} +- {value.slope_stderr[q]:.3f}, {said}")
    return "\n".join(lines)


def table(title: str, entries: Mapping[str, Any]) -> str:
    """A title, and below it one entry a line."""
    width = max(map(len, entries), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {_entry(value)}" for name, value in entries.items())])


def _entry(value: Any) -> str:
    return value if isinstance(value, str) else tree(value)


def _argument(value: Any) -> str:
    """A hyperparameter, with all digits if it is one or a few numbers: 0.9999 is not 1."""
    if dataclasses.is_dataclass(value):
        return repr(value)
    if not isinstance(value, jax.Array | np.ndarray) or isinstance(value, Tracer) or value.size > FEW:
        return brief(value)
    return exact(value) if value.ndim == 0 else f"[{', '.join(map(exact, np.ravel(value)))}]"


def _norm(value: Any) -> str:
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return "traced"
    return f"{np.sqrt(sum(np.sum(np.asarray(leaf, float) ** 2) for leaf in leaves)):.4g}"


def _number(x: Any) -> str:
    return f"{x:.4g}" if np.issubdtype(np.asarray(x).dtype, np.inexact) else str(x)


def _range(numbers: np.ndarray) -> str:
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return "nothing finite"
    if np.iscomplexobj(numbers):
        span = f"|.| {_number(np.abs(finite).min())} .. {_number(np.abs(finite).max())}"
    else:
        span = f"{_number(finite.min())} .. {_number(finite.max())}"
    lost = numbers.size - finite.size
    return f"{span}, {lost} not finite" if lost else span


def _named(value: Any) -> str:
    """A bool, int, str or None by its repr, a function by its name, anything else by its type."""
    if isinstance(value, bool | int | str | None):
        return repr(value)
    name = getattr(value, "__name__", None)
    return name if callable(value) and name else f"<{type(value).__name__}>"
