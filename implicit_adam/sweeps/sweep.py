"""`sweep`: evaluates one function at many points."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from implicit_adam.checks.numbers import check_count
from implicit_adam.sweeps.checkpoint import Checkpoint, opened
from implicit_adam.sweeps.grid import Grid, as_grid, check_names
from implicit_adam.sweeps.lanes import Lanes, device_mesh, prepared
from implicit_adam.sweeps.result import SweepResult

Advance = Callable[[int, int], None]


def sweep(
    fn: Callable[..., Any],
    grid: Any,
    *,
    chunk_size: Any = None,
    checkpoint: Any = None,
    progress: bool | Advance = True,
    mesh: Mesh | None = None,
    cost: Callable[..., Any] | None = None,
) -> SweepResult:
    """Evaluate fn at every point of a grid, as one compiled program over all devices.

    - `fn`: `fn(**point) -> pytree of arrays`, traced once per sweep and vmapped; values that it closes over
      are those at the call. A second sweep of the same function (not a new lambda) is not compiled again.
    - `grid`: `{name: 1-D array, ..}` with increasing values, for their product (the axes of the result, in
      this order), or a list of points `[{name: value, ..}, ..]` (one axis, "point").
    - `chunk_size`: how many points ("lanes") run at a time, which bounds the memory. None: all; "auto": as
      many as fit into half of the memory by the compiler's plan. Rounded up to a multiple of the devices.
    - `checkpoint`: a folder that keeps every finished chunk. The same call continues where it was interrupted
      and ends with the same bits. A different fn, grid, chunk size, dtype, version or set of devices never
      reads the chunks of another. Broken files are computed again with a warning.
    - `progress`: True for a bar with the time left (on a terminal or in a notebook; needs tqdm), False for
      nothing, or your own `progress(done, lanes)`.
    - `mesh`: the devices; by default all, of all processes after `jax.distributed.initialize()`. Every
      process gets the whole result.
    - `cost`: `cost(**point) -> number`, the relative length of a run, e.g. `lambda h, beta: 1 / h`. A chunk
      runs until its longest lane ends; with costs, lanes of similar length share a chunk.

    A point with a number that is not finite has False in `ok`; the others are not affected. If fn returns a
    `Trajectory` or an `Observed`, its own flag `finite` decides. Raises `ValueError` for a bad grid (empty,
    not increasing, not finite, names that fn does not take), chunk size or folder, and an `OSError` that says
    what to do when a chunk cannot be written.
    """
    points = as_grid(grid, fn)
    if chunk_size is not None and chunk_size != "auto":
        check_count("chunk_size", chunk_size)
    mesh = device_mesh(mesh)
    chunk = prepared(fn, points.points, chunk_size, mesh)
    order = _order(points, cost)
    store = None
    if checkpoint is not None:
        kinds = [device.device_kind for device in mesh.devices.flat]
        store = opened(checkpoint, points, chunk.digest, kinds, chunk.size, order.tolist() if cost else None)
    shape = chunk.shape
    like = [jax.ShapeDtypeStruct((chunk.size, *x.shape), x.dtype) for x in jax.tree.leaves(shape)]
    leaves = [np.empty((points.lanes, *x.shape[1:]), x.dtype) for x in like]
    with _reporter(points.lanes, progress=progress) as advance:
        for i, lanes in enumerate(_chunks(order, chunk.size)):
            found = _load(store, i, like) if store else None
            if found is None:
                found = jax.tree.leaves(chunk(_padded(points, lanes, chunk.size)))
                if store and jax.process_index() == 0:
                    store.save(i, found)
            for leaf, part in zip(leaves, found, strict=True):
                leaf[lanes] = part[: len(lanes)]
            advance(min((i + 1) * chunk.size, points.lanes), points.lanes)
    return _result(points, jax.tree.structure(shape), leaves)


def _order(grid: Grid, cost: Callable[..., Any] | None) -> np.ndarray:
    """The lanes from short to long; lanes of equal cost stay in the order of the grid."""
    if cost is None:
        return np.arange(grid.lanes)
    check_names("cost", cost, tuple(grid.points))
    costs = [
        float(cost(**dict(zip(grid.points, point, strict=True))))
        for point in zip(*grid.points.values(), strict=True)
    ]
    if not np.isfinite(costs).all():
        msg = f"cost must give a finite number for every point, got {min(costs)} .. {max(costs)}"
        raise ValueError(msg)
    return np.argsort(costs, kind="stable")


def _chunks(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _padded(grid: Grid, lanes: np.ndarray, size: int) -> Lanes:
    """The points of a whole chunk, filled up with copies of the last lane."""
    filled = np.concatenate([lanes, np.full(size - len(lanes), lanes[-1])])
    return {name: values[filled] for name, values in grid.points.items()}


def _load(store: Checkpoint, i: int, like: list[jax.ShapeDtypeStruct]) -> list[np.ndarray] | None:
    """Read a chunk in the first process and broadcast it, so that all processes agree on what is there."""
    if jax.process_count() == 1:
        return store.load(i, like)
    found = store.load(i, like) if jax.process_index() == 0 else None
    if not multihost_utils.broadcast_one_to_all(np.asarray(found is not None)):
        return None
    filled = found if found is not None else [np.zeros(x.shape, x.dtype) for x in like]
    return [np.asarray(x) for x in multihost_utils.broadcast_one_to_all(filled)]


def _result(grid: Grid, structure: Any, leaves: list[np.ndarray]) -> SweepResult:
    ok = np.ones(grid.lanes, bool)
    for part in jax.tree.leaves(jax.tree.unflatten(structure, leaves), is_leaf=_is_flagged):
        fine = np.asarray(part.finite, bool) if _is_flagged(part) else np.isfinite(part)
        ok &= fine.reshape(grid.lanes, -1).all(axis=1)
    shaped = [leaf.reshape(*grid.shape, *leaf.shape[1:]) for leaf in leaves]
    values = jax.tree.unflatten(structure, shaped)
    return SweepResult(grid.dims, grid.coords, values, ok.reshape(grid.shape))


def _is_flagged(part: Any) -> bool:
    """Whether a part of a result has its own flag `finite`, as runs do, where NaN may mean "unknown"."""
    return isinstance(part, tuple) and "finite" in getattr(part, "_fields", ())


@contextlib.contextmanager
def _reporter(lanes: int, *, progress: bool | Advance) -> Iterator[Advance]:
    if callable(progress):
        yield progress
        return
    if not isinstance(progress, bool):
        msg = f"progress must be True, False or a function progress(done, lanes), got {progress!r}"
        raise ValueError(msg)  # noqa: TRY004
    bar = _bar(lanes) if progress and jax.process_index() == 0 else None

    def advance(done: int, _: int) -> None:
        if bar is not None:
            bar.update(done - bar.n)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()


def _bar(lanes: int) -> Any:
    """A bar with the time left, if tqdm is installed, on a terminal or in a notebook; None otherwise."""
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return None
    try:
        with warnings.catch_warnings():
            # A notebook without ipywidgets gets a bar of text; no need to warn of it.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=lanes, unit="lane", leave=False, mininterval=0.5)
