"""An optax transformation as features, kernels and a readout has the field of its own update, re-run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.fields.any_order.fixed_point import history_terms
from implicit_adam.fields.mini_batch import history_sum
from implicit_adam.fields.terms import field_of
from implicit_adam.fields.vector_field import exact_terms
from implicit_adam.inputs import checked_inputs
from implicit_adam.rules.from_optax.find_kernel_form import kernel_form
from tests import examples

ADAM = {"b1": 0.8, "b2": 0.9, "eps": 1e-2}
COSINE = optax.cosine_decay_schedule(1.0, 20)


def matrices(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


# Whether the update frozen at a point is the same at every step.
STEADY = {
    "adam": optax.adam(1.0, **ADAM),
    "masked-decay": optax.adamw(1.0, **ADAM, weight_decay=0.3, mask=matrices),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1.0, **ADAM)),
    "lamb": optax.lamb(1.0, **ADAM),
    "no-memory": optax.sgd(1.0),
    "two-rates": optax.multi_transform(
        {"one": optax.adam(1.0, **ADAM), "other": optax.adam(0.3, **ADAM)},
        lambda params: jax.tree.map(lambda x: "one" if x.ndim > 1 else "other", params),
    ),
}
UNSTEADY = {
    "nadam": optax.nadam(1.0, **ADAM),
    "momentum": optax.sgd(1.0, 0.8),
    "initial-scale": optax.rmsprop(1.0, 0.9, eps=1e-2, initial_scale=0.3),
    "sum": optax.adagrad(1.0),
    "scheduled": optax.adam(COSINE, **ADAM),
    "scheduled-decay": optax.chain(
        optax.scale_by_adam(**ADAM), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(COSINE)
    ),
    "injected": optax.inject_hyperparams(optax.adam)(1.0, **ADAM),
}
# Whose field has no limit for n to infinity.
NO_LIMIT = ("sum", "scheduled", "scheduled-decay", "injected")
NONE = {
    "injected-schedule": optax.inject_hyperparams(optax.adam)(COSINE, **ADAM),
    "belief": optax.adabelief(1.0, b1=0.8, b2=0.9, eps=1e-2),
    "decay-in-the-gradient": optax.chain(optax.add_decayed_weights(0.1), optax.adam(1.0, **ADAM)),
    "some-parameters": optax.masked(optax.adam(1.0, **ADAM), matrices),
    "maximum": optax.amsgrad(1.0, **ADAM),
    "delay": optax.optimistic_gradient_descent(1.0),
}
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "b": jnp.linspace(0.3, 0.9, 3)}
DATA = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5, 9)))


def loss(params, data):
    v = jnp.concatenate([x.ravel() for x in jax.tree.leaves(params)])
    return jnp.sum(jnp.tanh(data @ v) ** 2) / 4 + jnp.sum(v**4) / 10 + jnp.sum(data[0] * v)


@pytest.mark.parametrize("m", [1, 3], ids=["full-batch", "mini-batches"])
@pytest.mark.parametrize("name", [*STEADY, *UNSTEADY])
@pytest.mark.filterwarnings("ignore:this transformation is outside the theorem")
def test_it_gives_the_terms_of_the_transformation_run_again(name, m):
    inputs = checked_inputs(ia.Optax(0.01, (STEADY | UNSTEADY)[name]), loss, PARAMS, DATA[:m])
    objective = inputs.objective
    form = kernel_form(inputs.rule, objective.params)
    assert form is not None
    assert form.steady == (name in STEADY)
    assert form.settled == (name not in NO_LIMIT)
    for order in (0, 1, 2) if m == 1 and form.steady else (0, 1):

        @jax.jit
        def both(n, theta, order=order):
            methods = exact_terms, history_terms
            return [method(inputs.rule, objective, order, flow=True)(n)(theta) for method in methods]

        for n in (0, 1, 30):
            found, again = both(jnp.asarray(n), inputs.theta)
            for x, y in zip(found, again, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12 * float(jnp.max(jnp.abs(y))))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "tx",
    [
        optax.adamw(1.0, weight_decay=optax.linear_schedule(1e-4, 0.0, 1000)),
        optax.chain(
            optax.adam(1.0),
            optax.transforms.conditionally_transform(optax.scale(0.5), lambda n: (n > 320) & (n < 900)),
        ),
        optax.chain(optax.scale_by_rms(initial_scale=1e-8, bias_correction=True), optax.scale(-1.0)),
    ],
    ids=["weak-scheduled-decay", "a-while", "small-start"],
)
def test_what_changes_a_little_or_for_a_while_is_not_steady(tx, dtype):
    form = kernel_form(
        ia.Optax(1.0, tx), jax.eval_shape(lambda: jax.tree.map(lambda x: x.astype(dtype), PARAMS))
    )
    assert form is None or not form.steady


def test_adam_at_its_defaults_is_steady_in_float32():
    like = {"w": jax.ShapeDtypeStruct((300, 20), jnp.float32)}
    form = kernel_form(ia.Optax(1.0, optax.adamw(1.0)), like)
    assert form is not None
    assert form.steady


@pytest.mark.parametrize("decays", [lambda x: x.size > 1000, lambda x: x.size < 1000], ids=["large", "small"])
def test_what_is_done_to_large_parameters_alone_is_seen(decays):
    params = {"w": jnp.sin(jnp.arange(1200.0)).reshape(60, 20)}
    tx = optax.chain(
        optax.add_decayed_weights(0.1, mask=lambda params: jax.tree.map(decays, params)),
        optax.adam(1.0, **ADAM),
    )
    form = kernel_form(ia.Optax(1.0, tx), jax.eval_shape(lambda: params))
    assert (form is None) == decays(params["w"])


def test_rows_are_summed_in_pieces_where_parameters_are_many(monkeypatch):
    rule = ia.Optax(0.01, UNSTEADY["momentum"])

    def found():
        return ia.vector_field(rule, lambda p, data: loss(p, data), batches=DATA)(jnp.asarray(40), PARAMS)

    together = found()
    monkeypatch.setattr(history_sum, "TILE", 2)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), found(), together)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", [name for name in (*STEADY, *UNSTEADY) if name not in NO_LIMIT])
@pytest.mark.filterwarnings("ignore:this transformation is outside the theorem")
def test_its_limiting_field_is_the_field_of_a_late_step(name, order):
    rule = ia.Optax(0.01, (STEADY | UNSTEADY)[name])
    limit = ia.limiting_field(rule, lambda p: loss(p, DATA[0]), order=order)(PARAMS)
    # By replaying a memory that is over after 300 steps.
    inputs = checked_inputs(rule, loss, PARAMS, DATA[:1])
    terms = history_terms(inputs.rule, inputs.objective, order, flow=True)
    late = inputs.unraveled(field_of(rule, inputs.objective, terms)(jnp.asarray(300))(inputs.theta))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10), limit, late)


@pytest.mark.parametrize("name", [*NO_LIMIT, "belief", "some-parameters"])
@pytest.mark.filterwarnings("ignore:this transformation is outside the theorem")
def test_the_limit_of_another_transformation_is_refused_with_the_way_round(name):
    field = ia.limiting_field(ia.Optax(0.01, (UNSTEADY | NONE)[name]), lambda p: loss(p, DATA[0]))
    with pytest.raises(ValueError, match="vector_field at a late step"):
        field(PARAMS)


def counting(factor):
    """Momentum whose steps are multiplied by a function of a counter that is no schedule of optax."""

    def update(g, state, _=None):
        count, m = state
        m = jax.tree.map(lambda m, g: 0.8 * m + 0.2 * g, m, g)
        return jax.tree.map(lambda m: -factor(count) * m, m), (count + 1, m)

    return optax.GradientTransformation(
        lambda params: (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)), update
    )


def test_a_factor_that_settles_with_the_step_number_has_a_limit_and_one_that_does_not_has_none():
    settling, shrinking = (
        ia.limiting_field(counting(factor), lambda p: loss(p, DATA[0]))
        for factor in (lambda n: 1 + n * 0.9**n, lambda n: (n + 1) ** -0.5)
    )
    with pytest.raises(ValueError, match="vector_field at a late step"):
        shrinking(PARAMS)
    expected = ia.limiting_field(counting(lambda n: jnp.ones_like(n)), lambda p: loss(p, DATA[0]))(PARAMS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), settling(PARAMS), expected)


def test_a_memory_that_fades_slowly_has_a_limit():
    shapes = jax.eval_shape(lambda: PARAMS)
    form = kernel_form(ia.Optax(0.1, optax.rmsprop(1.0, decay=0.9999)), shapes)
    assert form is not None
    assert (form.steady, form.settled) == (False, True)


def test_the_limit_of_order_three_is_refused():
    with pytest.raises(ValueError, match="order = 3"):
        ia.limiting_field(STEADY["adam"], lambda p: loss(p, DATA[0]), order=3)(PARAMS)


@pytest.mark.parametrize("name", NONE)
def test_where_a_memory_is_of_more_than_the_gradient_the_transformation_is_run_again(name):
    shapes = jax.eval_shape(lambda: PARAMS)
    assert kernel_form(ia.Optax(0.1, NONE[name]), shapes) is None


def test_a_window_is_cut_as_given():
    assert kernel_form(ia.Optax(0.1, STEADY["adam"], window=50), jax.eval_shape(lambda: PARAMS)) is None


def test_the_field_is_that_of_the_rule_at_late_steps_too():
    rule = ia.Adam(0.01, beta=0.8, rho=0.9, eps=1e-2)
    by_rule, by_optax = (
        ia.vector_field(r, loss, batches=DATA) for r in (rule, ia.Optax(0.01, STEADY["adam"]))
    )
    for n in (jnp.asarray(2), jnp.asarray(100_000)):
        expected = by_rule(n, PARAMS)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9), by_optax(n, PARAMS), expected)


def test_a_decay_that_has_changed_since_is_found_again():
    decay = [0.5]

    def update(g, state, _=None):
        state = jax.tree.map(lambda m, g: decay[0] * m + (1 - decay[0]) * g, state, g)
        return jax.tree.map(jnp.negative, state), state

    tx = optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)

    def found():
        return ia.optax_vector_field(tx, examples.full_loss, 0.1)(5, examples.START)

    before = found()
    decay[0] = 0.8
    expected = ia.vector_field(ia.Optax(0.1, optax.sgd(0.2, momentum=0.8)), examples.full_loss)(
        5, examples.START
    )
    np.testing.assert_allclose(found(), expected, rtol=1e-12)
    assert not np.allclose(before, expected)
