"""A probe sees what a diagnosis sees, where it looks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from tests.diagnosis.test_diagnose import USUAL, usual, usual_run
from tests.fields.test_carried import net_loss


class Writer:
    def __init__(self):
        self.seen = []

    def add_scalar(self, tag, value, step):
        self.seen.append((tag, value, step))


def test_it_looks_every_so_many_steps_and_sees_what_a_diagnosis_does(tmp_path):
    params, state, _ = usual_run()
    writer, path = Writer(), tmp_path / "run.jsonl"
    probe = ia.Probe(USUAL, net_loss, every=3, path=path, writer=writer)
    rows = [probe.step(params, state) for _ in range(7)]
    assert [row is None for row in rows] == [True, True, False, True, True, False, True]
    assert [json.loads(line) for line in path.read_text().splitlines()] == probe.rows == [rows[2], rows[5]]
    assert ("implicit_adam/speed", rows[2]["speed"], 60) in writer.seen
    found, row = usual(), rows[2]
    np.testing.assert_allclose(row["speed"], found.speed, rtol=1e-9)
    np.testing.assert_allclose(row["one_norm"], found.norms["one_norm"].value, rtol=1e-9)
    np.testing.assert_allclose(row["one_norm_bias"], found.norms["one_norm"].bias, rtol=1e-8)
    unit = jnp.linalg.norm(found.instant)
    np.testing.assert_allclose(row["memory"], jnp.linalg.norm(jnp.sum(found.memory, 0)) / unit, rtol=1e-9)
    np.testing.assert_allclose(
        row["one_norm_share"], USUAL.h * row["one_norm_bias"] / row["one_norm"], rtol=1e-12
    )


def test_it_compiles_once_and_takes_each_steps_batch():
    traced = []

    def loss(params, batch):
        traced.append(1)
        return jnp.mean((batch @ params) ** 2)

    params, tx = jnp.ones(3), optax.sgd(0.1, momentum=0.5)
    probe, state = ia.Probe(ia.HeavyBall(0.1, 0.5), loss, every=1), tx.init(jnp.ones(3))
    counts, norms = [], []
    for size in (1.0, 2.0, 3.0):
        batch = size * jnp.eye(3)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        before = len(traced)
        norms.append(probe.step(params, state, batch)["one_norm"])
        counts.append(len(traced) - before)
        np.testing.assert_allclose(norms[-1], jnp.sum(jnp.abs(jax.grad(loss)(params, batch))), rtol=1e-12)
    # To check the loss and to see whether it has changed it is looked at each time; compiled once.
    assert counts[1] == counts[2] < counts[0]


def test_before_its_first_look_the_table_is_empty():
    table = ia.Probe(USUAL, net_loss).table()
    assert len(table) == 0
    assert "one_norm" in table


def test_what_cannot_write_is_refused():
    with pytest.raises(ValueError, match="add_scalar"):
        ia.Probe(USUAL, net_loss, writer=print)
    with pytest.raises(ValueError, match="every must be"):
        ia.Probe(USUAL, net_loss, every=0)


def test_it_counts_the_steps_of_an_optimizer_that_does_not():
    tx, theta = optax.sgd(1e-2, momentum=0.9), jnp.ones(3)
    probe, state = ia.Probe(tx, lambda x: jnp.sum(x**4), every=2), tx.init(theta)
    for _ in range(4):
        updates, state = tx.update(4 * theta**3, state, theta)
        theta = optax.apply_updates(theta, updates)
        probe.step(theta, state)
    assert [row["step"] for row in probe.rows] == [2, 4]
