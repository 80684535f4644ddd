"""Results leave with their names: to xarray, to pandas, to a file and back."""

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.convergence import Supremum


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


def test_named_tuples_come_back_as_dicts(tmp_path):
    result = ia.sweep(lambda x: Supremum((x,), (2 * x,), x, x), {"x": [1.0, 2.0]}, progress=False)
    result.save(tmp_path / "result.npz")
    back = ia.SweepResult.load(tmp_path / "result.npz")
    np.testing.assert_array_equal(back.values["max_norm"][0], [2.0, 4.0])


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
