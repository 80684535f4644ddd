"""A sweep that was killed goes on, to the same bits; what does not belong to it is never used."""

import errno
import importlib.metadata
import os
import random
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.sweeps import checkpoint, maker
from implicit_adam.sweeps.checkpoint import described
from implicit_adam.sweeps.grid import as_grid
from implicit_adam.sweeps.lanes import compiled, device_mesh, filled, traced
from tests.sweeps.folders import chunks, computations, finished, run, same, scaled, script  # noqa: F401


def test_finished_chunks_are_found_again(tmp_path, computations):  # noqa: F811
    first = run(tmp_path)
    assert len(chunks(tmp_path)) == len(computations) == 3
    same(first, run(tmp_path))
    assert len(computations) == 3


def test_narrow_results_resume_too(tmp_path):
    narrow = lambda x: x.astype(jnp.bfloat16)
    same(run(tmp_path, fn=narrow), run(tmp_path, fn=narrow))


def holding(weights):
    return lambda x: {"a": jnp.sum(jnp.asarray(weights) * x)}


WEIGHTS = np.arange(1000.0)
OTHERS = np.where(WEIGHTS == 500, -1.0, WEIGHTS)
# Its function, a constant inside or closed over, its grid, dtype, chunks or order.
ANOTHER = {
    "constant inside": ({"fn": scaled(3.0)}, "fn and what it closes over: program"),
    "function": ({"fn": lambda x: {"a": 2 * jnp.cos(x), "b": jnp.stack([x, x])}}, "fn and what"),
    "constant closed over": ({"fn": holding(OTHERS)}, "fn and what"),
    "values": ({"grid": {"x": np.linspace(0, 1.1, 12)}}, r"axis x: 12 values 0 \.\. 1 .* 0 \.\. 1\.1"),
    "one value": ({"grid": {"x": np.r_[0, 0.1, np.linspace(0.2, 1, 10)]}}, "axis x"),
    "dtype": ({"grid": {"x": np.linspace(0, 1, 12, dtype=np.float32)}}, "float32"),
    "chunks": ({"chunk_size": 8}, "chunk_size: 4 there, 8 here"),
    "order": ({"cost": lambda x: -x}, "order: as in the grid there, by cost"),
}


@pytest.mark.parametrize(("configuration", "words"), ANOTHER.values(), ids=ANOTHER.keys())
def test_the_folder_of_another_sweep_is_refused_in_words_and_left_alone(tmp_path, configuration, words):
    begun = {"fn": holding(WEIGHTS)} if words == "fn and what" else {}
    before = run(tmp_path, **begun)
    with pytest.raises(ValueError, match=f"holds another sweep .*{words}.* name another folder"):
        run(tmp_path, **configuration)
    same(before, run(tmp_path, **begun))


KEPT = as_grid({"x": [1.0, 2.0]}, lambda x: x)


def about(grid=KEPT, digest="program", size=4, order=(0, 1)):
    return described(grid, digest, size, np.array(order))


def test_another_version_of_any_package_is_another_sweep(tmp_path, monkeypatch):
    before = about()
    for package in checkpoint.PACKAGES:
        other = lambda name, package=package: "0.0" if name == package else importlib.metadata.version(name)
        monkeypatch.setattr("implicit_adam.files.version", other)
        assert {name for name in before if about()[name] != before[name]} == {package}
    run(tmp_path)
    monkeypatch.setattr("implicit_adam.files.version", importlib.metadata.version)
    with pytest.raises(ValueError, match=r"equinox: 0\.0 there"):
        run(tmp_path)


def test_other_names_of_the_same_numbers_are_another_sweep():
    assert about(as_grid({"y": [1.0, 2.0]}, lambda y: y)) != about()
    assert about(as_grid({"x": [1.0, 3.0]}, lambda x: x)) != about()
    plane, turned = ({one: [1.0, 2.0], other: [1.0, 2.0]} for one, other in ("xy", "yx"))
    assert about(as_grid(plane, lambda x, y: x)) != about(as_grid(turned, lambda x, y: x))
    assert about(digest="another program") != about()
    assert about(size=8) != about()
    assert about(order=(1, 0)) != about()


def test_a_program_is_told_by_its_constants_where_its_text_leaves_them_out():
    def program(constant):
        return traced(lambda x: x + jnp.sum(jnp.asarray(constant)), {"x": np.zeros(3)}).digest

    assert program(WEIGHTS) == program(WEIGHTS.copy())
    assert program(WEIGHTS) != program(OTHERS)


def test_what_makes_the_bits_is_the_devices_of_the_mesh_the_processor_its_cores_and_the_flags(monkeypatch):
    def made(devices=2, text="text"):
        return maker.maker(device_mesh(devices=jax.devices()[:devices]), text)

    before = made()
    assert before.startswith("2 x cpu")
    assert made() == before
    assert made(devices=3) != before
    assert made(text="another") != before
    for name, other in (("cores", lambda: 1000), ("_processor", lambda: "another")):
        with monkeypatch.context() as patch:
            patch.setattr(maker, name, other)
            assert made() != before, name
    monkeypatch.setenv("XLA_FLAGS", "--another")
    assert made() != before


def test_processors_are_told_apart_by_what_they_can_do(tmp_path, monkeypatch):
    def seen(text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(maker, "Path", lambda _: tmp_path / "cpuinfo")
        maker._processor.cache_clear()
        return maker._processor()

    x86 = "processor: 0\nmodel name: Q\ncpu MHz: 1\nflags: avx2\n\nprocessor: 1\n"
    assert seen(x86).startswith("Q, ")
    assert seen(x86.replace("MHz: 1", "MHz: 2")) == seen(x86)
    assert seen(x86.replace("avx2", "avx512")) != seen(x86)
    assert seen("CPU part: 0xd0c\n") != seen("CPU part: 0xd40\n")
    maker._processor.cache_clear()


def test_the_program_as_it_is_lowered_makes_the_bits():
    program = traced(lambda x: x + 1, {"x": np.zeros(3)})
    one, other = (compiled(program, size, device_mesh()).maker for size in (4, 8))
    assert one != other


def test_a_chunk_is_filled_up_with_its_own_last_lane():
    """Any other point might be none that was asked for, or run for ever."""
    np.testing.assert_array_equal(filled({"x": np.array([3.0, 2.0])}, 5)["x"], [3.0, 2.0, 2.0, 2.0, 2.0])


def test_broken_and_foreign_chunks_are_computed_again_with_a_warning(tmp_path):
    first = run(tmp_path / "here")
    one, other, _ = chunks(tmp_path / "here")
    run(tmp_path / "another", fn=scaled(3.0))
    foreign, whole = (tmp_path / "another" / one.name).read_bytes(), one.read_bytes()
    cut_off, changed = whole[: len(whole) // 2], whole.replace(b"a", b"b")
    for broken in (cut_off, b"", other.read_bytes(), changed, foreign):
        one.write_bytes(broken)
        with pytest.warns(UserWarning, match="broken or foreign"):
            same(first, run(tmp_path / "here"))
    altered = bytearray(whole)
    altered[whole.index(np.float64(first.values["a"][1]).tobytes())] ^= 1
    one.write_bytes(altered)
    with pytest.warns(UserWarning, match="broken or foreign"):
        same(first, run(tmp_path / "here"))
    one.write_bytes(whole.replace("4 x cpu".encode("utf-32-le"), "5 x cpu".encode("utf-32-le")))
    with pytest.warns(UserWarning, match="broken or foreign"):
        same(first, run(tmp_path / "here"))


def test_a_full_disk_leaves_earlier_chunks_intact(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        run(tmp_path)
    assert "those before are intact" in caught.value.__notes__[0]
    assert len(chunks(tmp_path)) == 1
    monkeypatch.setattr(os, "fsync", real)
    same(run(tmp_path), run(None))


def test_a_folder_that_becomes_read_only_leaves_earlier_chunks_intact(tmp_path, monkeypatch):
    real, calls = tempfile.mkstemp, []

    def read_only(**kwargs):
        calls.append(kwargs)
        if len(calls) == 3:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(**kwargs)

    monkeypatch.setattr(tempfile, "mkstemp", read_only)
    with pytest.raises(OSError, match="Read-only") as caught:
        run(tmp_path)
    assert "those before are intact" in caught.value.__notes__[0]
    assert len(chunks(tmp_path)) == 1
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


def test_a_folder_that_does_not_say_what_it_holds_is_refused(tmp_path):
    run(tmp_path)
    for text in ("", "[]", "{}", "no JSON"):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(ValueError, match=r"sweep\.json does not say which sweep"):
            run(tmp_path)


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path):
    """kill -9, each time further on or nowhere; then once to the end."""
    moments = random.Random(1)
    finished(script("", tmp_path / "whole.npz"))
    kept = []
    for _ in range(8):
        process = script(tmp_path / "chunks", tmp_path / "never.npz", 0.2)
        assert process.stdout is not None
        # From before the first chunk (imports take seconds) to the middle of one.
        for _ in range(moments.choice([0, 1, 2])):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        kept.append(len(chunks(tmp_path / "chunks")))
    assert sorted(kept) == kept
    assert 0 < kept[-1] <= 12
    assert finished(script(tmp_path / "chunks", tmp_path / "resumed.npz")) == 12 - kept[-1]
    same(ia.SweepResult.load(tmp_path / "whole.npz"), ia.SweepResult.load(tmp_path / "resumed.npz"))
