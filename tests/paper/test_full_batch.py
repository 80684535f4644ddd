"""Full-batch training is the optimizer on the whole data set, and a broken run goes on to the same bits."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.datasets import channel_statistics, cifar, normalised
from implicit_adam.networks import choices, network
from implicit_adam.networks.passes import cross_entropy
from implicit_adam.paper.training import epoch
from implicit_adam.paper.training.full_batch import FullBatchConfig, run
from tests.paper import cifar_files

ADAM = ia.Adam(1e-2, 0.9, 0.99, 1e-6, eps_in_sqrt=True)
SMALL = FullBatchConfig("cnn", "group", width=4, micro_batch=2, epochs=6, test_every=2, checkpoint_every=2)
GHOST = replace(SMALL, normalisation="ghost")
DATA = cifar_files.data()


class Killed(Exception):
    pass


def killed_after(last):
    def callback(done, _):
        if done == last:
            raise Killed

    return callback


def same(first, second):
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def plain(config, data, rule, steps, inside):
    """The run by itself: the whole batch at once and optax."""
    net = network(choices(config.model, normalisation=config.normalisation, width=config.width), 10)
    images = normalised(data.train_images, *channel_statistics(data.train_images))
    labels = jnp.asarray(data.train_labels)
    params = net.init(jax.random.split(jax.random.key(0))[0])
    eps, eps_root = (0.0, rule[3]) if inside else (rule[3], 0.0)
    tx = optax.adam(rule[0], rule[1], rule[2], eps, eps_root)
    state = tx.init(params)
    loss = jax.jit(jax.value_and_grad(lambda p: cross_entropy(net.apply(p, images)[0], labels)))
    seen = []
    for _ in range(steps):
        value, gradient = loss(params)
        seen.append((float(value), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return seen


@pytest.mark.parametrize(("micro_batch", "inside"), [(2, True), (8, False)])
def test_a_run_is_the_optimizer_on_the_whole_batch(micro_batch, inside):
    numbers = (1e-2, 0.9, 0.99, 1e-4)
    rule = ia.Adam(*numbers, eps_in_sqrt=inside)
    logs = run(replace(SMALL, micro_batch=micro_batch), DATA, rule)
    for n, (loss, g) in enumerate(plain(SMALL, DATA, numbers, 4, inside)):
        g = np.abs(g.astype(np.float64))
        expected = {
            "loss": loss,
            "one_norm": g.sum(),
            "two_norm": np.sqrt((g**2).sum()),
            "perturbed_one_norm": (np.sqrt(g**2 + 1e-4) if inside else g - 1e-4 * np.log1p(g / 1e-4)).sum(),
        }
        for name, value in expected.items():
            assert logs[name][n] == pytest.approx(value, rel=2e-4), name


def test_rules_without_such_an_eps_have_no_perturbed_norm():
    logs = run(replace(SMALL, epochs=1), DATA, ia.GradientDescent(1e-3))
    assert "perturbed_one_norm" not in logs
    assert logs["two_norm"].shape == (1,)


@pytest.mark.parametrize(("model", "width"), [("resnet50", 8), ("cnn", None), ("vit", 24)])
def test_every_model_learns_from_official_files(tmp_path, model, width):
    cifar_files.write(tmp_path, cifar_files.CIFAR10, records=2)
    data = cifar("cifar10", tmp_path, allow_partial=True)
    config = FullBatchConfig(model, width=width, micro_batch=10, epochs=2)
    logs = run(config, data, ia.Adam(1e-5, eps_in_sqrt=True))
    assert logs["finite"]
    assert all(np.isfinite(values).all() for values in logs.values())
    assert logs["loss"][1] < logs["loss"][0]
    assert logs["accuracy"].shape == (1,)


@pytest.mark.parametrize(("model", "blocks"), [("resnet50", 16), ("resnet101", 33)])
def test_the_residual_networks_differ_in_how_often_they_repeat_a_block(model, blocks):
    """Three convolutions each; those of a stage after its first block are stacked."""
    net = network(choices(model, width=8), 10)
    params = jax.eval_shape(net.init, jax.random.key(0))
    stacked = sum(leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim == 5)
    assert stacked == 3 * (blocks - 4)
    logits = jax.eval_shape(net.apply, params, jnp.zeros((2, 32, 32, 3), jnp.float32))[0]
    assert logits.shape == (2, 10)


def test_exact_is_ghost_in_one_piece():
    logs = [
        run(replace(SMALL, normalisation=name, micro_batch=8, epochs=2), DATA, ADAM)
        for name in ("exact", "ghost")
    ]
    for name in ("loss", "one_norm", "two_norm", "perturbed_one_norm"):
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-4)


def test_only_ghost_divides_the_data_anew_every_epoch():
    still = ia.Adam(1e-30, eps_in_sqrt=True)
    moves = {
        name: np.ptp(run(replace(SMALL, normalisation=name), DATA, still)["loss"])
        for name in ("ghost", "frozen", "group")
    }
    assert moves["ghost"] > 1e-4
    assert moves["frozen"] == moves["group"] == 0


def test_frozen_statistics_are_those_of_the_start():
    """At the start the loss is nearly that of ghost statistics; later the network is another."""
    frozen, ghost = (run(replace(GHOST, normalisation=name), DATA, ADAM) for name in ("frozen", "ghost"))
    assert frozen["loss"][0] == pytest.approx(ghost["loss"][0], rel=0.2)
    assert frozen["loss"][-1] != pytest.approx(ghost["loss"][-1], rel=0.01)


def test_accuracy_is_taken_with_statistics_of_the_training_images():
    """And so does not depend on which other test images there are."""
    config = replace(GHOST, epochs=30, test_every=29, micro_batch=8)
    data = cifar_files.data(n=8, tests=3)
    one = DATA._replace(test_images=data.test_images[:1], test_labels=data.test_labels[:1])
    two = DATA._replace(test_images=data.test_images[1:], test_labels=data.test_labels[1:])
    all_, first, others = (
        run(config, d, ADAM)["accuracy"]
        for d in (DATA._replace(test_images=data.test_images, test_labels=data.test_labels), one, two)
    )
    np.testing.assert_allclose(all_, (first + 2 * others) / 3, rtol=1e-6)


def test_accuracy_comes_every_few_epochs_and_learning_raises_it():
    logs = run(
        replace(SMALL, epochs=61, test_every=20),
        DATA._replace(test_images=DATA.train_images, test_labels=DATA.train_labels),
        ADAM,
    )
    np.testing.assert_array_equal(logs["accuracy_epoch"], [0, 20, 40, 60])
    assert logs["accuracy"][-1] == 1 > logs["accuracy"][0]


@pytest.mark.parametrize("config", [SMALL, GHOST, replace(SMALL, normalisation="frozen")])
@pytest.mark.parametrize("last", [0, 3, 5])
def test_a_run_that_broke_off_ends_with_the_same_bits(tmp_path, config, last):
    whole = run(config, DATA, ADAM)
    with pytest.raises(Killed):
        run(config, DATA, ADAM, folder=tmp_path, callback=killed_after(last))
    seen = []
    same(run(config, DATA, ADAM, folder=tmp_path, callback=lambda done, _: seen.append(done)), whole)
    assert seen == list(range(last // 2 * 2, 6))


SCRIPT = """
import os, signal, sys
from implicit_adam.paper.training.full_batch import run
from tests.paper.test_full_batch import ADAM, DATA, GHOST
watch = lambda done, _: done == 3 and os.kill(os.getpid(), signal.SIGKILL)
run(GHOST, DATA, ADAM, folder=sys.argv[1], callback=watch)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_leaves_a_run_that_goes_on(tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=Path(__file__).parents[2], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    seen = []
    logs = run(GHOST, DATA, ADAM, folder=tmp_path, callback=lambda done, _: seen.append(done))
    assert seen == [2, 3, 4, 5]
    whole = run(GHOST, DATA, ADAM)
    np.testing.assert_allclose(logs["loss"], whole["loss"], rtol=1e-5)


def test_a_finished_run_is_found_again_cut_and_extended(tmp_path):
    six = run(GHOST, DATA, ADAM, folder=tmp_path)
    untouched = lambda *_: pytest.fail("computed again")
    same(run(GHOST, DATA, ADAM, folder=tmp_path, callback=untouched), six)
    same(
        run(replace(GHOST, epochs=3), DATA, ADAM, folder=tmp_path, callback=untouched),
        run(replace(GHOST, epochs=3), DATA, ADAM),
    )
    nine = replace(GHOST, epochs=9, checkpoint_every=5)
    same(run(nine, DATA, ADAM, folder=tmp_path), run(nine, DATA, ADAM))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rule": ia.Adam(1e-2, 0.95, 0.99, 1e-6, eps_in_sqrt=True)}, "beta = 0.9 there, 0.95 here"),
        ({"rule": ia.Adam(1e-2, 0.9, 0.99, 1e-6, eps_in_sqrt=False)}, "eps_in_sqrt = True there, False here"),
        ({"rule": ia.RMSProp(1e-2, 0.99, 1e-6)}, "optimizer = Adam there, RMSProp here"),
        ({"seed": 1}, "seed = 0 there, 1 here"),
        ({"config": replace(SMALL, activation="relu")}, "activation = gelu there, relu here"),
        ({"config": replace(SMALL, micro_batch=4)}, "micro_batch = 2 there, 4 here"),
        ({"data": cifar_files.data(seed=5)}, "data = "),
    ],
)
def test_another_runs_folder_is_refused_with_what_differs(tmp_path, change, words):
    arguments = {"config": replace(SMALL, epochs=1), "data": DATA, "rule": ADAM}
    run(**arguments, folder=tmp_path)
    before = (tmp_path / "full_batch.npz").read_bytes()
    with pytest.raises(ValueError, match=words):
        run(**(arguments | change), folder=tmp_path)
    assert (tmp_path / "full_batch.npz").read_bytes() == before


def test_a_broken_file_is_refused(tmp_path):
    run(replace(SMALL, epochs=1), DATA, ADAM, folder=tmp_path)
    path = tmp_path / "full_batch.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"is broken .* remove it to begin anew"):
        run(SMALL, DATA, ADAM, folder=tmp_path)


def test_a_diverging_run_ends_early_and_is_not_tried_again(tmp_path):
    logs = run(SMALL, DATA, ia.GradientDescent(1e30), folder=tmp_path)
    assert not logs["finite"]
    assert 0 < len(logs["loss"]) < 6
    assert np.isfinite(logs["loss"]).all()
    untouched = lambda *_: pytest.fail("computed again")
    again = run(SMALL, DATA, ia.GradientDescent(1e30), folder=tmp_path, callback=untouched)
    same(again, logs)


def test_hyperparameters_seeds_and_data_share_one_compilation(monkeypatch):
    traced = []

    def counting(*arguments):
        traced.append(1)
        return epoch_full_batch(*arguments)

    epoch_full_batch = epoch.full_batch
    monkeypatch.setattr(epoch, "full_batch", counting)
    config = replace(SMALL, width=3, epochs=2)
    first = run(config, DATA, ADAM)
    for change in (
        {"rule": ia.Adam(1e-3, 0.5, 0.6, 1e-3, eps_in_sqrt=True)},
        {"seed": 7},
        {"data": cifar_files.data(seed=3)},
    ):
        assert run(**({"config": config, "data": DATA, "rule": ADAM} | change))["loss"][1] != first["loss"][1]
    assert len(traced) == 1


def test_bfloat16_is_close_to_float32():
    wide, narrow = (run(replace(SMALL, dtype=d, epochs=3), DATA, ADAM) for d in ("float32", "bfloat16"))
    np.testing.assert_allclose(narrow["loss"], wide["loss"], rtol=0.02)
    assert (narrow["loss"] != wide["loss"]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalisation": "exact"}, "micro_batch must be 8, got 2"),
        ({"micro_batch": 3}, "micro_batch = 3 must divide the 8 training images, .* 2 does"),
        ({"epochs": 0}, "epochs must be a Python integer >= 1, got 0"),
        ({"model": "mlp"}, "model must be one of"),
    ],
)
def test_configurations_that_cannot_run_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        run(replace(SMALL, **options), DATA, ADAM)


def test_a_seed_is_a_whole_number():
    with pytest.raises(ValueError, match="seed must be a Python integer >= 0, got -1"):
        run(SMALL, DATA, ADAM, seed=-1)


def test_what_is_no_optimizer_or_cannot_be_told_apart_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rule must be an optimizer"):
        run(SMALL, DATA, "adam")
    with pytest.raises(ValueError, match=r"Optax holds a function \(tx\)"):
        run(SMALL, DATA, optax.adam(1e-3), folder=tmp_path)
    assert run(replace(SMALL, epochs=1), DATA, optax.adam(1e-3))["finite"]
