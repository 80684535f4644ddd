"""A sweep that was killed goes on, to the same bits; what does not belong to it is never used."""

import errno
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.sweeps.checkpoint import Checkpoint

SCRIPT = Path(__file__).parent / "sweep_script.py"
GRID = {"x": np.linspace(0, 1, 12)}


def scaled(factor):
    return lambda x: {"a": factor * jnp.sin(x), "b": jnp.stack([x, x])}


def run(folder, fn=None, grid=None, **kwargs):
    kwargs = {"chunk_size": 4, **kwargs}
    return ia.sweep(fn or scaled(2.0), grid or GRID, checkpoint=folder, progress=False, **kwargs)


def same(first, second):
    for name, leaf in first.variables().items():
        np.testing.assert_array_equal(leaf, second.variables()[name])


def files(folder):
    return sorted(Path(folder).iterdir())


def script(*arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA", "JAX"))}
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=SCRIPT.parent.parent,
        env=environment,
    )


def finished(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return [word for word in out.split() if word.startswith("done=")]


def test_finished_chunks_are_found_again(tmp_path, monkeypatch):
    first = run(tmp_path)
    assert len(files(tmp_path)) == 3
    monkeypatch.setattr(Checkpoint, "save", lambda *_: pytest.fail("computed again"))
    same(first, run(tmp_path))


def test_narrow_results_resume_too(tmp_path):
    narrow = lambda x: x.astype(jnp.bfloat16)
    same(run(tmp_path, fn=narrow), run(tmp_path, fn=narrow))


def test_another_configuration_never_finds_them(tmp_path):
    """Its function, a constant inside or closed over, its grid, dtype or chunks: each makes other files."""
    weights, others = np.arange(1000.0), np.arange(1000.0)
    others[500] = -1.0

    def holding(w):
        return lambda x: jnp.sum(jnp.asarray(w) * x)

    configurations = [
        {},
        {"fn": scaled(3.0)},
        {"fn": lambda x: {"a": 2.0 * jnp.cos(x), "b": jnp.stack([x, x])}},
        {"fn": holding(weights)},
        {"fn": holding(others)},
        {"grid": {"x": np.linspace(0, 1.1, 12)}},
        {"grid": {"x": np.linspace(0, 1, 12, dtype=np.float32)}},
        {"chunk_size": 8},
        {"cost": lambda x: -x},
    ]
    for i, configuration in enumerate(configurations):
        before = set(files(tmp_path))
        result = run(tmp_path, **configuration)
        same(result, run(None, **configuration))
        assert len(set(files(tmp_path)) - before) == (2 if configuration.get("chunk_size") == 8 else 3), i


def test_broken_and_foreign_chunks_are_computed_again_with_a_warning(tmp_path):
    first = run(tmp_path)
    chunks = files(tmp_path)
    whole = chunks[0].read_bytes()
    for broken in (whole[: len(whole) // 2], b"", chunks[1].read_bytes(), whole.replace(b"a", b"b")):
        chunks[0].write_bytes(broken)
        with pytest.warns(UserWarning, match="broken or foreign"):
            same(first, run(tmp_path))
    altered = bytearray(whole)
    altered[whole.index(np.float64(first.values["a"][1]).tobytes())] ^= 1
    chunks[0].write_bytes(altered)
    with pytest.warns(UserWarning, match="broken or foreign"):
        same(first, run(tmp_path))


def test_a_full_disk_leaves_earlier_chunks_intact(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        run(tmp_path)
    assert "chunks before are intact" in caught.value.__notes__[0]
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr(os, "fsync", real)
    same(run(tmp_path), run(None))


def test_a_folder_that_becomes_read_only_leaves_earlier_chunks_intact(tmp_path, monkeypatch):
    real, calls = tempfile.mkstemp, []

    def read_only(**kwargs):
        calls.append(kwargs)
        if len(calls) == 2:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(**kwargs)

    monkeypatch.setattr(tempfile, "mkstemp", read_only)
    with pytest.raises(OSError, match="Read-only") as caught:
        run(tmp_path)
    assert "chunks before are intact" in caught.value.__notes__[0]
    assert len(files(tmp_path)) == 1
    same(run(tmp_path), run(None))


def test_an_unusable_folder_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        run(tmp_path / "file")
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(ValueError, match="cannot be written to"):
            run(tmp_path / "new")
        tmp_path.chmod(0o700)


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path):
    """kill -9, twenty times, each time further on or nowhere; then once to the end."""
    moments = random.Random(1)
    finished(script("", tmp_path / "whole.npz"))
    kept = []
    for _ in range(20):
        process = script(tmp_path / "chunks", tmp_path / "never.npz", 0.3)
        assert process.stdout is not None
        # From before the first chunk (imports take seconds) to the middle of one.
        for _ in range(moments.choice([0, 1, 2])):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        kept.append(len(list((tmp_path / "chunks").glob("*.npz"))) if (tmp_path / "chunks").exists() else 0)
    assert sorted(kept) == kept
    assert 0 < kept[-1] <= 12
    finished(script(tmp_path / "chunks", tmp_path / "resumed.npz"))
    same(ia.SweepResult.load(tmp_path / "whole.npz"), ia.SweepResult.load(tmp_path / "resumed.npz"))


def test_two_processes_on_one_folder_do_not_disturb_each_other(tmp_path):
    processes = [script(tmp_path / "chunks", tmp_path / f"{i}.npz", 0.02) for i in range(2)]
    for process in processes:
        finished(process)
    same(*(ia.SweepResult.load(tmp_path / f"{i}.npz") for i in range(2)))
    assert not list((tmp_path / "chunks").glob("*.tmp"))


def test_two_processes_of_one_sweep_give_what_one_gives(tmp_path):
    """jax.distributed on this machine, then resumed by both from the same folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    finished(script("", tmp_path / "alone.npz"))
    for attempt in range(2):
        processes = [
            script(tmp_path / "chunks", tmp_path / f"{i}.npz", 0.0, f"localhost:{port + attempt}", i)
            for i in range(2)
        ]
        assert finished(processes[0]) == finished(processes[1]) == [f"done={n}" for n in range(4, 49, 4)]
        for i in range(2):
            same(ia.SweepResult.load(tmp_path / "alone.npz"), ia.SweepResult.load(tmp_path / f"{i}.npz"))
