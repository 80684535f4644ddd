"""Finished chunks on disk: one file each, written atomically, named by what determines it."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from implicit_adam.files import check_writable, installed, save_arrays
from implicit_adam.sweeps.grid import Grid

PACKAGES = ("implicit-adam", "jax", "jaxlib", "numpy", "optax", "diffrax", "equinox")


class Checkpoint(NamedTuple):
    """A folder of chunks of one configuration, whose key begins every file name."""

    folder: Path
    key: str

    def path(self, chunk: int) -> Path:
        """Where a chunk is kept."""
        return self.folder / f"{self.key[:16]}-{chunk:06d}.npz"

    def save(self, chunk: int, leaves: list[np.ndarray]) -> None:
        """Write beside, then rename: a reader sees all of a chunk or nothing, also with several writers."""
        arrays: Any = {str(i): leaf for i, leaf in enumerate(leaves)}
        stamp = np.frombuffer(bytes.fromhex(self.key + _checksum(chunk, leaves)), np.uint8)
        note = (
            f"chunk {chunk} could not be written to {self.folder}; the chunks before are intact, and the "
            "same call goes on from there once there is room"
        )
        save_arrays(self.path(chunk), {"stamp": stamp, **arrays}, note)

    def load(self, chunk: int, like: list[jax.ShapeDtypeStruct]) -> list[np.ndarray] | None:
        """The chunk's leaves; None, with a warning where a file is there, if it is not this chunk whole."""
        path = self.path(chunk)
        if not path.exists():
            return None
        try:
            with path.open("rb") as opened_file, np.load(opened_file, allow_pickle=False) as file:
                leaves = [file[str(i)] for i in range(len(like))]
                stamp = bytes(file["stamp"]).hex()
            whole = stamp == self.key + _checksum(chunk, leaves) and all(
                leaf.shape == x.shape and leaf.dtype == x.dtype for leaf, x in zip(leaves, like, strict=True)
            )
        except Exception as error:
            whole, leaves, reason = False, [], f" ({error})"
        else:
            reason = ""
        if not whole:
            warnings.warn(f"{path} is broken or foreign{reason}; its chunk is computed again", stacklevel=2)
            return None
        return leaves


def opened(folder: Any, grid: Grid, digest: str, devices: list[str], *details: Any) -> Checkpoint:
    """The folder, made and tried before anything runs, and the key of this configuration on these kinds of
    devices.
    """
    return Checkpoint(check_writable("checkpoint", folder), _key(grid, digest, devices, *details))


def _key(grid: Grid, digest: str, devices: list[str], *details: Any) -> str:
    """What the bits of a lane may depend on: the program, the points, the devices and their software."""
    key = hashlib.sha256(digest.encode())
    key.update(json.dumps([list(grid.points), devices, installed(PACKAGES), *details]).encode())
    for values in grid.points.values():
        key.update(str(values.dtype).encode() + values.tobytes())
    return key.hexdigest()


def _checksum(chunk: int, leaves: list[np.ndarray]) -> str:
    checksum = hashlib.sha256(str(chunk).encode())
    for leaf in leaves:
        checksum.update(f"{leaf.shape}{leaf.dtype}".encode() + np.ascontiguousarray(leaf).tobytes())
    return checksum.hexdigest()
