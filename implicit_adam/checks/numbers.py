"""Checks of numbers and counts."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_traced(x: object) -> bool:
    """Whether the value is unknown at this point (inside jit, vmap or a derivative)."""
    return isinstance(x, Tracer)


def is_numeric(leaf: Any) -> bool:
    """Whether a leaf is a number or an array of numbers; a random key counts until its dtype is checked."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufcV" and leaf.dtype.names is None
    return isinstance(leaf, jax.Array | int | float | complex)


def conversion(leaf: Any) -> str | None:
    """How to convert an array of another library, told by the module of its type without importing it."""
    match type(leaf).__module__.split(".")[0]:
        case "torch":
            return "convert torch tensors: jax.tree.map(lambda x: jnp.asarray(x.detach().cpu().numpy()), ..)"
        case "tensorflow":
            return "convert tensors: jax.tree.map(lambda x: jnp.asarray(x.numpy()), ..)"
        case "pandas":
            return "convert tables: x.to_numpy()"
    if isinstance(leaf, np.ndarray) or hasattr(leaf, "__array__"):
        return "convert it: jnp.asarray(x), with a dtype of numbers"
    return None


def check_number(name: str, value: Any) -> None:
    """A real number: no string, bool or None."""
    if isinstance(value, bool | np.bool_) or not is_numeric(value):
        fix = conversion(value)
        msg = f"{name} must be a number, got {value!r}" + (f"; {fix}" if fix else "")
        raise ValueError(msg)
    if jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        msg = f"{name} must be a real number, got {value!r}"
        raise ValueError(msg)


def check_finite(name: str, value: Any) -> None:
    """One number of either sign, finite unless traced."""
    check_number(name, value)
    if jnp.shape(value) != ():
        msg = (
            f"{name} must be a scalar, got shape {jnp.shape(value)}; for many values use jax.vmap over {name}"
        )
        raise ValueError(msg)
    if not is_traced(value) and not math.isfinite(value):
        msg = f"{name} must be a finite number, got {float(value):g}"
        raise ValueError(msg)


def check_positive(name: str, value: Any) -> None:
    """A number > 0, unless traced."""
    check_number(name, value)
    if not is_traced(value) and not 0 < float(value) < math.inf:
        msg = f"{name} must be a finite number > 0, got {float(value):g}"
        raise ValueError(msg)


def check_not_negative(name: str, value: Any) -> None:
    """One number >= 0, finite, unless traced."""
    check_finite(name, value)
    if not is_traced(value) and float(value) < 0:
        msg = f"{name} must be a finite number >= 0, got {float(value):g}"
        raise ValueError(msg)


def plain_array(name: str, values: Any) -> np.ndarray:
    """The values as a numpy array; rows of different lengths are refused."""
    try:
        return np.asarray(values)
    except ValueError as error:
        msg = f"{name} are ragged, rows of different lengths; give one flat list of numbers"
        raise ValueError(msg) from error


def last_step() -> int:
    """The largest step number n such that n + 2 is still an integer of this precision."""
    return int(jnp.iinfo(jax.dtypes.canonicalize_dtype(np.int64)).max) - 2


def check_width(name: str, value: int) -> None:
    """A count must fit into the integers of this precision, with room to add to it."""
    if value > last_step():
        msg = (
            f"{name} = {value} is beyond {last_step()}, the largest in this precision; with 32-bit integers "
            "call jax.config.update('jax_enable_x64', True) first"
        )
        raise ValueError(msg)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A static count such as `steps` or `save_every`, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        msg = f"{name} must be a Python integer >= {least}, got {value!r}"
        raise ValueError(msg)
    check_width(name, int(value))
    return int(value)


def check_switch(name: str, value: Any) -> bool:
    """A switch that is True or False; anything else, such as "no", would count as one of them."""
    if not isinstance(value, bool | np.bool_):
        msg = f"{name} must be True or False, got {value!r}"
        raise ValueError(msg)  # noqa: TRY004
    return bool(value)


def check_seeds(seeds: Sequence[int]) -> None:
    """One or more different integers >= 0: a run counted twice would make the error bar too small."""
    if len({check_count("a seed", seed, least=0) for seed in seeds}) < max(1, len(seeds)):
        msg = f"seeds must be one or more different integers, got {', '.join(map(str, seeds)) or 'none'}"
        raise ValueError(msg)
