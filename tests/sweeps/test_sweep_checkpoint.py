"""A sweep that was killed goes on, to the same bits; what does not belong to it is never used."""

import errno
import importlib.metadata
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.sweeps import checkpoint
from implicit_adam.sweeps.checkpoint import Checkpoint
from implicit_adam.sweeps.grid import as_grid
from implicit_adam.sweeps.lanes import _digest, device_mesh, traced
from implicit_adam.sweeps.sweep import _padded

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
        cwd=SCRIPT.parents[2],
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


KEPT = as_grid({"x": [1.0, 2.0]}, lambda x: x)


def key(grid=KEPT, digest="program", devices=("cpu", "cpu"), size=4):
    return checkpoint._key(grid, digest, list(devices), size, None)


def test_another_version_of_any_package_never_finds_them(monkeypatch):
    before = key()
    for package in checkpoint.PACKAGES:
        other = lambda name, package=package: "0.0" if name == package else importlib.metadata.version(name)
        monkeypatch.setattr("implicit_adam.files.version", other)
        assert key() != before, package
    monkeypatch.setattr("implicit_adam.files.version", importlib.metadata.version)
    assert key() == before


def test_another_kind_of_device_never_finds_them():
    assert key(devices=("accelerator", "accelerator")) != key()
    assert key(devices=("cpu",)) != key()


def test_the_devices_are_those_of_the_mesh_which_need_not_be_all(tmp_path, monkeypatch):
    seen, real = [], checkpoint._key
    monkeypatch.setattr(checkpoint, "_key", lambda *args: seen.append(args[2]) or real(*args))
    run(tmp_path, mesh=device_mesh(devices=jax.devices()[:2]))
    assert seen == [[device.device_kind for device in jax.devices()[:2]]]


def test_other_names_of_the_same_numbers_never_find_them():
    assert key(as_grid({"y": [1.0, 2.0]}, lambda y: y)) != key()
    assert key(as_grid({"x": [1.0, 3.0]}, lambda x: x)) != key()
    assert key(digest="another program") != key()
    assert key(size=8) != key()


def test_a_program_is_told_by_its_constants_where_its_text_leaves_them_out():
    def program(constant):
        return traced(lambda x: x + jnp.sum(jnp.asarray(constant)), {"x": np.zeros(3)})

    one, other = np.arange(1000.0), np.arange(1000.0)
    other[500] = -1.0
    assert _digest(program(one), "text") == _digest(program(one.copy()), "text")
    assert _digest(program(one), "text") != _digest(program(other), "text")
    assert _digest(program(one), "text") != _digest(program(one), "another text")


def test_a_chunk_is_filled_up_with_its_own_last_lane():
    """Any other point might be none that was asked for, or run for ever."""
    grid = as_grid({"x": [1.0, 2.0, 3.0]}, lambda x: x)
    points = _padded(grid, np.array([2, 1]), 5)
    np.testing.assert_array_equal(points["x"], [3.0, 2.0, 2.0, 2.0, 2.0])


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
