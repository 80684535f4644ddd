"""Under the cyclic schedule a few rows stand for the whole past."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.mini_batch import cyclic_schedule as periodic
from implicit_adam.fields.mini_batch.cyclic_schedule import few_rows, late_rows, resolution
from implicit_adam.fields.mini_batch.discounted_counts import discounted_visits
from implicit_adam.fields.mini_batch.history_sum import TILE, Memory, every_step
from tests import examples

M = 4
MEMORIES = [(0.9, 0.999), (0.99, 0.9), (0.5, 0.7), (0.0, 0.99), (0.999, 0.9999)]


def memory(rule, schedule=None, m=M):
    return Memory(rule, [discounted_visits(schedule, m, kernel.decay) for kernel in rule.kernels(0)])


@functools.partial(jax.jit, static_argnames="m")
def both_pasts(rule, n, g, schedule, m=M):
    """sum_{l<n} u(n, l) F^(l) by a few rows, and by every step."""
    theta, zero = jnp.zeros_like(g[0]), jnp.zeros_like(jnp.stack(rule.features(g)))
    few = few_rows(memory(rule, m=m), n, m)(g, theta, zero)
    return few, every_step(memory(rule, schedule, m), n)(g, theta, zero)


def gradients(spread, m=M, p=50, dtype=float):
    """Mini-batch gradients around a common one; of very different size for a large spread."""
    rng = np.random.default_rng(1)
    sizes = np.geomspace(1, spread, m)[:, None] if spread > 1 else 1.0
    return jnp.asarray(rng.normal(size=p)[None] + sizes * rng.normal(size=(m, p)), dtype)


def relative(few, every):
    """For each feature, since they differ in size; a memory of the present alone has no past."""
    sizes = [max(float(jnp.max(jnp.abs(y))), 1e-300) for y in every]
    return max(float(jnp.max(jnp.abs(x - y))) / size for x, y, size in zip(few, every, sizes, strict=True))


@pytest.mark.parametrize("spread", [1.0, 100.0])
@pytest.mark.parametrize(("beta", "rho"), MEMORIES)
def test_the_interpolated_past_is_the_summed_past(beta, rho, spread):
    """To 1e-8 from the first epochs on, and to rounding before."""
    rule, g, schedule = (
        ia.Adam(1.0, beta, rho, 1e-6, eps_in_sqrt=True),
        gradients(spread),
        jnp.arange(5000) % M,
    )
    first = M * resolution(jnp.float64).epochs
    for n, rtol in ((1, 1e-13), (first, 1e-12), (first + 1, 1e-8), (60, 1e-8), (500, 1e-8), (4999, 1e-8)):
        assert relative(*both_pasts(rule, jnp.asarray(n), g, schedule)) < rtol


def test_float32_keeps_its_own_accuracy():
    schedule = jnp.arange(500) % M
    rule = ia.Adam(1.0, 0.9, 0.99, 1e-3, eps_in_sqrt=True)
    narrow = rule.astype(jnp.float32)
    for n in (17, 40, 499):
        few, _ = both_pasts(narrow, jnp.asarray(n), gradients(1.0, dtype=jnp.float32), schedule)
        _, every = both_pasts(rule, jnp.asarray(n), gradients(1.0), schedule)
        assert few.dtype == jnp.float32
        assert relative(few.astype(float), every) < 1e-5


def test_the_last_remembered_epochs_are_all_there():
    """With many batches and a short memory the steps after the first epochs begin within it."""
    rule, g = ia.Adam(1.0, 0.2, 0.5, 1e-6, eps_in_sqrt=True), gradients(1.0, m=8)
    for n in (2000, 2003, 2007):
        assert relative(*both_pasts(rule, jnp.asarray(n), g, jnp.arange(2010) % 8, 8)) < 1e-9


def test_the_degree_in_float32_leaves_less_than_float32_can_tell(monkeypatch):
    """Carried out in float64, so that interpolation alone is seen."""
    narrow = resolution(jnp.float32)
    monkeypatch.setattr(periodic, "resolution", lambda dtype: narrow)
    rule, schedule = ia.Adam(1.0, 0.9, 0.99, 1e-3, eps_in_sqrt=True), jnp.arange(500) % M
    g, n = gradients(1.0), jnp.asarray(M * narrow.epochs + 20)
    theta, zero = jnp.zeros_like(g[0]), jnp.zeros_like(jnp.stack(rule.features(g)))
    few = few_rows(memory(rule), n, M)(g, theta, zero)
    error = relative(few, every_step(memory(rule, schedule), n)(g, theta, zero))
    assert 1e-9 < error < 1e-6


def test_many_parameters_go_tile_by_tile():
    """Whole tiles and a rest; the same numbers as coordinate by coordinate."""
    g = gradients(1.0, p=2 * TILE + 7)
    rule, schedule = ia.Adam(1.0, 0.9, 0.99, 1e-3, eps_in_sqrt=True), jnp.arange(50) % M
    few, every = both_pasts(rule, jnp.asarray(40), g, schedule)
    assert relative(few, every) < 1e-8
    for start in (0, TILE - 1, 2 * TILE + 4):
        here = slice(start, start + 3)
        alone, _ = both_pasts(rule, jnp.asarray(40), g[:, here], schedule)
        np.testing.assert_allclose(few[..., here], alone, rtol=1e-12)


def test_the_number_of_rows_does_not_depend_on_n():
    rule = ia.Adam(1.0, 0.9, 0.999, 1e-3, eps_in_sqrt=True)
    for n in (100, 10_000):
        assert len(late_rows(memory(rule), n, M, jnp.dtype(float)).w) == M * 15
    assert resolution(jnp.float32).degree < resolution(jnp.float64).degree


def test_it_differentiates_in_both_modes_and_vmaps():
    g = gradients(1.0, m=2, p=3)
    zero = jnp.zeros((2, *g.shape))

    def past(beta, n):
        rule = ia.Adam(0.1, beta, 0.95, 1e-3, eps_in_sqrt=True)
        return jnp.sum(few_rows(memory(rule, m=2), n, 2)(g, g[0], zero))

    traced = jax.jit(lambda beta: past(beta, jnp.asarray(50)))
    difference = (traced(0.9 + 1e-6) - traced(0.9 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.jit(jax.grad(lambda beta: past(beta, 50)))(0.9), difference, rtol=1e-6)
    slope = jax.jit(jax.jacfwd(traced))
    np.testing.assert_allclose(slope(0.9), difference, rtol=1e-6)
    assert np.isfinite(slope(0.0))
    betas = jnp.asarray([0.0, 0.9, 0.99])
    np.testing.assert_allclose(jax.vmap(traced)(betas), [traced(beta) for beta in betas], rtol=1e-10)


def test_the_field_uses_it():
    """Of the cyclic default and the same schedule spelled out."""
    rule = ia.Adam(1.0, 0.9, 0.99, 1e-2, eps_in_sqrt=True)
    n = jnp.asarray(60)
    few, every = (
        jax.jit(ia.vector_field(rule, examples.batch_loss, batches=examples.batches(), schedule=schedule))(
            n, examples.START
        )
        for schedule in (None, jnp.arange(61) % examples.M)
    )
    np.testing.assert_allclose(few, every, rtol=1e-8)
    assert bool(jnp.any(few != every))
