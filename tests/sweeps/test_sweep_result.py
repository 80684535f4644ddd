"""Results leave with their names: to xarray, to pandas, to a file and back."""

import errno
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia


def fn(beta, rho):
    return {"size": beta - rho, "path": [jnp.stack([beta, rho, beta * rho]), (beta > rho,)]}


GRID = {"beta": np.array([0.0, 0.5]), "rho": np.array([0.1, 0.5, 0.9])}
RESULT = ia.sweep(fn, GRID, progress=False)
TABLE = ia.sweep(fn, [{"beta": 0.5, "rho": 0.1}, {"beta": 0.1, "rho": 0.2}], progress=False)


def test_variables_are_named_by_their_path():
    assert list(RESULT.variables()) == ["path.0", "path.1.0", "size"]
    assert list(ia.sweep(lambda x: x, {"x": [1.0]}, progress=False).variables()) == ["value"]


def test_xarray_selects_by_value():
    data = RESULT.to_xarray()
    assert data["size"].dims == ("beta", "rho")
    assert data["path.0"].dims == ("beta", "rho", "path.0_0")
    np.testing.assert_allclose(data["size"].sel(beta=0.5, rho=0.9), -0.4, rtol=1e-15)
    assert bool(data["ok"].all())
    table = TABLE.to_xarray()
    np.testing.assert_array_equal(table["beta"], [0.5, 0.1])
    assert table["size"].dims == ("point",)


def test_pandas_has_a_row_a_point():
    frame = RESULT.to_pandas()
    assert len(frame) == 6
    row = frame[(frame.beta == 0.5) & (frame.rho == 0.9)].iloc[0]
    np.testing.assert_allclose([row["size"], row["path.0_2"]], [-0.4, 0.45], rtol=1e-15)
    assert list(TABLE.to_pandas().beta) == [0.5, 0.1]


def test_a_saved_result_comes_back(tmp_path):
    for result in (RESULT, TABLE):
        result.save(tmp_path / "result.npz")
        back = ia.SweepResult.load(tmp_path / "result.npz")
        assert back.dims == result.dims
        for name, leaf in result.variables().items():
            np.testing.assert_array_equal(back.variables()[name], leaf)
        assert isinstance(back.values["path"], list)
        assert isinstance(back.values["path"][1], tuple)
        for name, values in result.coords.items():
            np.testing.assert_array_equal(back.coords[name], values)
        np.testing.assert_array_equal(back.ok, result.ok)


class Pair(NamedTuple):
    first: tuple
    second: tuple


def test_named_tuples_come_back_as_dicts(tmp_path):
    result = ia.sweep(lambda x: Pair((x,), (2 * x,)), {"x": [1.0, 2.0]}, progress=False)
    result.save(tmp_path / "result.npz")
    back = ia.SweepResult.load(tmp_path / "result.npz")
    np.testing.assert_array_equal(back.values["second"][0], [2.0, 4.0])


def test_names_that_clash_are_refused():
    for fn in (
        lambda x: {"x": 2 * x},
        lambda x: {"ok": x},
        lambda x: {"a": {"b": x}, "a.b": x},
    ):
        with pytest.raises(ValueError, match="clash"):
            ia.sweep(fn, {"x": [1.0, 2.0]}, progress=False).to_pandas()


def test_another_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with pytest.raises(ValueError, match=r"not a result written by SweepResult\.save"):
        ia.SweepResult.load(tmp_path / "other.npz")


MEETING = {
    "an axis theta_0 and a vector theta": lambda theta_0: {"theta": jnp.stack([theta_0, 2 * theta_0])},
    "a number a_0 and a vector a": lambda theta_0: {"a": jnp.stack([theta_0, theta_0]), "a_0": theta_0},
    "an entry of a vector and ok": lambda theta_0: {"ok": theta_0},
}


@pytest.mark.parametrize("fn", MEETING.values(), ids=MEETING.keys())
def test_no_column_is_lost_where_two_names_meet(fn):
    result = ia.sweep(fn, {"theta_0": [1.0, 2.0]}, progress=False)
    for export in (result.to_pandas, result.to_xarray):
        with pytest.raises(ValueError, match="clash"):
            export()


def test_every_number_of_every_leaf_is_in_the_frame():
    result = ia.sweep(
        lambda x: {"m": x * jnp.arange(6.0).reshape(2, 3), "i": jnp.round(x).astype(int), "big": x > 1},
        {"x": [1.0, 2.0]},
        progress=False,
    )
    frame = result.to_pandas()
    np.testing.assert_array_equal(
        frame[[f"m_{i}_{j}" for i in range(2) for j in range(3)]].iloc[1], 2 * np.arange(6.0)
    )
    assert [frame[name].dtype.kind for name in ("i", "big")] == ["i", "b"]
    assert frame.shape == (2, 1 + 6 + 2 + 1)


def test_a_lane_that_diverged_keeps_its_row_and_its_nan():
    frame = ia.sweep(lambda x: {"y": jnp.log(x), "n": 3}, {"x": [-1.0, 1.0]}, progress=False).to_pandas()
    assert list(frame.ok) == [False, True]
    assert np.isnan(frame.y[0])
    assert list(frame.n) == [3, 3]


def test_coordinates_are_found_by_the_values_that_were_given_also_in_32_bits():
    jax.config.update("jax_enable_x64", False)
    try:
        result = ia.sweep(lambda beta: 2 * beta, {"beta": [0.1, 0.9]}, progress=False)
        table = ia.sweep(lambda beta: 2 * beta, [{"beta": 0.1}, {"beta": 0.9}], progress=False)
    finally:
        jax.config.update("jax_enable_x64", True)
    assert result.values.dtype == np.float32
    for found in (result, table):
        frame = found.to_pandas()
        np.testing.assert_allclose(frame[frame.beta == 0.9]["value"], [1.8], rtol=1e-7)
    np.testing.assert_allclose(result.to_xarray()["value"].sel(beta=0.9), 1.8, rtol=1e-7)
    np.testing.assert_array_equal(result.coords["beta"], [0.1, 0.9])


def test_integer_keys_come_back_as_integers(tmp_path):
    result = ia.sweep(lambda x: {0: x, 10: [2 * x]}, {"x": [1.0, 2.0]}, progress=False)
    result.save(tmp_path / "result.npz")
    back = ia.SweepResult.load(tmp_path / "result.npz")
    np.testing.assert_array_equal(back.values[10][0], [2.0, 4.0])


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    RESULT.save(tmp_path / "result.npz")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        TABLE.save(tmp_path / "result.npz")
    assert ia.SweepResult.load(tmp_path / "result.npz").dims == RESULT.dims
    assert [path.name for path in tmp_path.iterdir()] == ["result.npz"]


def test_a_saved_result_is_readable_to_whom_other_new_files_are(tmp_path):
    RESULT.save(tmp_path / "result.npz")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "result.npz").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_result_reads_as_a_table_of_ranges():
    words = repr(RESULT)
    assert words.splitlines()[0] == "SweepResult over beta, rho: 2 x 3 points, 6 of them ok"
    assert "  size      float64[2, 3] -0.9 .. 0.4" in words
