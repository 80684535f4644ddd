"""The braces of eq. (4), the cells of Table 1, the validity of the expansion, and regimes of real runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.bias.table1 import CELLS
from implicit_adam.losses.problems import digits
from implicit_adam.measures.training_regime import REGIMES, regime_of_losses
from tests import examples

g = jax.grad(examples.full_loss)(examples.START)


@pytest.mark.parametrize("inside", [True, False])
def test_the_brace_is_what_the_bias_is_made_of(inside):
    h, eps = 0.1, 0.3
    norm = lambda t: ia.perturbed_one_norm(jax.grad(examples.full_loss)(t), eps, eps_in_sqrt=inside)
    for rule in (
        ia.Adam(h, 0.9, 0.95, eps, eps_in_sqrt=inside),
        ia.RMSProp(h, 0.6, eps, eps_in_sqrt=inside),
        ia.Adam(h, 0.9, 0.5, eps, eps_in_sqrt=inside),
    ):
        brace = ia.regimes(rule, examples.full_loss, examples.START).brace
        bias = ia.bias(rule, examples.full_loss, examples.START)
        np.testing.assert_allclose(h / 2 * brace * jax.grad(norm)(examples.START), bias, rtol=1e-12)


def test_totals_are_those_of_the_coordinates():
    rule = ia.Adam(0.1, 0.9, 0.95, 0.3, eps_in_sqrt=True)
    found = ia.regimes(rule, examples.full_loss, examples.START)
    np.testing.assert_allclose(found.positive, np.mean(np.asarray(found.brace) > 0))
    assert 0 < float(found.positive) < 1
    bias = ia.bias(rule, examples.full_loss, examples.START)
    norm = jax.grad(lambda t: ia.perturbed_one_norm(jax.grad(examples.full_loss)(t), 0.3))(examples.START)
    cosine = bias @ norm / jnp.linalg.norm(bias) / jnp.linalg.norm(norm)
    np.testing.assert_allclose(found.alignment, cosine, rtol=1e-12)


TABLE_1 = {
    (0.99, 0.9, 1e-12): 0,
    (0.99, 0.9, 1e12): 1,
    (0.9, 0.99, 1e-12): 2,
    (0.9, 0.99, 1e12): 3,
    (0.9, 0.99, 0.5): 4,
}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("setting", "cell"), TABLE_1.items())
def test_every_cell_of_table_1_is_reached(setting, cell, inside):
    beta, rho, eps = setting
    rule = ia.Adam(0.1, beta, rho, eps if inside else eps**0.5, eps_in_sqrt=inside)
    found = ia.regimes(rule, examples.full_loss, examples.START)
    assert int(found.cell) == cell
    shares = found.eps_small, found.eps_between, found.eps_large
    np.testing.assert_allclose(sum(shares), 1)
    # What the cell says is what the bias does: it points along the norm's gradient, or against it.
    if cell < 4:
        assert float(shares[0 if cell in (0, 2) else 2]) == 1
        assert float(found.alignment) == pytest.approx(-1 if cell == 2 else 1, abs=1e-6)
    assert len(CELLS) == 6


@pytest.mark.parametrize("inside", [True, False])
def test_a_cell_never_contradicts_the_sign_of_the_braces(inside):
    """rho close to 1 keeps the brace negative although eps is a hundred times larger: neither extreme."""
    size = float(jnp.max(jnp.abs(g)))
    eps = 150 * size**2 if inside else 150 * size
    found = ia.regimes(ia.Adam(0.1, 0.0, 0.9999, eps, eps_in_sqrt=inside), examples.full_loss, examples.START)
    assert float(found.eps_large) == 1
    assert float(found.positive) < 0.5
    assert int(found.cell) == 4


def test_the_validity_is_the_size_of_the_correction_relative_to_the_leading_flow():
    for h in (0.01, 0.02):
        rule = ia.Adam(h, 0.9, 0.95, 0.3, eps_in_sqrt=True)
        f0, f1 = (ia.limiting_field(rule, examples.full_loss, order=q)(examples.START) for q in (0, 1))
        expected = jnp.linalg.norm(f1 - f0) / jnp.linalg.norm(f0)
        np.testing.assert_allclose(
            ia.regimes(rule, examples.full_loss, examples.START).validity, expected, rtol=1e-9
        )


def test_it_takes_pytrees_jits_and_vmaps_over_hyperparameters():
    loss = lambda tree: examples.full_loss(examples.from_tree(tree))
    found = jax.jit(lambda p: ia.regimes(ia.Adam(0.1, 0.9, 0.95, 0.3, eps_in_sqrt=True), loss, p))(
        examples.as_tree(examples.START)
    )
    flat = ia.regimes(ia.Adam(0.1, 0.9, 0.95, 0.3, eps_in_sqrt=True), examples.full_loss, examples.START)
    np.testing.assert_allclose(examples.from_tree(found.brace), flat.brace, rtol=1e-12)
    betas = jnp.asarray([0.5, 0.9, 0.99])
    cells = jax.vmap(
        lambda b: (
            ia.regimes(
                ia.Adam(0.1, b, 0.95, 1e-12, eps_in_sqrt=True), examples.full_loss, examples.START
            ).cell
        )
    )(betas)
    assert cells.tolist() == [2, 2, 0]


def test_other_optimizers_have_no_table_1():
    assert "HeavyBall" in _refused(lambda: ia.regimes(ia.HeavyBall(0.1), examples.full_loss, examples.START))


def _refused(call):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    return str(error.value)


REAL = {
    "stable": (ia.Adam(1e-2, 0.9, 0.95, 1e-16, eps_in_sqrt=True), "stable oscillation"),
    "spikes": (ia.Adam(1e-1, 0.0, 0.999, 1e-16, eps_in_sqrt=True), "spikes"),
    "divergence": (ia.Adam(1e-1, 0.999, 0.01, 1e-16, eps_in_sqrt=True), "divergence"),
}


@pytest.mark.parametrize(("rule", "words"), REAL.values(), ids=REAL.keys())
def test_real_runs_fall_where_ma_et_al_saw_them(rule, words):
    """rho much above beta with a tiny eps spikes, close ones are stable, beta much above rho diverges."""
    problem = digits(batches=1, samples=200)
    run = ia.iterate(rule, problem.loss, problem.params, 1500, batches=problem.batches)
    found = ia.training_regime(run, problem.loss, batches=problem.batches)
    assert REGIMES[int(found.regime)] == words
    assert found.loss.shape == (1501,)


def regime_of(curve):
    """A run whose loss is the parameter itself."""
    points = jnp.asarray(curve, float)
    run = ia.Trajectory(jnp.arange(len(curve)), points, jnp.asarray(True), *[jnp.zeros(len(curve))] * 3)
    return REGIMES[int(ia.training_regime(run, lambda x: x).regime)]


def test_made_up_curves():
    decay = np.exp(-np.arange(200) / 20)
    assert regime_of(decay) == "stable oscillation"
    assert regime_of(decay * (1 + 0.02 * np.cos(np.arange(200)))) == "stable oscillation"
    spike = decay.copy()
    spike[120] = 0.3
    assert regime_of(spike) == "spikes"
    assert regime_of(np.ones(50)) == "stable oscillation"
    assert regime_of(1e-6 * spike) == "spikes"
    assert regime_of(decay[::-1]) == "divergence"
    broken = decay.copy()
    broken[150:] = np.nan
    assert regime_of(broken) == "divergence"


def test_the_losses_of_a_run_in_mini_batches_are_their_means():
    problem = digits(batches=4, samples=40)
    run = ia.iterate(
        ia.Adam(1e-2, eps_in_sqrt=True), problem.loss, problem.params, 8, batches=problem.batches
    )
    found = ia.training_regime(run, problem.loss, batches=problem.batches)
    whole = digits(batches=1, samples=40)
    together = ia.training_regime(run, whole.loss, batches=whole.batches)
    np.testing.assert_allclose(found.loss, together.loss, rtol=1e-12)
    np.testing.assert_allclose(problem.mean_loss(problem.params), found.loss[0], rtol=1e-12)


def with_gradient(*g):
    """A loss with this gradient at zero."""
    slope = jnp.asarray(g)
    return lambda t: jnp.sum(slope * t) + jnp.sum(t**2) / 2


def shares(eps, inside, *g):
    rule = ia.Adam(0.1, 0.9, 0.99, eps, eps_in_sqrt=inside)
    found = ia.regimes(rule, with_gradient(*g), jnp.zeros(len(g)))
    return [float(found.eps_small), float(found.eps_between), float(found.eps_large)], int(found.cell)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("ratio", "place"), [(101, 0), (99, 1), (1 / 99, 1), (1 / 101, 2)])
def test_small_and_large_are_a_factor_of_100_of_g_squared_inside_and_of_g_outside(inside, ratio, place):
    g = 10.0
    eps = g**2 / ratio if inside else g / ratio
    assert shares(eps, inside, g)[0] == [float(i == place) for i in range(3)]


def test_a_cell_takes_more_than_half_of_the_coordinates():
    assert shares(1.0, True, 11.0, 11.0, 1.0, 1.0)[1] == 4
    assert shares(1.0, True, 11.0, 11.0, 11.0, 1.0)[1] == 2
    # (1 + rho) / (1 - rho) eps / g^2 must not win.
    assert shares(1.0, True, 0.09, 0.09, 1.0, 1.0)[1] == 4
    assert shares(1.0, True, 0.09, 0.09, 0.09, 1.0)[1] == 3


def test_a_gradient_that_is_not_finite_is_in_no_cell():
    rule = ia.Adam(0.1, 0.9, 0.99, 1.0, eps_in_sqrt=True)
    found = ia.regimes(rule, lambda t: jnp.sum(jnp.sqrt(t)), jnp.asarray([0.0, -1.0]))
    assert CELLS[int(found.cell)].startswith("unknown")


@pytest.mark.parametrize(("rise", "regime"), [(0.099, "stable oscillation"), (0.101, "spikes")])
def test_a_spike_is_a_rise_by_a_tenth_of_the_gain(rise, regime):
    """The gain of 3 is from 5 to 2, so that neither the loss nor its size counts."""
    losses_of_run = jnp.asarray([5.0, 3.0, 2.0, 2.0 + 3.0 * rise, 2.0])
    found = regime_of_losses(losses_of_run)
    assert REGIMES[int(found.regime)] == regime
    np.testing.assert_allclose(found.largest_rise, rise, rtol=1e-12)


def test_divergence_is_the_median_of_the_last_tenth_above_the_start():
    """Of twenty losses the last two, whose median is their mean."""
    ends = {(1.1, 1.1): "divergence", (0.5, 1.1): "spikes", (0.5, 1.6): "divergence", (0.5, 1.4): "spikes"}
    for end, regime in ends.items():
        losses_of_run = jnp.asarray([1.0, *[0.5] * 17, *end])
        assert REGIMES[int(regime_of_losses(losses_of_run).regime)] == regime, end
