"""The order, the bias and observables over hyperparameters, and the command that sweeps them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.cli import main
from implicit_adam.losses.problems import bilinear, digits, digits_start
from implicit_adam.plotting import plot_sweep
from implicit_adam.studies import ready_sweeps as sweeps


def adam(**hyperparameters):
    return ia.Adam(**{"h": 0.01, "eps": 1e-6, "eps_in_sqrt": True, **hyperparameters})


def test_the_bias_of_adam_has_the_factor_in_braces_and_changes_sign_where_beta_is_rho():
    grid = {"beta": np.linspace(0, 0.95, 5), "rho": np.linspace(0, 0.95, 5)}
    result = ia.sweep(sweeps.bias_at(adam, bilinear()), grid, progress=False)
    beta, rho = np.meshgrid(grid["beta"], grid["rho"], indexing="ij")
    braces = (1 + beta) / (1 - beta) - (1 + rho) / (1 - rho)
    # g^2 is about 10^4 there, 10^10 times eps.
    np.testing.assert_allclose(result.values["factor"], braces, rtol=1e-7, atol=1e-7)
    off = beta != rho
    np.testing.assert_array_equal(np.sign(result.values["factor"])[off], np.sign(beta - rho)[off])
    np.testing.assert_allclose(np.abs(result.values["alignment"])[off], 1, rtol=1e-9)


def test_the_order_over_hyperparameters_is_that_of_convergence():
    kwargs = {"horizon": 0.2, "step_counts": (20, 40, 80), "orders": (0, 1, 2)}
    result = ia.sweep(
        sweeps.order_at(adam, bilinear(), **kwargs), {"beta": [0.3, 0.5], "eps": [1e-3, 1.0]}, progress=False
    )
    for i, beta in enumerate((0.3, 0.5)):
        for j, eps in enumerate((1e-3, 1.0)):
            problem = bilinear()
            study = ia.convergence(adam(beta=beta, eps=eps), problem.loss, problem.params, **kwargs)
            for name in ("validity", "remembered"):
                np.testing.assert_allclose(
                    result.values[name][i, j], getattr(study, name), rtol=1e-6, atol=1e-12
                )
            for q in (0, 1, 2):
                np.testing.assert_allclose(result.values[f"error_{q}"][i, j], study.error[q], rtol=1e-6)
                np.testing.assert_allclose(
                    result.values[f"local_slope_{q}"][i, j], study.local_slope[q], rtol=1e-5
                )


def test_observables_over_step_sizes_and_seeds_are_those_of_single_runs():
    problem = digits(batches=2, samples=40)
    at = sweeps.observables_at(adam, problem, ("loss",), horizon=0.1, records=3)
    grid = {"h": np.array([0.01, 0.02]), "seed": np.array([0, 5])}
    result = ia.sweep(at, grid, progress=False, cost=sweeps.run_length(0.01))
    for i, h in enumerate(grid["h"]):
        for j, seed in enumerate(grid["seed"]):
            seen = ia.observe(
                adam(h=h),
                problem.loss,
                digits_start(int(seed)),
                round(0.1 / h),
                ("loss",),
                batches=problem.batches,
            )
            np.testing.assert_allclose(result.values["last_loss"][i, j], seen.last["loss"], rtol=1e-10)
            np.testing.assert_allclose(result.values["largest_loss"][i, j], seen.largest["loss"], rtol=1e-10)
    assert result.values["record_loss"].shape == (2, 2, 3)


def test_the_command_sweeps_the_orders_it_is_asked_for(tmp_path, capsys):
    out = tmp_path / "orders"
    study = ["--observable", "order", "--orders", "1,2", "--horizon", "0.2", "--steps", "50,100,200"]
    assert (
        main(["sweep", "--beta", "0.2,0.4", "--rho", "0.6", "--eps", "1e-2", *study, "--out", str(out)]) == 0
    )
    values = ia.SweepResult.load(out / "sweep.npz").values
    np.testing.assert_allclose(values["slope_1"], 2, atol=0.1)
    np.testing.assert_allclose(values["slope_2"], 3, atol=0.15)
    assert "slope_2: " in capsys.readouterr().out
    assert main(["sweep", "--beta", "0.2,0.4", "--orders", "1", "--out", str(out)]) == 2
    assert "--orders belongs to --observable order" in capsys.readouterr().err


def test_the_command_writes_arrays_a_picture_and_what_was_asked(tmp_path, capsys):
    out = tmp_path / "sweep"
    assert main(["sweep", "--beta", "0:0.9:4", "--rho", "0.1,0.5,0.9", "--netcdf", "--out", str(out)]) == 0
    assert "factor: " in capsys.readouterr().out
    result = ia.SweepResult.load(out / "sweep.npz")
    np.testing.assert_allclose(result.coords["beta"], [0, 0.3, 0.6, 0.9])
    assert (np.sign(result.values["factor"][:, 1]) == [-1, -1, 1, 1]).all()
    assert (out / "sweep.png").stat().st_size > 5000
    about = json.loads((out / "sweep.json").read_text())
    assert about["axes"]["rho"] == [0.1, 0.5, 0.9]
    import xarray

    with xarray.open_dataset(out / "sweep.nc") as data:
        np.testing.assert_allclose(data["factor"], result.values["factor"])


def test_the_command_goes_on_where_it_was_and_refuses_the_folder_of_another(tmp_path, capsys):
    arguments = ["sweep", "--beta", "0:0.9:4", "--chunk", "4", "--out", str(tmp_path)]
    assert main(arguments) == 0
    (chunk,) = (tmp_path / "chunks").glob("*.npz")
    written = chunk.stat().st_mtime_ns
    assert main(arguments) == 0
    assert main([*arguments, "--eps", "1e-3"]) == 2
    assert "holds another sweep (fn and what it closes over" in capsys.readouterr().err
    assert chunk.stat().st_mtime_ns == written


def test_parts_of_the_command_are_collected_by_the_command_without_them(tmp_path, capsys):
    arguments = ["sweep", "--beta", "0:0.9:12", "--chunk", "4"]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    shared = [*arguments, "--out", str(tmp_path / "shared")]
    for i in range(2):
        assert main([*shared, "--part", f"{i}/2"]) == 0
        assert f"part {i}/2: {(8, 4)[i]} points, 0 of them not finite" in capsys.readouterr().out
    assert len(list((tmp_path / "shared/chunks").glob("*.npz"))) == 3
    assert not (tmp_path / "shared/sweep.npz").exists()
    # Other devices than those of the parts, for a chunk that is missing.
    next((tmp_path / "shared/chunks").glob("*.npz")).unlink()
    assert main([*shared, "--devices", "2"]) == 2
    assert "same_bits=False" in capsys.readouterr().err
    assert main([*shared, "--devices", "2", "--no-same-bits"]) == 0
    whole, collected = (ia.SweepResult.load(tmp_path / f"{x}/sweep.npz").values for x in ("whole", "shared"))
    np.testing.assert_allclose(collected["factor"], whole["factor"], rtol=1e-12)


def test_an_interrupted_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    from implicit_adam.sweeps.lanes import Chunk

    run, calls = Chunk.__call__, []

    def interrupted(self, points):
        calls.append(points)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(self, points)

    arguments = ["sweep", "--beta", "0:0.9:12", "--chunk", "4", "--out", str(tmp_path)]
    monkeypatch.setattr(Chunk, "__call__", interrupted)
    assert main(arguments) == 130
    assert "--chunk 4" in (words := capsys.readouterr().err)
    assert f"--out {tmp_path}" in words
    assert len(list((tmp_path / "chunks").glob("*.npz"))) == 1
    assert not (tmp_path / "sweep.npz").exists()
    assert main(arguments) == 0
    assert len(calls) == 4


BAD = {
    "nothing to sweep": (["--beta", "0.5"], "nothing to sweep"),
    "no such hyperparameter": (["--optimizer", "heavy-ball", "--rho", "0.1,0.2"], "no hyperparameter rho"),
    "out of range": (["--beta", "0.5,1.5"], "beta = 1.5"),
    "unsorted": (["--beta", "0.5,0.1"], "increase strictly"),
    "not values": (["--beta", "a:b"], "is not of the form"),
    "two studies": (["--beta", "0,0.5", "--observable", "bias,loss"], "stands alone"),
    "unknown observable": (["--beta", "0,0.5", "--observable", "lost"], "unknown name"),
    "h of an order study": (["--h", "0.1,0.2", "--observable", "order"], "leave --h out"),
    "seed without effect": (["--seed", "0,1", "--observable", "loss"], "--seed has no effect"),
    "fractional seed": (["--problem", "digits", "--seed", "0,0.5", "--observable", "loss"], "integers"),
    "a horizon": (["--beta", "0,0.5", "--observable", "loss", "--horizon", "-1"], "horizon"),
    "less than a step": (["--beta", "0,0.5", "--observable", "loss", "--horizon", "1e-4"], "one step"),
    "a step of many": (["--h", "0.01,2", "--observable", "loss"], "one step"),
    "no values": (["--beta", "0:0.9:0"], "is not of the form"),
    "the log of zero": (["--h", "log:0:1:3", "--observable", "loss"], "both > 0"),
    "a flag as values": (["--set", "eps_in_sqrt=0,1"], "no hyperparameter eps_in_sqrt"),
    "too many devices": (["--beta", "0,0.5", "--devices", "500"], "only 4"),
    "a chunk": (["--beta", "0,0.5", "--chunk", "0"], "--chunk"),
    "a part beyond the last": (["--beta", "0,0.5", "--part", "2/2"], "0/8 .. 7/8 are eight parts"),
    "no part": (["--beta", "0,0.5", "--part", "two"], "not of the form I/K"),
    "more parts than chunks": (["--beta", "0,0.5", "--part", "1/2"], "too few for 2 parts"),
    "a setting": (["--set", "beta"], "NAME=VALUES"),
    "placement without effect": (
        ["--optimizer", "heavy-ball", "--beta", "0,0.5", "--eps-placement", "inside"],
        "no effect",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD.keys())
def test_bad_usage_is_refused_in_words_and_writes_nothing(arguments, words, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["sweep", *arguments, "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not (out / "sweep.npz").exists()


def test_pictures_take_one_to_three_axes_and_missing_points():
    def fn(a, b=0.0, c=1.0):
        return {"value": jnp.where(a > 0.5, jnp.nan, a * c - b)}

    xs = np.linspace(0, 1, 5)
    for grid, panels in (({"a": xs}, 1), ({"a": xs, "b": xs}, 1), ({"a": xs, "b": xs, "c": xs[1:3]}, 2)):
        figure = plot_sweep(ia.sweep(fn, grid, progress=False), ["value"])
        assert sum(1 for ax in figure.axes if ax.get_xlabel()) == panels
    four = ia.sweep(lambda a, b, c, d: a, {name: [0.1, 0.2] for name in "abcd"}, progress=False)
    with pytest.raises(ValueError, match="three axes"):
        plot_sweep(four, ["value"])


@pytest.mark.parametrize(("name", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_come_in_vector_formats(name, begins, tmp_path):
    assert main(["sweep", "--beta", "0,0.5", "--format", name, "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"sweep.{name}").read_bytes().startswith(begins)
    assert not (tmp_path / "sweep.png").exists()
