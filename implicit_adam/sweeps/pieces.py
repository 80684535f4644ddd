"""A sweep in pieces: the chunks of a grid, and the processes that share those of one folder."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from implicit_adam.checks.numbers import check_count
from implicit_adam.sweeps.checkpoint import Checkpoint, Finished
from implicit_adam.sweeps.claims import claimed
from implicit_adam.sweeps.grid import Grid
from implicit_adam.sweeps.lanes import Chunk, Program, prepared


class Pieces(NamedTuple):
    """The chunks of a grid, and the program for `size` lanes that computes one."""

    grid: Grid
    program: Program
    mesh: Mesh
    size: int
    lanes: list[np.ndarray]

    def like(self, i: int) -> list[jax.ShapeDtypeStruct]:
        """The shapes of the results of chunk i."""
        count = len(self.lanes[i])
        return [jax.ShapeDtypeStruct((count, *x.shape), x.dtype) for x in jax.tree.leaves(self.program.shape)]

    def prepared(self) -> Chunk:
        """The program, compiled when first needed; not at all if every chunk exists."""
        return prepared(self.program, self.size, self.mesh)

    def computed(self, i: int) -> list[np.ndarray]:
        """The results of chunk i."""
        return self.prepared()({name: values[self.lanes[i]] for name, values in self.grid.points.items()})


def cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    """The lanes cut into chunks of the same size; the last chunk may have fewer."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def chunks_of(part: Any, lanes: int, size: int) -> range:
    """The indices of all chunks, or for a part (i, k) of every k-th one from i on."""
    chunks = -(-lanes // size)
    if part is None:
        return range(chunks)
    if not isinstance(part, tuple | list) or len(part) != 2:
        msg = f"part must be two integers (i, k) with 0 <= i < k, got {part!r}"
        raise ValueError(msg)
    i, k = check_count("i of part=(i, k)", part[0], least=0), check_count("k of part=(i, k)", part[1])
    if i >= k:
        msg = f"part must be (i, k) with i < k, got ({i}, {k}); the {k} parts are (0, {k}) .. ({k - 1}, {k})"
        raise ValueError(msg)
    if k > chunks:
        msg = (
            f"part=({i}, {k}): {lanes} points in chunks of {size} are {chunks}, too few for {k} parts; "
            "take fewer parts or a smaller chunk_size"
        )
        raise ValueError(msg)
    return range(i, chunks, k)


Found = Iterator[tuple[int, list[np.ndarray]]]


def shared(pieces: Pieces, store: Checkpoint, wanted: Iterable[int], *, same_bits: bool) -> Found:
    """Get every wanted chunk: load those that exist, and compute those that no other process is computing.

    Then wait for the others, and compute those that a dead process left.

    With `same_bits` it raises `ValueError`, before it computes anything, unless all are made alike.
    """
    makers: dict[str, int] = {}

    def loaded_or_computed(i: int) -> list[np.ndarray]:
        found = store.load(i, pieces.like(i))
        makers.setdefault(found.maker if found else pieces.prepared().maker, i)
        if same_bits:
            _check_alike(store.folder, makers)
        if found is None:
            found = Finished(pieces.computed(i), pieces.prepared().maker)
            store.save(i, found)
        return found.leaves

    absent, others = [], []
    for i in wanted:
        if store.path(i).exists():
            yield i, loaded_or_computed(i)
        else:
            absent.append(i)
    for chunks, wait in ((absent, False), (others, True)):
        for i in chunks:
            with claimed(store.claim(i), wait=wait) as mine:
                leaves = loaded_or_computed(i) if mine else None
            if leaves is None:
                others.append(i)
            else:
                yield i, leaves


def _check_alike(folder: Path, makers: dict[str, int]) -> None:
    if len(makers) > 1:
        made = "; ".join(f"chunk {i}: {maker}" for maker, i in makers.items())
        msg = (
            f"checkpoint {folder}: not all chunks are made by the same devices with the same settings "
            f"({made}), so that they agree to rounding, not to the bit. same_bits=False takes them together; "
            "else go on where it was begun, or in another folder"
        )
        raise ValueError(msg)
