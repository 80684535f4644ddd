"""Many processes at one sweep: parts put together, chunks shared, and what a killed one leaves."""

import errno
import subprocess
import threading

import jax
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.sweeps import claims, lanes
from implicit_adam.sweeps.claims import claimed
from implicit_adam.sweeps.lanes import Chunk, device_mesh
from tests.sweeps.folders import GRID, chunks, computations, finished, run, same, script  # noqa: F401


def two_axes(beta, rho):
    return {"sum": beta + 10 * rho, "product": beta * rho}


PLANE = {"beta": np.linspace(0, 0.9, 4), "rho": np.linspace(0.1, 0.7, 7)}


def test_parts_put_together_are_the_whole_to_the_bit_and_nothing_is_computed_twice(tmp_path, computations):  # noqa: F811
    whole = run(None)
    computations.clear()
    parts = [run(tmp_path, part=(i, 2)) for i in range(2)]
    assert len(computations) == 3
    same(whole, run(tmp_path))
    same(parts[1], run(tmp_path, part=(1, 2)))
    assert len(computations) == 3
    np.testing.assert_array_equal(parts[0].coords["x"], np.r_[GRID["x"][:4], GRID["x"][8:]])
    np.testing.assert_array_equal(parts[1].values["b"], whole.values["b"][4:8])


def test_a_part_is_a_table_of_its_points_also_in_an_order_by_cost(tmp_path):
    cost = lambda beta, rho: -beta * rho
    parts = [run(tmp_path, two_axes, PLANE, part=(i, 3), cost=cost) for i in range(3)]
    for part in parts:
        assert part.dims == ("point",)
        np.testing.assert_array_equal(part.values["sum"], part.coords["beta"] + 10 * part.coords["rho"])
    points = {point for part in parts for point in zip(part.coords["beta"], part.coords["rho"], strict=True)}
    assert len(points) == sum(part.ok.size for part in parts) == 28
    whole = run(tmp_path, two_axes, PLANE, cost=cost)
    np.testing.assert_array_equal(whole.values["sum"], PLANE["beta"][:, None] + 10 * PLANE["rho"])


def test_a_part_of_a_table_is_a_table(tmp_path):
    table = [{"x": float(x)} for x in range(12, 0, -1)]
    part = run(tmp_path, grid=table, part=(1, 3))
    np.testing.assert_array_equal(part.coords["x"], [8, 7, 6, 5])
    np.testing.assert_array_equal(part.values["b"][:, 0], [8, 7, 6, 5])


def test_a_collecting_call_computes_only_what_is_missing(tmp_path, computations):  # noqa: F811
    run(tmp_path, part=(0, 3))
    run(tmp_path, part=(2, 3))
    computations.clear()
    same(run(tmp_path), run(None))
    np.testing.assert_array_equal(computations[0]["x"], GRID["x"][4:8])
    assert len(computations) == 1 + 3


def test_two_at_the_same_time_share_the_chunks_and_both_have_the_whole(tmp_path, monkeypatch):
    """Each goes on from its first chunk only when the other is at one."""
    together, compute, seen, results = threading.Barrier(2, timeout=60), Chunk.__call__, [], []

    def recorded(self, points):
        seen.append((threading.get_ident(), points["x"][0]))
        if [who for who, _ in seen].count(threading.get_ident()) == 1:
            together.wait()
        return compute(self, points)

    whole = run(None)
    monkeypatch.setattr(Chunk, "__call__", recorded)
    threads = [threading.Thread(target=lambda: results.append(run(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({who for who, _ in seen}) == 2
    assert sorted(x for _, x in seen) == sorted(GRID["x"][::4])
    for result in results:
        same(whole, result)
    assert sorted(x.name for x in tmp_path.iterdir()) == [*(x.name for x in chunks(tmp_path)), "sweep.json"]


def test_the_chunk_of_a_killed_process_is_taken_over_by_one_that_waits_for_it(tmp_path):
    """The first sleeps in its first chunk, the second does the eleven others and waits."""
    first = script(tmp_path / "chunks", tmp_path / "never.npz", 1000)
    assert first.stdout is not None
    assert first.stdout.readline() == "computes\n"
    second = script(tmp_path / "chunks", tmp_path / "whole.npz")
    assert second.stdout is not None
    for _ in range(11):
        second.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1)
    first.kill()
    first.communicate()
    assert finished(second) == 1
    whole = ia.SweepResult.load(tmp_path / "whole.npz")
    products = whole.coords["beta"][:, None] * whole.coords["rho"]
    np.testing.assert_array_equal(whole.values["y"][..., 0], products)


def test_a_claim_is_held_by_one_at_a_time_and_the_next_waits(tmp_path):
    path = tmp_path / "claim"
    with claimed(path, wait=False) as mine, claimed(path, wait=False) as another:
        assert mine
        assert not another
    waiting = threading.Thread(target=lambda: _claim(path, held))
    held = []
    with claimed(path, wait=False) as mine:
        assert mine
        waiting.start()
        waiting.join(0.2)
        assert not held
    waiting.join(60)
    assert held == [True]
    assert not path.exists()


def _claim(path, held):
    with claimed(path, wait=True) as mine:
        held.append(mine)


def test_without_locks_work_may_be_done_twice_and_nothing_else_changes(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claims.fcntl, "flock", no_locks)
    with claimed(tmp_path / "claim", wait=False) as one, claimed(tmp_path / "claim", wait=True) as other:
        assert one
        assert other
    same(run(tmp_path), run(None))
    monkeypatch.setattr(claims, "fcntl", None)
    same(run(tmp_path / "windows"), run(None))


def on(devices):
    return device_mesh(devices=jax.devices()[:devices])


def test_chunks_of_other_devices_are_put_together_only_when_asked(tmp_path, computations):  # noqa: F811
    run(tmp_path, part=(0, 2), mesh=on(2))
    computations.clear()
    with pytest.raises(ValueError, match=r"2 x cpu.*4 x cpu.*to rounding, not to the bit"):
        run(tmp_path, mesh=on(4))
    assert not computations
    loose = run(tmp_path, mesh=on(4), same_bits=False)
    assert len(computations) == 1
    for name, leaf in run(None).variables().items():
        np.testing.assert_allclose(loose.variables()[name], leaf, rtol=1e-14)
    with pytest.raises(ValueError, match="to rounding, not to the bit"):
        run(tmp_path, mesh=on(2))


def test_what_is_all_there_is_read_to_the_bit_on_any_devices_and_compiles_nothing(tmp_path, monkeypatch):
    first = run(tmp_path, mesh=on(3))
    monkeypatch.setattr(lanes, "compiled", lambda *_: pytest.fail("compiled"))
    same(first, run(tmp_path, mesh=on(1)))


def test_the_chunks_are_those_of_whoever_began_the_folder(tmp_path):
    """Three devices make six lanes of four; another number of devices takes the folder as it is."""
    run(tmp_path, part=(0, 2), mesh=on(3))
    whole = run(tmp_path, mesh=on(4), same_bits=False)
    np.testing.assert_array_equal(whole.values["b"][:, 0], GRID["x"])
    assert len(chunks(tmp_path)) == 2


BAD = {
    "no part": (3, "two integers"),
    "three numbers": ((1, 2, 3), "two integers"),
    "a word": (("1", 2), "i of part"),
    "no parts": ((0, 0), "k of part"),
    "negative": ((-1, 2), "i of part"),
    "beyond the last": ((2, 2), r"i < k, got \(2, 2\); the 2 parts are \(0, 2\) \.\. \(1, 2\)"),
    "more than chunks": ((0, 4), "12 points in chunks of 4 are 3, too few for 4 parts"),
}


@pytest.mark.parametrize(("part", "words"), BAD.values(), ids=BAD.keys())
def test_bad_parts_are_refused_before_a_folder_is_begun(tmp_path, part, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, part=part)
    assert not list(tmp_path.iterdir())


def test_what_is_about_a_folder_is_refused_without_one(monkeypatch):
    with pytest.raises(ValueError, match=r"part is about the chunks in a folder"):
        run(None, part=(0, 2))
    with pytest.raises(ValueError, match=r"same_bits=False is about the chunks in a folder"):
        run(None, same_bits=False)
    with pytest.raises(ValueError, match=r"same_bits must be True or False"):
        run(None, same_bits=0)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"each of the 2 processes .* whole sweep.*share its chunks"):
        run(None)


def test_devices_of_other_processes_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 7)
    with pytest.raises(ValueError, match="devices of other processes"):
        run(None, mesh=on(2))
