"""`implicit-adam reproduce`, as a user would run it, and the small network it trains."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.cli import main
from implicit_adam.cli.report import QUICK, Done, report
from implicit_adam.measures.training_regime import REGIMES, regime_of_losses
from implicit_adam.networks import residual
from implicit_adam.networks.passes import cross_entropy
from implicit_adam.paper.claims import Claim
from implicit_adam.paper.reproduce import EXPERIMENTS
from implicit_adam.paper.training import cifar_runs
from implicit_adam.paper.training.network_runs import NetworkConfig, train_networks
from tests.paper import cifar_files


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def test_it_writes_arrays_a_picture_and_a_report_with_every_claim(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reproduce", "figure1", "gd", "--quick", "--out", str(out)]) == 0
    text = (out / "report.md").read_text()
    assert "3 claims: 3 held." in text
    assert re.search(r"slopes 2\.\d+ and 1\.\d+", text)
    assert "beta 0.95" in text
    for name in ("figure1", "gd"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({name}.png)" in text
    assert set(arrays(out / "gd.npz")) >= {"h", "modified", "plain"}
    printed = capsys.readouterr().out
    assert "held  section 1: E + (h/4) ||grad E||^2" in printed
    assert str(tmp_path) not in text.replace(str(out), "")


@pytest.mark.parametrize(("name", "link"), [("svg", "![{}](figure1.svg)"), ("pdf", "\n[{}](figure1.pdf)")])
def test_the_report_shows_pictures_of_the_format_that_was_asked_for(name, link, tmp_path):
    assert main(["reproduce", "figure1", "--quick", "--format", name, "--out", str(tmp_path)]) == 0
    assert link.format(EXPERIMENTS["figure1"].title) in (tmp_path / "report.md").read_text()
    assert (tmp_path / f"figure1.{name}").exists()


def test_of_the_report_of_another_command_only_what_is_named_is_written_again(tmp_path):
    out = ["--out", str(tmp_path)]
    path = tmp_path / "report.md"
    path.write_text(WHOLE)
    assert main(["reproduce", "gd", "early-hills", *out]) == 2  # WHOLE is of small settings
    path.write_text(WHOLE.replace(QUICK, "").replace(" --quick", ""))
    before = path.read_text()
    assert main(["reproduce", "gd", *out]) == 0
    text = path.read_text()
    assert "4 claims: 3 held, 1 not decided here." in before
    assert "4 claims: 4 held." in text
    assert text.count("| [gd](#gd) |") == text.count('<a id="gd"></a>') == 1
    assert f"This part was run again. Written by `implicit-adam reproduce gd --out {tmp_path}`" in text
    for part in ("theorem", "figure1"):
        own = before.split(f'<a id="{part}"></a>')[1].split("<a id")[0].strip()
        assert own in text
    assert main(["reproduce", "momentum", *out]) == main(["reproduce", "gd", *out]) == 0
    again = path.read_text()
    assert again.count("run again since") == 1
    anchors = re.findall(r'<a id="(.*)"></a>', again)
    assert anchors == [name for name in EXPERIMENTS if name in ("figure1", "theorem", "gd", "momentum")]


def test_the_report_of_another_command_is_not_written_over(tmp_path, capsys):
    path = tmp_path / "report.md"
    for text, command in (
        (WHOLE, ["figure1"]),
        (WHOLE.replace(QUICK, "").replace("--quick", "--dataset cifar10"), ["figure1"]),
        (WHOLE.replace(QUICK, ""), []),
        (WHOLE.replace(QUICK, ""), ["figure1", "--quick"]),
        ("notes", ["figure1"]),
    ):
        path.write_text(text)
        assert main(["reproduce", *command, "--out", str(tmp_path)]) == 2
        assert "was written by another command" in capsys.readouterr().err
        assert path.read_text() == text


def made_up(name, *verdicts):
    claims = tuple(Claim("a", f"{name} | {i}", "c", "m", verdict) for i, verdict in enumerate(verdicts))
    return Done(EXPERIMENTS[name], EXPERIMENTS[name].quick, claims, 1.0)


WHOLE = report(
    {
        "figure1": made_up("figure1", "held", "held"),
        "theorem": made_up("theorem", "held"),
        "gd": made_up("gd", "not decided here"),
    },
    "implicit-adam reproduce --quick",
    quick=True,
)


def test_what_was_finished_before_an_interruption_is_in_the_report(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(EXPERIMENTS, "gd", EXPERIMENTS["gd"]._replace(run=interrupted))
    assert main(["reproduce", "figure1", "gd", "sgd", "--quick", "--out", str(tmp_path)]) == 130
    assert "what was finished (figure1) is in" in capsys.readouterr().err
    text = (tmp_path / "report.md").read_text()
    assert "Not finished: without gd, sgd." in text
    assert "2 claims: 2 held." in text


def test_further_pictures_stand_beside_the_first(tmp_path, monkeypatch):
    one = EXPERIMENTS["figure1"]
    again = one._replace(more_pictures=lambda config, found: {"few": one.picture(config, found)})
    monkeypatch.setitem(EXPERIMENTS, "figure1", again)
    assert main(["reproduce", "figure1", "--quick", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"figure1.png", "figure1-few.png"}


def test_a_file_that_cannot_be_written_is_said_in_words(tmp_path, capsys):
    (tmp_path / "figure1.png").mkdir()
    assert main(["reproduce", "figure1", "--out", str(tmp_path)]) == 2
    assert "figure1.png" in capsys.readouterr().err


def test_an_unknown_item_is_refused_before_anything_is_written(tmp_path, capsys):
    assert main(["reproduce", "figure7", "--out", str(tmp_path / "out")]) == 2
    assert "unknown experiment figure7; known are figure1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_report_counts_verdicts_and_keeps_bars_out_of_its_table():
    claims = (Claim("a", "|g| is small", "c", "m", "held"), Claim("b", "s", "c", "m", "not decided here"))
    done = {"gd": Done(EXPERIMENTS["gd"], EXPERIMENTS["gd"].quick, claims, 1.0)}
    text = report(done, "command")
    assert "2 claims: 1 held, 1 not decided here." in text
    assert r"| a | \|g\| is small | a random loss | **held** |" in text
    assert "--quick" not in text
    assert "Not finished" not in text
    unfinished = report(done, "command", quick=True, missing=("sgd", "momentum"))
    assert "Small settings (`--quick`)" in unfinished
    assert "Not finished: without sgd, momentum." in unfinished


def test_a_report_of_what_is_beyond_the_paper_says_so():
    for name, heading in (("gd", "# The paper, re-checked"), ("edge", "# Beyond the paper, checked")):
        text = report({name: made_up(name, "held")}, "command")
        assert text.startswith(f"{heading}\n")
        assert ("Not measured here" in text) == (name == "gd")


def test_a_report_lists_a_setting_once_unless_it_differs_between_the_parts_of_an_item():
    claims = (Claim("a", "b", "c", "m", "held"), Claim("a", "d", "c", "m", "held"))
    quick = EXPERIMENTS["figure6"].quick
    section = report({"figure6": Done(EXPERIMENTS["figure6"], quick, claims, 1.0)}, "command").split(
        "Settings: "
    )[1]
    assert "left beta 0.8, 0.9, 0.95; right beta 0.9;" in section
    assert section.count("epochs 100") == section.count("seeds 0, 1;") == 1
    text = report(
        {"theorem": Done(EXPERIMENTS["theorem"], EXPERIMENTS["theorem"].config, claims, 1.0)}, "command"
    )
    assert "schedule cyclic; cyclic schedule cyclic; shuffled schedule shuffled" in text
    assert "seed 0;" in text
    assert "eps default;" in text
    assert text.count("Criterion: c.") == text.count("Criterion: as before.") == 1


@pytest.fixture(scope="module")
def trained():
    config = NetworkConfig(
        beta=(0.9, 0.99),
        rho=(0.999,),
        epochs=40,
        seeds=(0, 1),
        train=100,
        channels=4,
        blocks=1,
        test_every=20,
    )
    return config, train_networks(config, lambda share: None)


def test_networks_train_in_one_sweep_with_their_norms(trained):
    config, runs = trained
    assert runs.loss.shape == runs.norm.shape == (2, 1, 2, 40)
    assert runs.accuracy.shape == (2, 1, 2, 2)
    # Shares of the 1697 images that do not train.
    right = runs.accuracy.astype(float) * 1697
    np.testing.assert_allclose(right, np.round(right), atol=1e-3)
    assert (runs.loss[..., -1] < runs.loss[..., 0]).all()
    assert (runs.norm >= 0.999 * int(runs.p) * config.eps**0.5).all()
    assert REGIMES[runs.regime[0, 0, 0]] == "stable oscillation"
    # Seeds draw the weights, hyperparameters nothing: the first loss is that of the seed.
    np.testing.assert_allclose(runs.loss[0, 0, :, 0], runs.loss[1, 0, :, 0], rtol=1e-6)
    assert runs.loss[0, 0, 0, 0] != runs.loss[0, 0, 1, 0]
    # Tested after 20 and 40 epochs, predicted before the 1st and the 21st.
    assert runs.predicted.shape == (2, 1, 2, 2)
    np.testing.assert_allclose(runs.predicted, runs.norm[..., ::20], rtol=5e-3)


def test_the_norm_of_a_run_is_that_of_the_gradient_before_the_step(trained):
    config, runs = trained
    from implicit_adam.paper.training.network_runs import _digits, _start

    train, _ = _digits(config.train)
    loss = lambda params: cross_entropy(residual.residual_logits(params, train.images), train.labels)
    E, gradient = jax.value_and_grad(loss)(_start(config, 1))
    norm = sum(float(jnp.sum(jnp.sqrt(g.astype(float) ** 2 + config.eps))) for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose(runs.norm[0, 0, 1, 0], norm, rtol=1e-5)
    np.testing.assert_allclose(runs.loss[0, 0, 1, 0], E, rtol=1e-5)


def test_patches_times_weights_are_a_convolution():
    key = jax.random.key(0)
    x = jax.random.normal(key, (2, 4, 4, 3))
    layer = {"w": jax.random.normal(key, (27, 5)), "b": jnp.arange(5.0)}
    dimensions = ("NHWC", "HWIO", "NHWC")
    kernel = layer["w"].reshape(3, 3, 3, 5)
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    got = residual._convolved(layer, x, None)
    np.testing.assert_allclose(got, expected + layer["b"].reshape(1, 1, 1, -1), rtol=1e-12, atol=1e-12)


def test_a_network_without_residual_weights_is_its_stem_and_its_end():
    params = residual.residual_params(jax.random.key(0), channels=4, blocks=2)
    images = jax.random.uniform(jax.random.key(1), (3, 8, 8), jnp.float32)
    off = {**params, "blocks": jax.tree.map(jnp.zeros_like, params["blocks"])}
    short = {**params, "blocks": []}
    np.testing.assert_allclose(
        residual.residual_logits(off, images), residual.residual_logits(short, images), rtol=1e-6
    )
    assert residual.residual_logits(params, images).dtype == jnp.float32
    assert float(residual.accuracy(jnp.eye(4), jnp.asarray([0, 1, 3, 2]))) == 0.5


def test_a_normalised_network_takes_its_statistics_from_the_first_images():
    params = residual.residual_params(jax.random.key(0), channels=4, blocks=2, normalised=True)
    images = jax.random.uniform(jax.random.key(1), (12, 8, 8), jnp.float32)
    first = residual.residual_logits(params, images[:8])
    np.testing.assert_allclose(residual.residual_logits(params, images, 8)[:8], first, rtol=1e-5, atol=1e-5)
    assert not np.allclose(residual.residual_logits(params, images)[:8], first, rtol=1e-2)
    # The scale of the weights before a normalisation does not matter, but for the eps of the variance.
    stem = {**params["stem"], "w": 3 * params["stem"]["w"]}
    np.testing.assert_allclose(
        residual.residual_logits({**params, "stem": stem}, images[:8]), first, rtol=1e-2, atol=1e-2
    )


CIFAR = ["--dataset", "cifar10", "--model", "cnn", "--width", "2", "--micro-batch", "5", "--epochs", "3"]


def test_figure_4_runs_on_cifar_files_and_goes_on_where_it_stopped(tmp_path):
    cifar_files.write(tmp_path / "data", cifar_files.CIFAR10, records=1)
    out = tmp_path / "out"
    options = [*CIFAR, "--data-dir", str(tmp_path / "data"), "--allow-partial", "--test-every", "1"]
    options += ["--seeds", "4"]
    assert main(["reproduce", "figure4", *options, "--out", str(out)]) == 0
    first = arrays(out / "figure4.npz")
    assert first["runs/norm"].shape == (1, 6, 1, 3)
    assert first["runs/predicted"].shape == (1, 6, 1, 0)
    assert "nothing was predicted" in (out / "report.md").read_text()
    text = (out / "report.md").read_text()
    assert "no trend (it needs three values, two seeds" in text
    assert "| cnn on cifar10 |" in text
    assert "digits" not in text
    assert "normalisation group; activation gelu; width 2;" in text
    runs = [path.name for path in sorted((out / "runs").iterdir())]
    assert runs[0] == "cifar10-cnn-h7.5e-05-beta0.99-rho0.97-seed4"
    assert len(runs) == 6
    assert main(["reproduce", "figure4", *options, "--out", str(out)]) == 0
    np.testing.assert_array_equal(arrays(out / "figure4.npz")["runs/norm"], first["runs/norm"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["figure4", *CIFAR], "needs --data-dir"),
        (["figure4", *CIFAR, "--test-every", "1", "--data-dir", "nowhere"], "nowhere"),
        (
            ["figure1", *CIFAR, "--data-dir", "."],
            "unknown experiment figure1; known with --dataset are figure4",
        ),
        (["figure4", "--model", "vit"], "--model has no effect without --dataset"),
        (["figure4", *CIFAR, "--data-dir", ".", "--quick"], "--quick has no effect with --dataset"),
        (["figure4", *CIFAR, "--data-dir", ".", "--seeds", "3,3"], "different integers, got 3, 3"),
        (["figure4", *CIFAR, "--data-dir", ".", "--seeds", "-1"], "a seed must be a Python integer >= 0"),
        (["figure4", *CIFAR, "--data-dir", ".", "--h", "nan"], "h = nan is not allowed"),
        (["figure4", *CIFAR, "--data-dir", "."], "epochs = 3 must be more than test_every = 10"),
        (["figure4", "--out", ""], "'' is no folder"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options, words, tmp_path, capsys):
    assert main(["reproduce", "--out", str(tmp_path / "out"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_ended_early_diverged():
    losses = cifar_runs._filled(np.array([2.0, 3.0]), 4)
    np.testing.assert_array_equal(losses, [2.0, 3.0, np.nan, np.nan])
    assert REGIMES[int(regime_of_losses(jnp.asarray(losses)).regime)] == "divergence"
