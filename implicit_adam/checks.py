"""Bad arguments, refused at the boundary with words: what came, what is allowed, how to mend it.

Always as `ValueError`, for values and types alike, so that callers have one thing to catch.

A traced value cannot be looked at; it is let through, and trouble shows as a flag in the result. Known values
are looked at with numpy: under an outer jit, jax.numpy would trace even these, and XLA flushes subnormals.
"""

import inspect
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from implicit_adam.types import StepNumber


def is_traced(x: object) -> bool:
    """Whether the value is unknown at this point (inside jit, vmap or a derivative)."""
    return isinstance(x, Tracer)


SPLIT = (
    "Leave out what is not trained and give it back inside the loss. In equinox: params, rest = "
    "eqx.partition(model, eqx.is_inexact_array) and loss = lambda params: f(eqx.combine(params, rest)); "
    "in flax: graph, params, rest = nnx.split(model, nnx.Param, ...) and f(nnx.merge(graph, params, rest)); "
    "of a dict: take its other entries"
)


def check_params(params: PyTree) -> PyTree:
    """Parameters are a non-empty pytree of finite real floating numbers of one dtype; returned as arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        _check_leaf("params" + jax.tree_util.keystr(path), leaf)
    if sum(np.size(leaf) for _, leaf in leaves) == 0:
        msg = "params holds no numbers; pass a pytree with at least one floating-point array"
        raise ValueError(msg)
    dtypes = {jnp.result_type(leaf) for _, leaf in leaves}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        msg = (
            f"params mixes the dtypes {names}; cast all leaves to one of them: "
            f"jax.tree.map(lambda x: jnp.asarray(x, '{max(dtypes, key=lambda x: x.itemsize)}'), params)"
        )
        raise ValueError(msg)
    for path, leaf in leaves:
        if not is_traced(leaf) and not np.isfinite(np.asarray(leaf, np.float64)).all():
            msg = (
                f"params{jax.tree_util.keystr(path)} holds NaN or infinite numbers; start from a finite point"
            )
            raise ValueError(msg)
    (dtype,) = dtypes
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def _check_leaf(name: str, leaf: Any) -> None:
    """A real floating array, or words on what to do with what it is."""
    if not is_numeric(leaf):
        swapped = "are loss and params swapped?" if callable(leaf) and name == "params" else None
        fix = conversion(leaf) or swapped or SPLIT
        msg = f"{name} is a {type(leaf).__name__}, no array of numbers. {fix[0].upper()}{fix[1:]}"
        raise ValueError(msg)
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.floating):
        return
    if jnp.issubdtype(dtype, jnp.complexfloating):
        fix = (
            "Parameters are real: train the real and the imaginary part, {'re': x.real, 'im': x.imag}, and "
            "put them together inside the loss, x = jax.lax.complex(re, im)"
        )
    elif jnp.issubdtype(dtype, jax.dtypes.prng_key):
        fix = f"A random key is not trained. {SPLIT}"
    else:
        fix = f"Convert what is to be trained: x.astype(float). Of what is not, a counter or flag: {SPLIT}"
    msg = f"{name} has the dtype {dtype}; only real floating dtypes are allowed. {fix}"
    raise ValueError(msg)


def is_numeric(leaf: Any) -> bool:
    """An array of numbers or a number; a random key counts until its dtype is looked at."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufcV" and leaf.dtype.names is None
    return isinstance(leaf, jax.Array | int | float | complex)


def conversion(leaf: Any) -> str | None:
    """How arrays of other libraries become ours, told by their type's name, without importing them."""
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


def check_batches(batches: PyTree) -> int:
    """All leaves of `batches` share their leading axis, the number m of mini-batches; returns m."""
    if batches is None:
        return 1
    _check_no_list_of_batches(batches)
    leaves = jax.tree_util.tree_leaves_with_path(batches, is_leaf=lambda x: isinstance(x, Iterator))
    for path, leaf in leaves:
        if not is_numeric(leaf):
            fix = conversion(leaf) or f"collect and stack them: {STACK.replace('batches)', 'loader)')}"
            msg = f"batches{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, no array; {fix}"
            raise ValueError(msg)
    if not leaves or any(jnp.ndim(leaf) == 0 for _, leaf in leaves):
        msg = "batches must be a pytree of arrays whose leading axis counts the mini-batches"
        raise ValueError(msg)
    sizes = {jnp.shape(leaf)[0] for _, leaf in leaves}
    if len(sizes) > 1 or sizes == {0}:
        msg = (
            f"batches has leaves with leading axes {sorted(sizes)}; all must have the same length m >= 1, "
            "one entry a mini-batch (reshape the data to (m, batch size, ...))"
        )
        raise ValueError(msg)
    return sizes.pop()


STACK = "jax.tree.map(lambda *x: jnp.stack(x), *batches)"


def _check_no_list_of_batches(batches: PyTree) -> None:
    """A list whose entries are built alike, [{'x': .., 'y': ..}, ..], is a list of mini-batches."""
    if not isinstance(batches, list) or any(isinstance(x, jax.Array | np.ndarray) for x in batches):
        return
    alike = len({jax.tree.structure(batch) for batch in batches}) == 1
    if alike and jax.tree.leaves(batches[0]):
        msg = (
            f"batches is a Python list of {len(batches)} mini-batches; stack them to one pytree of arrays "
            f"whose leading axis counts them: {STACK}, all of one shape (drop or fill up a smaller last one)"
        )
        raise ValueError(msg)


def check_loss(loss: Callable[..., Any], params: PyTree, batches: PyTree) -> None:
    """The loss is one real number, seen without computing it."""
    check_takes(loss, "params" if batches is None else "params and batch")

    def first(params: PyTree, batches: PyTree) -> Any:
        return loss(params) if batches is None else loss(params, jax.tree.map(lambda x: x[0], batches))

    try:
        value = jax.eval_shape(first, params, batches)
    except TypeError as error:
        if not isinstance(batches, list) or "list" not in str(error):
            raise
        msg = (
            f"the loss fails on its first mini-batch, a list of {len(batches)} arrays ({error}). If "
            f"`batches` is a list of mini-batches, stack them: {STACK}"
        )
        raise ValueError(msg) from error
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = f"shape {shape}, dtype {dtype}" if dtype is not None else type(value).__name__
        msg = f"loss must return one real number (shape (), floating dtype), got {got}; take a mean?"
        raise ValueError(msg)


def check_takes(loss: Any, what: str) -> None:
    """The loss can be called with params alone, or with params and a batch."""
    if not callable(loss):
        msg = f"loss must be a function, loss(params) or loss(params, batch), got a {type(loss).__name__}"
        raise ValueError(msg)  # noqa: TRY004
    try:
        inspect.signature(loss).bind(*what.split(" and "))
    except TypeError as error:
        fix = (
            "it is called as loss(params), without batches. Pass `batches` where they are taken; elsewhere "
            "close over the data, lambda params: loss(params, data), or take the mean over mini-batches, "
            "lambda params: jnp.mean(jax.vmap(loss, (None, 0))(params, batches))"
            if what == "params"
            else "with `batches` it is called as loss(params, batch); give it that second argument, or leave "
            "`batches` out"
        )
        msg = f"the loss does not fit how it is called ({error}): {fix}"
        raise ValueError(msg) from error
    except ValueError:
        # Some builtins tell no signature.
        return


def check_schedule(schedule: Any, m: int, steps: int) -> Array | None:
    """The schedule is a list of batch indices 0 .. m-1, at least one a step; returned as an array."""
    if schedule is None:
        return None
    indices = schedule if is_traced(schedule) else plain_array("the entries of schedule", schedule)
    if not jnp.issubdtype(indices.dtype, jnp.integer) or indices.ndim != 1:
        msg = (
            "schedule must be a 1-D integer array of batch indices, one a step, "
            f"got dtype {indices.dtype} and shape {indices.shape}"
        )
        raise ValueError(msg)
    if len(indices) < steps:
        msg = f"schedule has {len(indices)} entries for {steps} steps; give one batch index for every step"
        raise ValueError(msg)
    if not is_traced(schedule) and indices.size and not (indices.min() >= 0 and indices.max() < m):
        msg = (
            f"schedule holds indices {indices.min()} .. {indices.max()}; "
            f"with m = {m} batches allowed are 0 .. {m - 1}"
        )
        raise ValueError(msg)
    # In an int8 the number of mini-batches itself, the mark of an unknown one, may not exist.
    return jnp.asarray(indices).astype(int)


def plain_array(name: str, values: Any) -> np.ndarray:
    """As numpy has it; rows of different lengths are refused."""
    try:
        return np.asarray(values)
    except ValueError as error:
        msg = f"{name} are ragged, rows of different lengths; give one flat list of numbers"
        raise ValueError(msg) from error


def check_number(name: str, value: Any) -> None:
    """A real number, not a word, a truth value or nothing."""
    if isinstance(value, bool | np.bool_) or not is_numeric(value):
        fix = conversion(value)
        msg = f"{name} must be a number, got {value!r}" + (f"; {fix}" if fix else "")
        raise ValueError(msg)
    if jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        msg = f"{name} must be a real number, got {value!r}"
        raise ValueError(msg)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A static count, as `steps` and `save_every`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        msg = f"{name} must be a Python integer >= {least}, got {value!r}"
        raise ValueError(msg)
    check_width(name, int(value))
    return int(value)


def check_transformation(name: str, tx: Any) -> None:
    """An optax transformation, told by its two functions."""
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        fix = "; ia.Adam(..) and its like need no wrapping" if hasattr(tx, "transformation") else ""
        msg = f"{name} must be an optax transformation such as optax.adam(1.0), got {_shown(tx)}{fix}"
        raise ValueError(msg)  # noqa: TRY004


def last_step() -> int:
    """The largest step number n such that n + 2 is still an integer of this precision."""
    return int(jnp.iinfo(jax.dtypes.canonicalize_dtype(np.int64)).max) - 2


def check_width(name: str, value: int) -> None:
    """No count wraps round."""
    if value > last_step():
        msg = (
            f"{name} = {value} is beyond {last_step()}, the largest in this precision; with 32-bit integers "
            "call jax.config.update('jax_enable_x64', True) first"
        )
        raise ValueError(msg)


def check_seeds(seeds: Sequence[int]) -> None:
    """Integers >= 0, each once: a run counted twice would look like certainty."""
    if len({check_count("a seed", seed, least=0) for seed in seeds}) < max(1, len(seeds)):
        msg = f"seeds must be one or more different integers, got {', '.join(map(str, seeds)) or 'none'}"
        raise ValueError(msg)


def check_order(order: Any, highest: int) -> None:
    """The order of the modified equation: 0 the leading (sign-type) flow, 1 the paper's, 2 and up beyond."""
    if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order <= highest:
        msg = f"order must be an integer from 0 (leading flow) to {highest}, got {order!r}"
        raise ValueError(msg)


def check_step_number(n: Any, schedule: Any) -> StepNumber:
    """Steps are counted 0, 1, 2, .. up to the end of a given schedule; returned wide enough to add to."""
    is_static = isinstance(n, int) and not isinstance(n, bool)
    if not is_static and (jnp.shape(n) != () or not jnp.issubdtype(jnp.result_type(n), jnp.integer)):
        msg = f"n, the step number, must be one integer, got {n!r}"
        raise ValueError(msg)
    if is_traced(n):
        return jnp.asarray(n).astype(int)
    known = int(np.asarray(n))
    check_width("n, the step number,", known)
    if known < 0 or (schedule is not None and known >= len(schedule)):
        allowed = ">= 0" if schedule is None else f"in 0 .. {len(schedule) - 1}, the steps of the schedule"
        msg = f"n, the step number, must be {allowed}; got {n}"
        raise ValueError(msg)
    return n if is_static else jnp.asarray(n).astype(int)


def check_orders(orders: Any, highest: int) -> tuple[int, ...]:
    """At least one order."""
    if not isinstance(orders, tuple | list) or len(orders) == 0:
        msg = f"orders must name the flows to study, for example (0, 1); got {orders!r}"
        raise ValueError(msg)
    for order in orders:
        check_order(order, highest)
    return tuple(orders)


def check_positive(name: str, value: Any) -> None:
    """A number > 0, unless traced."""
    check_number(name, value)
    if not is_traced(value) and not 0 < float(value) < math.inf:
        msg = f"{name} must be a finite number > 0, got {float(value):g}"
        raise ValueError(msg)


def check_rule(rule: Any, kind: type) -> None:
    """An optimizer of this library."""
    if not isinstance(rule, kind):
        msg = f"rule must be an optimizer such as ia.Adam(1e-3), got {_shown(rule)}"
        raise ValueError(msg)  # noqa: TRY004


def check_kind(owner: str, rule: Any, *kinds: type) -> None:
    """One of the optimizers that a formula is true of."""
    if not isinstance(rule, kinds):
        names = " or ".join(f"ia.{kind.__name__}" for kind in kinds)
        msg = f"{owner}: rule must be {names}, got {_shown(rule)}; each optimizer has its own formula"
        raise ValueError(msg)  # noqa: TRY004


def _shown(rule: Any) -> str:
    """What stands where an optimizer should."""
    if isinstance(rule, type) or (inspect.isfunction(rule) and rule.__module__.startswith("optax")):
        return f"{rule.__name__} itself; call it with its step size, {rule.__name__}(1e-3)"
    return f"a {type(rule).__name__}" if isinstance(rule, tuple) else repr(rule)


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


def check_saves(steps: Any, save_every: Any) -> tuple[int, int]:
    """How many steps, and how many between saves: the end must be one of them."""
    steps, save_every = check_count("steps", steps), check_count("save_every", save_every)
    if steps % save_every:
        msg = f"save_every = {save_every} must divide steps = {steps}, so that the end is saved"
        raise ValueError(msg)
    return steps, save_every


def check_saved(steps: int, save_every: int, save_at: Any) -> np.ndarray:
    """The step numbers to save at, the start, 0, in front: every so many, or chosen ones up to the last."""
    if save_at is None:
        return np.arange(0, steps + 1, save_every)
    if save_every != 1:
        msg = f"give save_every = {save_every} or save_at, not both"
        raise ValueError(msg)
    save_at = save_at if np.iterable(save_at) else [save_at]
    saved = (0, *(check_count("save_at", n) for n in save_at))
    if len(saved) < 2 or list(saved) != sorted(set(saved)) or saved[-1] > steps:
        msg = f"save_at must be increasing integers in 1 .. {steps} = steps, got {list(save_at)}"
        raise ValueError(msg)
    return np.array(saved)


def check_step_counts(step_counts: Any) -> list[int]:
    """At least three increasing step counts: a slope and a sign that it has settled."""
    given = step_counts if np.iterable(step_counts) else [step_counts]
    counts = [check_count("step_counts", count) for count in given]
    if len(counts) < 3 or sorted(set(counts)) != counts:
        msg = (
            f"step_counts must be at least three increasing integers, got {counts}; "
            "for example (50, 100, 200, 400)"
        )
        raise ValueError(msg)
    return counts


def check_writable(name: str, folder: Any) -> Path:
    """A folder to write to, made and tried before anything runs."""
    if not isinstance(folder, str | os.PathLike):
        msg = f"{name} must be the name of a folder, got {folder!r}"
        raise ValueError(msg)  # noqa: TRY004
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"{name} {folder} cannot be written to ({error.strerror}); name a folder that can"
        raise ValueError(msg) from error
    return folder


def check_horizon(horizon: Any) -> None:
    """The time T over which errors are taken."""
    check_number("horizon", horizon)
    if not 0 < horizon < math.inf:
        msg = f"horizon, the time T = steps * h, must be a finite number > 0, got {horizon!r}"
        raise ValueError(msg)


def check_wide_dtype(dtype: jnp.dtype) -> None:
    """Errors of O(h^2) drown in narrower arithmetic, or vanish because both sides round alike."""
    if dtype != jnp.float64:
        msg = (
            f"convergence needs float64 parameters, got {dtype}: its rounding would fake or hide the order. "
            "Call jax.config.update('jax_enable_x64', True) before creating arrays (or set "
            "JAX_ENABLE_X64=1) and cast the parameters: jax.tree.map(lambda x: x.astype('float64'), params)"
        )
        raise ValueError(msg)


def check_shifted_order(order: int, *, shifted: bool) -> None:
    """A shifted gradient is a product to O(h), which moves the field by O(h^2)."""
    if not isinstance(shifted, bool):
        msg = f"shifted must be True or False, got {shifted!r}"
        raise ValueError(msg)  # noqa: TRY004
    if shifted and order > 1:
        msg = f"shifted=True moves the field by O(h^2), as much as order {order} adds; leave one of them out"
        raise ValueError(msg)
