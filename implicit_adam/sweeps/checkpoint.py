"""Checkpoints of a sweep: one file per finished chunk, written atomically, named by a key of its inputs."""

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
    """The folder of finished chunks and the key of one configuration, with which every file name begins."""

    folder: Path
    key: str

    def path(self, chunk: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"{self.key[:16]}-{chunk:06d}.npz"

    def save(self, chunk: int, leaves: list[np.ndarray]) -> None:
        """Write a temporary file, then rename it, so that readers never see part of a chunk."""
        arrays: Any = {str(i): leaf for i, leaf in enumerate(leaves)}
        stamp = np.frombuffer(bytes.fromhex(self.key + _checksum(chunk, leaves)), np.uint8)
        note = (
            f"chunk {chunk} could not be written to {self.folder}; the chunks before are intact, and the "
            "same call goes on from there once there is room"
        )
        save_arrays(self.path(chunk), {"stamp": stamp, **arrays}, note)

    def load(self, chunk: int, like: list[jax.ShapeDtypeStruct]) -> list[np.ndarray] | None:
        """The chunk's leaves; None without a file, or, with a warning, if it is broken or another chunk's."""
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
    """The `Checkpoint` of this configuration on these kinds of devices.

    The folder is made and tested for writing before anything runs.
    """
    return Checkpoint(check_writable("checkpoint", folder), _key(grid, digest, devices, *details))


def _key(grid: Grid, digest: str, devices: list[str], *details: Any) -> str:
    """A hash of everything that the bits of a result may depend on: program, points, devices, versions."""
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
