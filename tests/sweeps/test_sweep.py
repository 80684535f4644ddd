"""A sweep is the loop over its points: compiled once, on all devices, with every lane on its own."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import implicit_adam as ia
from implicit_adam.losses.problems import bilinear
from implicit_adam.sweeps import lanes
from implicit_adam.sweeps.grid import as_grid
from implicit_adam.sweeps.lanes import compiled, device_mesh, traced
from implicit_adam.sweeps.pieces import cut
from implicit_adam.sweeps.sweep import _order

GRID = {"beta": np.array([0.0, 0.5, 0.9]), "rho": np.array([0.5, 0.9, 0.95, 0.99, 0.999])}


def end(beta, rho):
    rule = ia.Adam(1e-2, beta, rho, 1e-2, eps_in_sqrt=True)
    run = ia.flow(rule, bilinear().loss, jnp.asarray([2.8, 3.5]), 20, save_every=20)
    return {"end": run.params[-1], "norms": (jnp.sum(run.params[-1]), jnp.asarray(1, jnp.int32))}


def quick(x, y=1.0):
    return jnp.sin(x) * y


def quiet(fn, grid, **kwargs):
    return ia.sweep(fn, grid, progress=False, **kwargs)


@pytest.mark.parametrize("chunk_size", [None, 4, 7, "auto"])
def test_it_equals_the_loop_over_points(chunk_size):
    result = quiet(end, GRID, chunk_size=chunk_size)
    assert result.dims == ("beta", "rho")
    assert result.ok.shape == (3, 5)
    assert result.ok.all()
    assert result.values["end"].shape == (3, 5, 2)
    single = jax.jit(end)
    for i, beta in enumerate(GRID["beta"]):
        for j, rho in enumerate(GRID["rho"]):
            np.testing.assert_allclose(result.values["end"][i, j], single(beta, rho)["end"], rtol=1e-13)
    np.testing.assert_array_equal(result.values["norms"][1], np.ones((3, 5), np.int32))


def test_a_table_of_points_is_taken_as_it_is():
    rows = [{"x": 0.3, "y": 2.0}, {"x": 0.1, "y": 3.0}, {"x": 0.1, "y": 2.0}]
    result = quiet(quick, rows)
    assert result.dims == ("point",)
    np.testing.assert_allclose(result.values, [2 * np.sin(0.3), 3 * np.sin(0.1), 2 * np.sin(0.1)], rtol=1e-14)
    np.testing.assert_array_equal(result.coords["x"], [0.3, 0.1, 0.1])


def test_fn_is_traced_once_a_sweep_and_compiled_once_for_all_of_its_chunks_and_sweeps(monkeypatch):
    traces, compilations = [], []
    monkeypatch.setattr(lanes, "compiled", lambda *args: compilations.append(1) or compiled(*args))

    def counted(x):
        traces.append(x)
        return 2 * x

    quiet(counted, {"x": np.arange(100.0)}, chunk_size=8)
    assert (len(traces), len(compilations)) == (1, 1)
    quiet(counted, {"x": np.arange(1.0, 101.0)}, chunk_size=8)
    assert (len(traces), len(compilations)) == (2, 1)
    quiet(counted, {"x": np.arange(100.0)}, chunk_size="auto")
    assert len(traces) == 3


def test_the_lanes_are_spread_over_all_devices():
    assert len(jax.devices()) == 4
    points = {"x": np.arange(5.0)}
    chunk = compiled(traced(quick, points), 5, device_mesh(None))
    assert chunk.size == 8
    assert len(chunk.sharding.device_set) == 4
    half = Mesh(np.array(jax.devices()[:2]), ("lanes",))
    assert compiled(traced(quick, points), 5, half).size == 6
    np.testing.assert_array_equal(quiet(quick, points, mesh=half).values, quiet(quick, points).values)


def test_a_bad_lane_is_a_flag_and_leaves_the_others_to_the_bit():
    def explode(x):
        return jax.lax.fori_loop(0, 50, lambda i, y: y + y**3, x), jnp.cos(x)

    xs = np.array([0.01, 0.02, 0.05, 0.06, 3.0])
    with_bad, without = quiet(explode, {"x": xs}), quiet(explode, {"x": xs[:4]})
    np.testing.assert_array_equal(with_bad.ok, [True, True, True, True, False])
    for a, b in zip(with_bad.values, without.values, strict=True):
        np.testing.assert_array_equal(a[:4], b)
    assert np.isfinite(with_bad.values[1]).all()


LENGTHS = (1, 1000, 2, 999, 3, 998, 4, 997)


def iterations(cost):
    """What a chunk of lanes costs: each waits for the longest."""
    grid = as_grid([{"n": n} for n in LENGTHS], lambda n: n)
    return sum(int(grid.points["n"][lanes].max()) for lanes in cut(_order(grid, cost), 4))


def test_costs_put_alike_lanes_together():
    assert iterations(None) == 1000 + 998
    assert iterations(lambda n: n) == 4 + 1000


def test_costs_change_no_result():
    def lane(n):
        return jax.lax.while_loop(lambda i: i < n, lambda i: i + 1, jnp.zeros_like(n))

    points = [{"n": n} for n in LENGTHS]
    np.testing.assert_array_equal(quiet(lane, points, chunk_size=4, cost=lambda n: n).values, LENGTHS)


def test_progress_counts_lanes():
    seen = []
    ia.sweep(quick, {"x": np.arange(10.0)}, chunk_size=4, progress=lambda *x: seen.append(x))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_a_hundred_thousand_points_and_one():
    xs = np.linspace(0, 1, 100_000)
    np.testing.assert_allclose(quiet(quick, {"x": xs}, chunk_size=10_000).values, np.sin(xs), rtol=1e-14)
    assert quiet(quick, {"x": np.array([0.5])}).values.shape == (1,)


def test_the_dtype_is_the_axis_s():
    result = quiet(quick, {"x": np.array([0.1, 0.2], np.float32), "y": np.array([1.0, 2.0], np.float32)})
    assert result.values.dtype == np.float32
    assert quiet(lambda n: n, {"n": np.arange(3)}).values.dtype.kind == "i"


BAD = {
    "repeated": ({"x": [1.0, 1.0]}, "increase strictly"),
    "unsorted": ({"x": [2.0, 1.0]}, "increase strictly"),
    "empty axis": ({"x": []}, "non-empty"),
    "empty grid": ({}, "empty"),
    "empty table": ([], "grid must map"),
    "NaN": ({"x": [1.0, np.nan]}, "NaN"),
    "infinite": ({"x": [1.0, np.inf]}, "NaN or infinity"),
    "two-dimensional": ({"x": np.ones((2, 2))}, "1-D"),
    "words": ({"x": ["a", "b"]}, "numbers"),
    "unknown name": ({"x": [1.0], "z": [1.0]}, "does not fit the arguments"),
    "missing name": ({"y": [1.0]}, "does not fit the arguments"),
    "ragged table": ([{"x": 1.0}, {"y": 1.0}], "same arguments"),
    "repeating table": ([{"x": 1.0}, {"x": 1.0}], "repeats a point"),
    "not a grid": (3, "grid must map"),
    "wrapped around": ({"x": np.array([5, 3, 200], np.uint8)}, "increase strictly"),
}


def test_narrow_integers_increase_without_wrapping_around():
    np.testing.assert_array_equal(quiet(quick, {"x": np.array([-100, 100], np.int8)}).ok, True)


def test_complex_and_narrow_results_are_kept_and_looked_at_whole():
    result = quiet(lambda x: jax.lax.complex(x, jnp.where(x > 1, jnp.nan, x)), {"x": [1.0, 2.0]})
    np.testing.assert_array_equal(result.ok, [True, False])
    narrow = quiet(lambda x: x.astype(jnp.bfloat16), {"x": [1.0, 2.0]})
    assert narrow.values.dtype == np.float32
    np.testing.assert_array_equal(narrow.values, [1.0, 2.0])


def test_a_new_function_over_a_changed_array_is_computed_anew():
    w = np.array([1.0, 2.0])

    def total():
        return quiet(lambda x: x * jnp.sum(jnp.asarray(w)), {"x": [1.0, 2.0]}).values

    np.testing.assert_array_equal(total(), [3.0, 6.0])
    w[0] = 5.0
    np.testing.assert_array_equal(total(), [7.0, 14.0])


@pytest.mark.parametrize(("grid", "words"), BAD.values(), ids=BAD.keys())
def test_bad_grids_are_refused_with_words(grid, words):
    with pytest.raises(ValueError, match=words):
        quiet(quick, grid)


def test_numbers_that_do_not_fit_into_32_bits_are_refused():
    """In a session of its own, without float64."""
    program = """
import implicit_adam as ia
for values in ([1, 2**33], [1.0, 1e39], [1e-40, 1.0]):
    try:
        ia.sweep(lambda x: x, {"x": values}, progress=False)
    except ValueError as error:
        assert "does not fit into" in str(error), error
    else:
        raise AssertionError(values)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_of_a_run_its_own_flag_decides_where_nan_stands_for_unknown():
    """No optimizer has a validity, and the first rate of descent on a quartic diverges."""
    loss = lambda theta: jnp.sum(theta**4)
    runs = {
        "iterate": lambda h: ia.iterate(ia.GradientDescent(h), loss, jnp.ones(2), 20),
        "flow": lambda h: {"run": ia.flow(ia.GradientDescent(h), loss, jnp.ones(2), 20, order=0), "h": h},
        "observe": lambda h: (ia.observe(ia.GradientDescent(h), loss, jnp.ones(2), 20, "loss", records=99),),
    }
    for name, run in runs.items():
        np.testing.assert_array_equal(quiet(run, {"h": [1e-3, 10.0]}).ok, [True, False], err_msg=name)
    both = quiet(lambda h: (runs["iterate"](h), 1 / (h - 1e-3)), {"h": [1e-3, 2e-3]})
    np.testing.assert_array_equal(both.ok, [False, True])


def test_bad_chunk_sizes_and_empty_results_are_refused():
    for size in (0, -1, 1.5):
        with pytest.raises(ValueError, match="chunk_size"):
            quiet(quick, {"x": [1.0]}, chunk_size=size)
    with pytest.raises(ValueError, match="returns no arrays"):
        quiet(lambda x: None, {"x": [1.0]})
