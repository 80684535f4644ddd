"""What a notebook shows of a result or an optimizer can be read by a human."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_adam as ia
from tests import examples

RULE = ia.Adam(0.1, 0.5, 0.6, 0.1, eps_in_sqrt=True)
START = {"w": jnp.asarray([1.0, -0.7]), "b": jnp.asarray(0.4)}


def loss(params):
    return jnp.sum(params["w"] ** 2) + params["b"] ** 4


def test_an_optimizer_shows_its_values():
    assert repr(ia.Adam(1e-3, eps=1e-8, eps_in_sqrt=False)) == (
        "Adam(h=0.001, beta=0.9, rho=0.999, eps=1e-08, eps_in_sqrt=False)"
    )
    narrow = ia.Adam(1e-3, eps=1e-8, eps_in_sqrt=True).astype(jnp.float32)
    assert repr(narrow) == "Adam(h=0.001, beta=0.9, rho=0.999, eps=1e-08, eps_in_sqrt=True)"
    assert repr(ia.HeavyBall(0.1, 0.9999999)) == "HeavyBall(h=0.1, beta=0.9999999)"
    assert repr(ia.Optax(0.1, optax.adam(1.0))).startswith("Optax(h=0.1, tx=<GradientTransformation")
    scheduled = ia.Scheduled(ia.GradientDescent(0.1), optax.constant_schedule(1.0))
    assert repr(scheduled).startswith("Scheduled(h=0.1, rule=GradientDescent(h=0.1), schedule=")
    assert "decay=[0.9999999]" in repr(ia.HeavyBall(0.1, 0.9999999).kernels(3)[0])


def test_optimizers_built_under_vmap_or_jit_show_shapes_and_ranges():
    many = jax.vmap(ia.GradientDescent)(jnp.linspace(0.1, 0.5, 5))
    assert repr(many) == "GradientDescent(h=float64[5] 0.1 .. 0.5)"
    seen = []
    jax.jit(lambda h: seen.append(repr(ia.GradientDescent(h))) or h)(0.1)
    assert seen == ["GradientDescent(h=float64[])"]


def test_a_trajectory_is_one_line_of_shapes_and_ranges():
    run = ia.iterate(RULE, loss, START, 10)
    assert repr(run).startswith("Trajectory(t=float64[11] 0 .. 1, params={'b': float64[11] ")
    assert "finite=True" in repr(run)
    assert "\n" not in repr(run)
    lost = run._replace(params=run.params["b"].at[3].set(jnp.nan), finite=jnp.asarray(False))
    assert "0.4, 1 not finite" in repr(lost)
    assert "finite=False" in repr(lost)
    seen = []
    jax.jit(lambda h: seen.append(repr(ia.iterate(ia.GradientDescent(h), loss, START, 3))) or h)(0.1)
    assert seen[0].startswith(
        "Trajectory(t=float64[4], params={'b': float64[4], 'w': float64[4, 2]}, finite=bool[]"
    )


def test_results_say_what_their_numbers_mean():
    regimes = ia.regimes(RULE, loss, START)
    assert f"{int(regimes.cell)}: {ia.CELLS[int(regimes.cell)]}" in repr(regimes)
    run = ia.iterate(RULE, loss, START, 10)
    assert "0: stable oscillation" in repr(ia.training_regime(run, loss))
    parts = ia.decompose(RULE, loss, START, 3)
    size = np.sqrt(sum(np.sum(np.asarray(x) ** 2) for x in jax.tree.leaves(parts.memory)))
    assert f"memory        norm {size:.4g}: " in repr(parts)
    seen = ia.observe(RULE, loss, START, 5, ("loss", "one_norm"))
    words = repr(seen).splitlines()
    assert words[1] == "  loss      " + ", ".join(
        f"{kind} {float(getattr(seen, kind)['loss']):.4g}" for kind in ("least", "largest", "mean", "last")
    )
    words = repr(ia.problems.bilinear())
    assert words.startswith("Problem(name='bilinear', loss=bilinear_loss, params=[2.8, 3.5], batches=None")


def test_a_study_is_a_table():
    study = ia.convergence(RULE, examples.full_loss, examples.START, horizon=0.1, step_counts=(10, 20, 40))
    lines = repr(study).splitlines()
    assert len(lines) == 2 + 3 + 2
    assert lines[3].split() == [
        "0.005", "20", f"{study.error[0][1]:.3g}", f"{study.local_slope[0][0]:.2f}",
        f"{study.error[1][1]:.3g}", f"{study.local_slope[1][0]:.2f}",
    ]  # fmt: skip
    assert f"order 1: slope {study.slope[1]:.3f} +- " in lines[-1]
