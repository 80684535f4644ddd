"""Whatever the schedule, the pytree and the hyperparameters are: on examples that hypothesis draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import implicit_adam as ia
from tests import examples, oracles

STEPS, BATCHES, START = 7, examples.batches(), examples.START


def drawn(examples, phases=(Phase.explicit, Phase.generate)):
    """The same examples in every run. One that fails is printed, not made smaller: many compile anew."""
    return settings(max_examples=examples, phases=phases, deadline=None, database=None, derandomize=True)


# One length, so that one compilation serves all of them.
schedules = st.lists(st.integers(0, examples.M - 1), min_size=STEPS, max_size=STEPS)
decays = st.floats(0.0, 0.9)
hyperparameters = st.fixed_dictionaries(
    {"h": st.floats(1e-3, 0.1), "beta": decays, "rho": decays, "eps": st.floats(1e-3, 1.0)}
)
gradient = jax.jit(jax.grad(examples.batch_loss))


def definition_1_1(schedule, rates, beta, rho, eps):
    """Adam written out, eps inside the root."""
    theta, m, v, points = np.asarray(START), 0.0, 0.0, [np.asarray(START)]
    for n, (b, h) in enumerate(zip(schedule, rates, strict=True)):
        g = np.asarray(gradient(theta, oracles.pick(BATCHES, b)))
        m, v = beta * m + (1 - beta) * g, rho * v + (1 - rho) * g**2
        theta = theta - h * m / (1 - beta ** (n + 1)) / np.sqrt(v / (1 - rho ** (n + 1)) + eps)
        points.append(theta)
    return np.stack(points)


@drawn(20)
@given(schedules, hyperparameters)
def test_iterates_are_those_of_definition_1_1_under_any_schedule_and_hyperparameters(schedule, numbers):
    rule = ia.Adam(**numbers, eps_in_sqrt=True)
    run = ia.iterate(rule, examples.batch_loss, START, STEPS, batches=BATCHES, schedule=jnp.asarray(schedule))
    expected = definition_1_1(schedule, [numbers.pop("h")] * STEPS, **numbers)
    np.testing.assert_allclose(run.params, expected, rtol=1e-10, atol=1e-12)


@drawn(15)
@given(schedules, hyperparameters, st.integers(0, STEPS - 1))
def test_the_field_is_the_literal_equation_10_under_any_schedule_and_hyperparameters(schedule, numbers, n):
    rule = ia.Adam(**numbers, eps_in_sqrt=True)
    field = ia.vector_field(rule, examples.batch_loss, batches=BATCHES, schedule=jnp.asarray(schedule))
    literal = oracles.equation_10(examples.batch_loss, BATCHES, schedule, n, START, **numbers)
    np.testing.assert_allclose(field(jnp.asarray(n), START), literal, rtol=1e-9, atol=1e-10)


@drawn(10)
@given(schedules, st.permutations(range(examples.M)))
def test_the_field_does_not_depend_on_how_the_mini_batches_are_numbered(schedule, numbering):
    rule = ia.Adam(0.01, 0.5, 0.6, 0.1, eps_in_sqrt=True)
    renumbered = jax.tree.map(lambda x: x[jnp.asarray(numbering)], BATCHES)
    places = jnp.argsort(jnp.asarray(numbering))[jnp.asarray(schedule)]
    there, here = (
        ia.vector_field(rule, examples.batch_loss, batches=b, schedule=s)(jnp.asarray(STEPS - 1), START)
        for b, s in ((renumbered, places), (BATCHES, jnp.asarray(schedule)))
    )
    np.testing.assert_allclose(there, here, rtol=1e-11, atol=1e-13)


def containers(leaves):
    return (
        st.lists(leaves, min_size=1, max_size=3)
        | st.tuples(leaves, leaves)
        | st.dictionaries(st.sampled_from("wbz"), leaves, min_size=1)
    )


shapes = st.lists(st.integers(1, 2), max_size=2).map(tuple)
trees = st.recursive(shapes.map(lambda shape: np.full(shape, 0.5)), containers, max_leaves=4)


@drawn(3)
@given(trees)
def test_iterates_and_fields_of_a_pytree_are_those_of_its_flat_vector(tree):
    tree = jax.tree.map(jnp.asarray, tree)
    flat, unravel = ravel_pytree(tree)
    flat = flat + jnp.linspace(-1.0, 1.0, flat.size)
    matrix = jnp.eye(flat.size) + jnp.sin(jnp.arange(flat.size**2.0)).reshape(flat.size, -1) / 4
    rule = ia.Adam(0.01, 0.5, 0.6, 0.1, eps_in_sqrt=True)

    def of_vector(theta):
        return jnp.sum(jnp.cos(matrix @ theta))

    def of_tree(tree):
        return of_vector(ravel_pytree(tree)[0])

    velocity = ia.vector_field(rule, of_tree)(3, unravel(flat))
    assert jax.tree.structure(velocity) == jax.tree.structure(tree)
    expected = ia.vector_field(rule, of_vector)(3, flat)
    np.testing.assert_allclose(ravel_pytree(velocity)[0], expected, rtol=1e-11, atol=1e-13)

    points = ia.iterate(rule, of_tree, unravel(flat), STEPS).params
    last = ravel_pytree(jax.tree.map(lambda x: x[-1], points))[0]
    expected = ia.iterate(rule, of_vector, flat, STEPS).params[-1]
    np.testing.assert_allclose(last, expected, rtol=1e-11, atol=1e-13)


@drawn(4)
@given(schedules, st.lists(st.floats(1e-3, 0.1), min_size=STEPS, max_size=STEPS))
def test_a_schedule_of_learning_rates_is_a_learning_rate_for_every_step(schedule, rates):
    table = jnp.asarray(rates)
    rule = ia.Scheduled(ia.Adam(1.0, 0.5, 0.6, 0.1, eps_in_sqrt=True), lambda n: table[n])
    run = ia.iterate(rule, examples.batch_loss, START, STEPS, batches=BATCHES, schedule=jnp.asarray(schedule))
    expected = definition_1_1(schedule, rates, 0.5, 0.6, 0.1)
    np.testing.assert_allclose(run.params, expected, rtol=1e-10, atol=1e-12)


def allowed(h, beta, rho, eps):
    return h > 0 and 0 <= beta < 1 and 0 <= rho < 1 and eps > 0 and np.isfinite([h, eps]).all()


anything = st.floats(-1.5, 1.5, width=16) | st.sampled_from([0.0, 1.0, np.inf, -np.inf, np.nan])


@drawn(100)
@given(anything, anything, anything, anything)
def test_hyperparameters_are_taken_where_they_are_allowed_and_refused_with_words_elsewhere(h, beta, rho, eps):
    if allowed(h, beta, rho, eps):
        rule = ia.Adam(h, beta, rho, eps)
        assert [float(x) for x in (rule.h, rule.beta, rule.rho, rule.eps)] == [h, beta, rho, eps]
    else:
        with pytest.raises(ValueError, match=r"Adam: .* must be"):
            ia.Adam(h, beta, rho, eps)


@drawn(30)
@given(st.lists(st.integers(-2, examples.M + 1), max_size=STEPS + 2))
def test_schedules_are_refused_unless_every_step_has_a_mini_batch(schedule):
    good = len(schedule) >= STEPS and all(0 <= b < examples.M for b in schedule)
    if good:  # run in the tests above
        return
    with pytest.raises(ValueError, match="schedule"):
        ia.iterate(
            ia.GradientDescent(0.1),
            examples.batch_loss,
            START,
            STEPS,
            batches=BATCHES,
            schedule=np.asarray(schedule, int),
        )
