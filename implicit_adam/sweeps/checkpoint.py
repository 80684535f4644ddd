"""The folder of one sweep: a description of the sweep, and a file, written atomically, for every chunk."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from implicit_adam.files import check_writable, installed, save_arrays, whole_file
from implicit_adam.sweeps.claims import claimed
from implicit_adam.sweeps.grid import Grid

PACKAGES = ("implicit-adam", "jax", "jaxlib", "numpy", "optax", "diffrax", "equinox")
ABOUT = "sweep.json"
SIZE = "lanes a chunk"


class Finished(NamedTuple):
    """The results of a chunk's lanes, and in words what made them: devices and program."""

    leaves: list[np.ndarray]
    maker: str


class Checkpoint(NamedTuple):
    """A folder of chunks of `size` lanes; `key` is a hash of the sweep that they belong to."""

    folder: Path
    key: str
    size: int

    def path(self, chunk: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"chunk-{chunk:06d}.npz"

    def claim(self, chunk: int) -> Path:
        """The file that the process computing a chunk keeps locked."""
        return self.path(chunk).with_suffix(".lock")

    def save(self, chunk: int, finished: Finished) -> None:
        """Write a temporary file, then rename it, so that readers never see part of a chunk."""
        words = {"stamp": np.asarray(self._stamp(chunk)), "maker": np.asarray(finished.maker)}
        leaves = {str(i): leaf for i, leaf in enumerate(finished.leaves)}
        note = (
            f"chunk {chunk} could not be written to {self.folder}; those before are intact, and the "
            "same call goes on from there once there is room"
        )
        save_arrays(self.path(chunk), words | leaves, note)

    def load(self, chunk: int, like: list[jax.ShapeDtypeStruct]) -> Finished | None:
        """The chunk; None without a file, or, with a warning, if it is broken or another chunk's."""
        path = self.path(chunk)
        if not path.exists():
            return None
        try:
            with path.open("rb") as opened_file, np.load(opened_file, allow_pickle=False) as file:
                found = Finished([file[str(i)] for i in range(len(like))], str(file["maker"]))
                whole = str(file["stamp"]) == self._stamp(chunk)
            whole = whole and all(
                leaf.shape == x.shape and leaf.dtype == x.dtype
                for leaf, x in zip(found.leaves, like, strict=True)
            )
            reason = ""
        except Exception as error:
            whole, found, reason = False, None, f" ({error})"
        if not whole:
            warnings.warn(f"{path} is broken or foreign{reason}; its chunk is computed again", stacklevel=2)
            return None
        return found

    def _stamp(self, chunk: int) -> str:
        """The files have checksums of their own, being zip archives; this says what they are of."""
        return f"{self.key} {chunk}"


def opened(folder: Any, about: dict[str, str], size: Callable[[], int]) -> Checkpoint:
    """The folder of a sweep, made and tested for writing before anything runs.

    The size of its chunks is that of the process that began it. Raises `ValueError` for a folder that holds
    another sweep, with what differs.
    """
    folder = check_writable("checkpoint", folder)
    path = folder / ABOUT
    with claimed(path.with_suffix(".lock"), wait=True):
        if not path.exists():
            with whole_file(path, f"{path} could not be written; nothing was computed") as file:
                file.write(json.dumps({**about, SIZE: size()}, indent=1).encode())
    text = path.read_bytes()
    try:
        found = dict(json.loads(text))
        lanes = int(found.pop(SIZE))
    except Exception as error:
        msg = f"{path} does not say which sweep is in its folder ({error}); name another folder or delete it"
        raise ValueError(msg) from error
    _check_same(folder, found, about)
    return Checkpoint(folder, hashlib.sha256(text).hexdigest(), lanes)


def _check_same(folder: Path, there: dict[str, str], here: dict[str, str]) -> None:
    different = [
        f"{name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here"
        for name in [*here, *(name for name in there if name not in here)]
        if there.get(name) != here.get(name)
    ]
    if different:
        msg = (
            f"checkpoint {folder} holds another sweep ({'; '.join(different)}); name another folder, or "
            "delete this one"
        )
        raise ValueError(msg)


def described(grid: Grid, digest: Any, chunk_size: Any, order: np.ndarray) -> dict[str, str]:
    """What makes a sweep this one, in words: its function, its points, how they are cut, the software."""
    axes = {f"axis {name}": _in_words(np.unique(values)) for name, values in grid.points.items()}
    everything = b"".join(name.encode() + values.tobytes() for name, values in grid.points.items())
    as_it_is = (order == np.arange(len(order))).all()
    return {
        "fn and what it closes over": f"program {_short(str(digest).encode())}",
        **axes,
        "points": f"{grid.lanes} ({_short(everything)})",
        "order": "as in the grid" if as_it_is else f"by cost ({_short(order.tobytes())})",
        "chunk_size": str(chunk_size),
        **installed(PACKAGES),
    }


def _in_words(values: np.ndarray) -> str:
    return (
        f"{len(values)} values {values[0]:g} .. {values[-1]:g} ({values.dtype}, {_short(values.tobytes())})"
    )


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
