"""A small sweep in a folder, and one in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.sweeps.lanes import Chunk

SCRIPT = Path(__file__).parent / "sweep_script.py"
GRID = {"x": np.linspace(0, 1, 12)}


def scaled(factor):
    return lambda x: {"a": factor * jnp.sin(x), "b": jnp.stack([x, x])}


twice = scaled(2.0)


def run(folder, fn=twice, grid=None, **kwargs):
    kwargs = {"chunk_size": 4, "progress": False, **kwargs}
    return ia.sweep(fn, grid or GRID, checkpoint=folder, **kwargs)


def same(first, second):
    for name, leaf in first.variables().items():
        np.testing.assert_array_equal(leaf, second.variables()[name])


def chunks(folder):
    return sorted(Path(folder).glob("chunk-*.npz"))


@pytest.fixture
def computations(monkeypatch):
    """The points of every chunk that is computed."""
    seen, compute = [], Chunk.__call__
    monkeypatch.setattr(Chunk, "__call__", lambda self, points: seen.append(points) or compute(self, points))
    return seen


def script(*arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA", "JAX"))}
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=SCRIPT.parents[2],
        env=environment,
    )


def finished(process):
    """How many chunks a script has computed."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out.count("computes")
