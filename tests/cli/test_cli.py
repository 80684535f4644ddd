"""`implicit-adam verify`, as a user would run it."""

import json
import subprocess
import sys

import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.cli import main
from implicit_adam.losses.problems import bilinear
from implicit_adam.rules import RULES

QUICK = ["--problem", "bilinear", "--steps", "160,320,640", "--horizon", "0.2"]


def verify(tmp_path, *arguments):
    return main(["verify", "--out", str(tmp_path / "out"), *arguments])


def test_it_confirms_the_theorem_and_writes_a_table_json_and_a_picture(tmp_path, capsys):
    assert verify(tmp_path, *QUICK) == 0
    printed = capsys.readouterr().out
    assert "bilinear: Adam, eps outside" in printed
    assert "8 slopes: 8 holds" in printed
    report = json.loads((tmp_path / "out/verify.json").read_text())
    assert [case["optimizer"] for case in report["cases"]] == ["adam", "adam", "rmsprop", "rmsprop"]
    for case in report["cases"]:
        assert abs(case["orders"]["1"]["slope"] - 2) < 0.1
        assert abs(case["orders"]["0"]["slope"] - 1) < 0.15
        np.testing.assert_allclose(case["h"], [0.2 / 160, 0.2 / 320, 0.2 / 640])
        assert case["orders"]["1"]["verdict"] == "holds"
    assert (tmp_path / "out/verify.png").read_bytes().startswith(b"\x89PNG")


def test_higher_orders_are_verified_too_with_step_counts_and_data_of_their_own(tmp_path, capsys):
    options = ["--problem", "bilinear", "--optimizer", "adam", "--eps-placement", "inside", "--orders", "0,2"]
    assert verify(tmp_path, *options) == 0
    assert "order-2 flow: slope 2.9" in capsys.readouterr().out
    report = json.loads((tmp_path / "out/verify.json").read_text())
    assert report["step_counts"] == [32, 64, 128, 256]
    assert list(report["cases"][0]["orders"]) == ["0", "2"]


def test_every_optimizer_is_offered_and_real_digits_are_read(tmp_path, capsys):
    options = ["--problem", "digits", "--optimizer", "gradient-descent,heavy-ball", "--beta", "0.4"]
    assert verify(tmp_path, *options, "--steps", "16,32,64", "--horizon", "0.5", "--seed", "3") == 0
    assert "digits: HeavyBall  (beta 0.4, T 0.5)" in capsys.readouterr().out


def test_every_rule_and_any_optax_optimizer_can_be_verified(tmp_path, capsys):
    """With default hyperparameters; Adagrad, whose memory never fades, is said to be outside the theorem."""
    names = ",".join(name for name in RULES if name not in ("adam", "rmsprop"))
    optax_name = "optax:rmsprop(decay=0.7,eps=1.0,momentum=0.5)"
    assert verify(tmp_path, "--problem", "bilinear", "--optimizer", f"{names},{optax_name}") == 3
    printed = capsys.readouterr().out
    assert f"bilinear: {optax_name}" in printed
    assert "2 outside the theorem" in printed
    assert "contradicted" not in printed
    assert printed.count("theory 2: holds") == printed.count("theory 2:") - 1


def test_a_window_reaches_the_optax_field(tmp_path):
    options = ["--problem", "bilinear", "--optimizer", "optax:rmsprop(decay=0.7,eps=1.0)"]
    errors = []
    for window in ([], ["--window", "8"]):
        verify(tmp_path, *options, "--steps", "20,40,80", *window)
        case = json.loads((tmp_path / "out/verify.json").read_text())["cases"][0]
        errors.append(case["orders"]["1"]["error"])
    assert errors[0] != errors[1]


def test_what_has_not_settled_is_undecided_with_its_own_exit_status(tmp_path, capsys):
    options = ["--optimizer", "adam", "--eps-placement", "inside", "--beta", "0.9", "--rho", "0.99"]
    assert verify(tmp_path, *QUICK, *options) == 3
    assert "not yet asymptotic" in capsys.readouterr().out


def test_a_slope_that_contradicts_the_theorem_is_exit_status_1(tmp_path, capsys, monkeypatch):
    """With the sign of the correction turned."""
    from implicit_adam.fields.vector_field import raveled_field

    def flipped(rule, objective, order):
        plain, right = (raveled_field(rule, objective, q) for q in (0, order))
        return lambda n: lambda theta: 2 * plain(n)(theta) - right(n)(theta)

    monkeypatch.setattr(sys.modules["implicit_adam.measures.lockstep"], "raveled_field", flipped)
    options = ["--problem", "quadratic", "--optimizer", "gradient-descent", "--steps", "160,320,640"]
    assert verify(tmp_path, *options) == 1
    assert "theory 2: contradicted (the error falls like h^1" in capsys.readouterr().out


def test_a_solver_of_too_low_an_order_is_bad_usage(tmp_path, capsys):
    options = ["--problem", "quadratic", "--optimizer", "gradient-descent", "--solver", "heun"]
    assert verify(tmp_path, *options, "--orders", "0,2") == 2
    assert "Heun is of order 2" in capsys.readouterr().err


LONG = ["--problem", "bilinear", "--optimizer", "adam", "--eps-placement", "inside"]
NO_CONTRADICTION = {
    "a memory longer than the run": (
        [
            "--beta",
            "0.5",
            "--rho",
            "0.9999",
            "--eps",
            "1e-8",
            "--horizon",
            "0.1",
            "--steps",
            "50,100,200,400",
        ],
        (3, "memory is as long as the run"),
    ),
    "rho = beta": (["--beta", "0.7", "--rho", "0.7", "--eps", "1e-10"], (0, "slope 1.97")),
}


@pytest.mark.parametrize(("options", "expected"), NO_CONTRADICTION.values(), ids=NO_CONTRADICTION.keys())
def test_what_the_theorem_does_not_speak_of_or_allows_does_not_contradict_it(
    options, expected, tmp_path, capsys
):
    status, words = expected
    assert verify(tmp_path, *LONG, *options) == status
    printed = capsys.readouterr().out
    assert words in printed
    assert "contradict" not in printed


STILL_BENDING = {
    "bends-to-two": ["--rho", "0.9", "--eps", "1", "--horizon", "1", "--steps", "50,100,200,400"],
    "close-together": ["--steps", "10,11,12,13"],
}


@pytest.mark.parametrize("options", STILL_BENDING.values(), ids=STILL_BENDING.keys())
def test_slopes_on_their_way_to_the_theorems_do_not_contradict_it(options, tmp_path, capsys):
    common = ["--problem", "bilinear", "--optimizer", "adam", "--eps-placement", "inside"]
    assert verify(tmp_path, *common, *options) == 3
    assert "contradicted" not in capsys.readouterr().out


def test_options_reach_the_study(tmp_path):
    def slopes(*options):
        verify(tmp_path, *QUICK, "--optimizer", "adam", "--eps-placement", "inside", *options)
        case = json.loads((tmp_path / "out/verify.json").read_text())["cases"][0]
        return case["hyperparameters"], np.asarray(case["orders"]["1"]["error"])

    hyperparameters, base = slopes()
    assert hyperparameters == {"beta": 0.5, "rho": 0.7, "eps": 1e-3, "eps_in_sqrt": True}
    for options in (
        ["--beta", "0.4"],
        ["--rho", "0.6"],
        ["--eps", "1.0"],
        ["--solver", "heun"],
        ["--horizon", "0.1"],
    ):
        assert not np.array_equal(slopes(*options)[1], base), options


def test_carried_memory_is_verified_at_practical_settings(tmp_path, capsys):
    common = ("--carried", "--problem", "bilinear", "--optimizer", "adam", "--eps-placement", "outside")
    assert verify(tmp_path, *common, "--steps", "96,192,384") == 0
    printed = capsys.readouterr().out
    assert "beta 0.9, rho 0.999, eps 1e-08" in printed
    assert "carried memory: slope 2.0" in printed
    written = json.loads((tmp_path / "out/verify.json").read_text())
    assert written["carried"]
    assert written["cases"][0]["steps"] == [96, 192, 384]
    # Memory of as many steps for every h is another run, except at the largest, whose decays are told.
    errors = np.asarray(written["cases"][0]["orders"]["1"]["error"])
    fixed = ia.convergence(
        ia.Adam(1.0),
        bilinear().loss,
        bilinear().params,
        horizon=0.5,
        step_counts=(96, 192, 384),
        carried=True,
    )
    np.testing.assert_allclose(errors[0], fixed.error[1][0], rtol=1e-9)
    assert abs(errors[-1] / fixed.error[1][-1] - 1) > 0.01


BAD = {
    "unknown-problem": (["--problem", "mnist"], "known are bilinear"),
    "unknown-optimizer": (["--optimizer", "adam,sgd"], "'sgd'"),
    "unknown-solver": (["--solver", "rk4"], "rk4"),
    "beta-out-of-range": (["--beta", "1.0"], r"[0, 1)"),
    "eps-zero": (["--eps", "0"], "> 0"),
    "two-steps": (["--steps", "10,20"], "three"),
    "order-too-high": (["--orders", "0,4"], "0 (leading flow) to 3"),
    "no-order": (["--orders", ""], "list of integers"),
    "words-as-steps": (["--steps", "ten,20,30"], "48,96"),
    "horizon": (["--horizon", "-1"], "horizon"),
    "useless-beta": (["--optimizer", "rmsprop", "--beta", "0.5"], "no effect"),
    "useless-eps": (["--optimizer", "heavy-ball", "--eps", "1e-3"], "no effect"),
    "useless-placement": (["--optimizer", "heavy-ball", "--eps-placement", "both"], "no effect"),
    "useless-seed": (["--problem", "bilinear", "--seed", "1"], "no effect"),
    "unknown-optax": (["--optimizer", "optax:adamm"], "no optimizer 'adamm'"),
    "positional-optax": (["--optimizer", "optax:adam(0.1)"], "of the form"),
    "code-as-optax": (["--optimizer", "optax:adam(b1=open('x'))"], "of the form"),
    "flat-optax": (["--optimizer", "optax:sign_sgd", "--problem", "bilinear"], "derivative zero"),
    "unknown-argument-of-optax": (["--optimizer", "optax:adam(foo=1)"], "foo"),
    "no-transformation-of-optax": (["--optimizer", "optax:apply_updates"], "apply_updates"),
    "negative-seed": (["--problem", "digits", "--seed", "-1"], "--seed"),
    "vanishing-eps": (["--eps", "1e-320"], "underflows"),
    "useless-window": (["--window", "5"], "no effect"),
    "float32": (["--dtype", "float32"], "float64"),
    "unknown-option": (["--fast"], "--fast"),
    "carried-order": (["--carried", "--orders", "0,2"], "to 1, got 2"),
    "carried-schedule": (["--carried", "--schedule", "shuffled"], "leave out --schedule"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD.keys())
def test_bad_usage_is_explained_with_exit_status_2_and_writes_nothing(options, words, tmp_path, capsys):
    assert verify(tmp_path, *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unwritable_out_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "out").write_text("a file, not a folder")
    assert verify(tmp_path, *QUICK) == 2
    captured = capsys.readouterr()
    assert "--out" in captured.err
    assert not captured.out


def test_no_command_is_bad_usage_and_help_teaches(capsys):
    assert main([]) == 2
    assert main(["verify", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "examples:" in printed
    assert "exit status:" in printed


def test_it_tells_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"implicit-adam {ia.__version__}\n"


def test_a_log_gets_no_fragments_of_a_progress_bar(tmp_path):
    """Standard error is a file here, as under nohup or in a job's log."""
    sweep = ["sweep", "--beta", "0,0.5", "--chunk", "4", "--out", str(tmp_path / "sweep")]
    study = ["verify", "--problem", "bilinear", "--optimizer", "gradient-descent", "--steps", "10,20,40"]
    figure = ["reproduce", "figure1", "--quick", "--out", str(tmp_path / "figure")]
    program = f"""

import implicit_adam as ia
from implicit_adam.cli import main
from implicit_adam.losses.problems import bilinear
for command in ({sweep}, {[*study, "--out", str(tmp_path / "study")]}, {figure}):
    assert main(command) in (0, 3)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "\r" not in result.stdout


def test_verify_draws_vector_pictures(tmp_path):
    assert verify(tmp_path, *QUICK, "--optimizer", "gradient-descent", "--format", "svg") in (0, 3)
    assert (tmp_path / "out/verify.svg").read_bytes().startswith(b"<?xml")


def test_it_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "implicit_adam", "verify", "--beta", "2", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "beta = 2" in result.stderr


def test_a_shuffled_schedule_is_another_run_and_means_nothing_to_one_loss(tmp_path, capsys):
    options = [
        "--problem",
        "digits",
        "--optimizer",
        "gradient-descent",
        "--steps",
        "16,32,64",
        "--horizon",
        "0.5",
    ]
    errors = []
    for schedule in ([], ["--schedule", "shuffled"]):
        # So few steps need not settle a slope (3).
        assert verify(tmp_path, *options, *schedule) in (0, 3)
        case = json.loads((tmp_path / "out/verify.json").read_text())["cases"][0]
        errors.append(case["orders"]["1"]["error"])
    assert errors[0] != errors[1]
    assert verify(tmp_path, *QUICK, "--schedule", "shuffled") == 2
    assert "--schedule has no effect on bilinear" in capsys.readouterr().err
