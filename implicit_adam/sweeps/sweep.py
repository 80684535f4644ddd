"""`sweep`: evaluates one function at many points."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from implicit_adam.checks.numbers import check_count, check_switch
from implicit_adam.sweeps.checkpoint import described, opened
from implicit_adam.sweeps.grid import Grid, as_grid, check_names
from implicit_adam.sweeps.lanes import device_mesh, lanes_a_chunk, traced
from implicit_adam.sweeps.pieces import Found, Pieces, chunks_of, cut, shared
from implicit_adam.sweeps.result import SweepResult

Advance = Callable[[int, int], None]


def sweep(
    fn: Callable[..., Any],
    grid: Any,
    *,
    chunk_size: Any = None,
    checkpoint: Any = None,
    part: tuple[int, int] | None = None,
    same_bits: bool = True,
    progress: bool | Advance = True,
    mesh: Mesh | None = None,
    cost: Callable[..., Any] | None = None,
) -> SweepResult:
    """Evaluate fn at every point of a grid, as one compiled program over all devices, or by many processes.

    - `fn`: `fn(**point) -> pytree of arrays`, traced once per sweep and vmapped; values that it closes over
      are those at the call. A second sweep of the same function (not a new lambda) is not compiled again.
    - `grid`: `{name: 1-D array, ..}` with increasing values, for their product (the axes of the result, in
      this order), or a list of points `[{name: value, ..}, ..]` (one axis, "point").
    - `chunk_size`: how many points ("lanes") run at a time, which bounds the memory. None: all; "auto": as
      many as fit into half of the memory by the compiler's plan. Rounded up to a multiple of the devices.
    - `checkpoint`: a folder that keeps every finished chunk. The same call continues where it was interrupted
      and ends with the same bits. Calls in several processes at the same time share the chunks: each takes
      the next free one, waits for those that others are computing, computes again what a killed process
      left, and returns the whole result. The folder of a different fn, grid, chunk size, dtype or version is
      refused. Broken files are computed again with a warning.
    - `part`: (i, k), 0 <= i < k, for the i-th of k processes: only the chunks i, i + k, i + 2k .. of the
      folder, returned as a table of their points. The same call without it afterwards collects all parts
      and computes what is missing.
    - `same_bits`: refuse to combine chunks made with another kind or number of devices, processor, number of
      cores or XLA flags: such chunks agree to rounding, not to the bit. False combines them.
    - `progress`: True for a bar with the time left (on a terminal or in a notebook; needs tqdm), False for
      nothing, or your own `progress(done, lanes)`.
    - `mesh`: the devices; by default all devices of this process.
    - `cost`: `cost(**point) -> number`, the relative length of a run, e.g. `lambda h, beta: 1 / h`. A chunk
      runs until its longest lane ends; with costs, lanes of similar length share a chunk.

    A point with a number that is not finite has False in `ok`; the others are not affected. If fn returns a
    `Trajectory` or an `Observed`, its own flag `finite` decides. Raises `ValueError` for a bad grid (empty,
    not increasing, not finite, names that fn does not take), chunk size, part or folder, and an `OSError`
    that says what to do when a chunk cannot be written.
    """
    points = as_grid(grid, fn)
    _check_options(chunk_size, checkpoint, part, same_bits=same_bits)
    mesh = device_mesh(mesh)
    program = traced(fn, points.points)
    order = _order(points, cost)

    def begun() -> int:
        size = lanes_a_chunk(program, points.lanes, chunk_size, mesh)
        # Before a folder is begun with chunks that this part has none of.
        chunks_of(part, points.lanes, size)
        return size

    store = None
    if checkpoint is not None:
        store = opened(checkpoint, described(points, program.digest, chunk_size, order), begun)
    size = store.size if store else begun()
    pieces = Pieces(points, program, mesh, size, cut(order, size))
    chunks = chunks_of(part, points.lanes, size)
    if store:
        found = shared(pieces, store, chunks, same_bits=same_bits)
    else:
        found = ((i, pieces.computed(i)) for i in chunks)
    lanes = np.sort(np.concatenate([pieces.lanes[i] for i in chunks]))
    with _reporter(len(lanes), progress=progress) as advance:
        leaves = _collected(pieces, lanes, found, advance)
    shape = points if part is None else points.table(lanes)
    return _result(shape, jax.tree.structure(program.shape), leaves)


def _check_options(chunk_size: Any, checkpoint: Any, part: Any, *, same_bits: Any) -> None:
    if chunk_size is not None and chunk_size != "auto":
        check_count("chunk_size", chunk_size)
    check_switch("same_bits", same_bits)
    if checkpoint is None and (part is not None or not same_bits):
        msg = (
            f"{'same_bits=False' if part is None else 'part'} is about the chunks in a folder; give "
            "checkpoint='folder', or leave it out (some points of a grid are a grid, too: a list of points)"
        )
        raise ValueError(msg)
    if checkpoint is None and jax.process_count() > 1:
        msg = (
            f"each of the {jax.process_count()} processes of jax.distributed would compute the whole sweep; "
            "give all of them checkpoint='folder', one that they all see: they share its chunks"
        )
        raise ValueError(msg)


def _collected(pieces: Pieces, lanes: np.ndarray, found: Found, advance: Advance) -> list[np.ndarray]:
    """The leaves of the results of some lanes, put together from their chunks."""
    leaves = [np.empty((len(lanes), *x.shape), x.dtype) for x in jax.tree.leaves(pieces.program.shape)]
    done = 0
    for i, results in found:
        places = np.searchsorted(lanes, pieces.lanes[i])
        for leaf, result in zip(leaves, results, strict=True):
            leaf[places] = result
        done += len(places)
        advance(done, len(lanes))
    return leaves


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
