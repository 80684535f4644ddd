"""How far back the past is summed: nothing that matters is left out."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.mini_batch.discounted_counts import discounted_visits
from implicit_adam.fields.vector_field import limiting_terms
from implicit_adam.objective import raveled_loss
from tests import examples

N = 115


def fields(rule, n, **kwargs):
    """With the past cut where it has faded (traced n), and all of it (static n)."""
    field = ia.vector_field(rule, **kwargs)
    cut = jax.jit(lambda theta, n: field(n, theta))(examples.START, jnp.asarray(n))
    return cut, jax.jit(lambda theta: field(n, theta))(examples.START)


def close(cut, whole, rtol):
    np.testing.assert_allclose(cut, whole, rtol=0, atol=rtol * float(jnp.max(jnp.abs(whole))))


@pytest.mark.parametrize("order", [1, 2])
def test_one_early_batch_of_huge_gradients_is_not_dropped(order):
    """0.7^112 is 4e-18, and 1e9 squared still weighs more."""
    size = jnp.asarray([1e9, 1.0, 1.0])
    loss = lambda theta, batch: batch[1] * examples.batch_loss(theta, batch[0])
    schedule = jnp.asarray([0] * 3 + [1, 2] * (N // 2))
    rule = ia.Adam(0.1, 0.5, 0.7, 1e-2, eps_in_sqrt=True)
    kwargs = {"loss": loss, "batches": (examples.batches(), size), "schedule": schedule, "order": order}
    cut, whole = fields(rule, N, **kwargs)
    close(cut, whole, 1e-12)
    # It does weigh: without it the field is another one.
    others = {**kwargs, "batches": (examples.batches(), jnp.ones(3))}
    assert float(jnp.max(jnp.abs(fields(rule, N, **others)[1] - whole))) > 1e-2 * float(
        jnp.max(jnp.abs(whole))
    )


@pytest.mark.parametrize(("order", "rtol"), [(1, 1e-14), (3, 1e-10)])
@pytest.mark.parametrize(
    "rule",
    [ia.Adam(0.3, 0.5, 0.7, 0.1, eps_in_sqrt=True), ia.HeavyBall(0.3, 0.7)],
    ids=["adam", "heavy-ball"],
)
def test_what_is_cut_is_below_rounding(rule, order, rtol):
    """The whole history rounds too: at order 3 a hundred memories of it to about 1e-11."""
    schedule = examples.random_schedule(301)
    cut, whole = fields(
        rule, 300, loss=examples.batch_loss, batches=examples.batches(), schedule=schedule, order=order
    )
    close(cut, whole, rtol)


def test_the_limit_of_heavy_ball_on_a_quadratic_is_the_series_of_its_root():
    """Late on theta shrinks by z, z^2 - (1 + b - x) z + b = 0 with x = h lambda: the flow by -log(z) / h."""
    b, z, product = Fraction(0.7), [Fraction(1)], [Fraction(1)] + 4 * [Fraction(0)]
    for i in range(1, 5):
        z.append((-z[i - 1] - sum(z[j] * z[i - j] for j in range(1, i))) / (1 - b))
    rest, logarithm = [Fraction(0), *z[1:]], 5 * [Fraction(0)]
    for k in range(1, 5):
        product = [sum(product[j] * rest[i - j] for j in range(i + 1)) for i in range(5)]
        logarithm = [x + Fraction((-1) ** (k + 1), k) * y for x, y in zip(logarithm, product, strict=True)]
    objective = raveled_loss(lambda theta: jnp.sum(theta**2) / 2, jnp.ones(1))
    terms = jax.jit(limiting_terms(ia.HeavyBall(0.1, 0.7), objective, 3)(jnp.inf))(jnp.ones(1))
    error = [abs(float(x[0] / float(-y)) - 1) for x, y in zip(terms, logarithm[1:], strict=True)]
    # Each order rounds more. A history of 32 memories instead of 40 to 49 would be 5e-13, 9e-12, 8e-11 off.
    np.testing.assert_array_less(error, [1e-15, 2e-14, 1.5e-13, 2e-12])


def test_visits_are_sums_of_powers_near_one_in_float32_too():
    decay, m, step = 0.9999, 3, 5000
    (narrow,) = discounted_visits(None, m, jnp.asarray([decay], jnp.float32))(jnp.asarray(step))
    d = float(np.float32(decay))
    exact = [sum(d ** (step - k) for k in range(b, step + 1, m)) for b in range(m)]
    np.testing.assert_allclose(narrow, exact, rtol=2e-6)
