"""What holds for every rule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.fields.full_batch.closed_form import closed_form_terms, has_closed_form
from implicit_adam.fields.mini_batch.any_schedule import mini_batch_terms
from implicit_adam.objective import raveled_loss
from implicit_adam.rules import RULES
from implicit_adam.rules.kernels import masses
from implicit_adam.rules.linear import remembered
from implicit_adam.rules.twin import sums_in, twin
from tests import examples
from tests.oracles import frozen_update_and_derivative, pick
from tests.registry import CASES, NO_ASYMPTOTIC_REGIME, NO_LIMIT

every_rule = pytest.mark.parametrize("build", CASES.values(), ids=CASES.keys())
closed = {name: build for name, build in CASES.items() if has_closed_form(build(0.1))}


def close(x, y, rtol=1e-10):
    scale = max(float(jnp.max(jnp.abs(y))), 1e-300)
    np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=0, atol=rtol * scale)


def test_the_registry_covers_every_rule_of_the_library():
    assert {type(build(0.1)) for build in CASES.values()} == {*RULES.values(), ia.Scheduled}


@every_rule
def test_a_dead_coordinate_has_no_velocity_and_spoils_nothing(build):
    """A pixel that is always dark: its weight, zero, never gets a gradient."""
    rule = build(0.01)
    loss = lambda t: examples.full_loss(t[:3]) + 0 * t[3]
    velocity = ia.vector_field(rule, loss)(3, jnp.append(examples.START, 0.0))
    alone = ia.vector_field(rule, examples.full_loss)(3, examples.START)
    np.testing.assert_allclose(velocity, jnp.append(alone, 0.0), rtol=1e-12, atol=1e-15)


@every_rule
def test_the_twin_makes_the_iterates_of_the_features_kernels_and_readout(build):
    rule, schedule, batches = build(0.05), examples.random_schedule(7), examples.batches()
    theta, state = examples.START, rule.transformation().init(examples.START)
    gradients = []
    for n in range(7):
        gradients.append(jax.grad(examples.batch_loss)(theta, pick(batches, schedule[n])))
        psi = [jnp.stack(x) for x in zip(*[rule.features(g) for g in gradients], strict=True)]
        lags = n - jnp.arange(n + 1)
        weights = [
            sum(c * d ** lags.astype(float) for c, d in zip(kernel.scale, kernel.decay, strict=True))
            for kernel in rule.kernels(n)
        ]
        s = tuple(w @ x for w, x in zip(weights, psi, strict=True))
        with jax.numpy_dtype_promotion("standard"):
            update, state = rule.transformation().update(gradients[-1], state, theta)
        close(-rule.h * rule.readout(s, theta, n), update, 1e-13)
        theta = optax.apply_updates(theta, update)


@every_rule
def test_the_derived_twin_makes_the_iterates_of_the_rules_own(build):
    """On a pytree, with the memories that it says it holds."""
    rule = build(0.05)
    gradients = jax.random.normal(jax.random.key(1), (6, 3))
    params = [examples.as_tree(examples.START)] * 2
    transformations = rule.transformation(), twin(rule)
    states = [tx.init(params[0]) for tx in transformations]
    for g in gradients:
        for i, tx in enumerate(transformations):
            with jax.numpy_dtype_promotion("standard"):
                update, states[i] = tx.update(examples.as_tree(g), states[i], params[i])
            params[i] = optax.apply_updates(params[i], update)
        close(examples.from_tree(params[1]), examples.from_tree(params[0]), 1e-13)
    n, held = 5 - jnp.arange(6.0), sums_in(rule, states[1])
    for kernel, psi, row in zip(rule.kernels(5), rule.features(gradients), held, strict=True):
        for decay, A in zip(kernel.decay, row, strict=True):
            close(A, decay**n @ psi, 1e-12)


def test_the_derived_twin_asks_for_the_parameters_where_it_needs_them():
    decays, none = twin(ia.AdamW(0.1, weight_decay=0.3)), twin(ia.Adam(0.1))
    assert none.update(examples.START, none.init(examples.START))[0].shape == (3,)
    with pytest.raises(ValueError, match="depends on the parameters"):
        decays.update(examples.START, decays.init(examples.START))


def test_the_derived_twin_keeps_narrow_parameters_and_remembers_in_float32():
    rule, theta = ia.Signum(0.1, eps=1.0), examples.START.astype(jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        begun = rule.transformation().init(theta)
        update, state = rule.transformation().update(theta, begun, theta)
    assert update.dtype == jnp.bfloat16
    assert begun.feature_sums[0][0].dtype == state.feature_sums[0][0].dtype == jnp.float32


@every_rule
def test_iterate_is_the_plain_optax_loop(build):
    rule, schedule, batches = build(0.05), examples.random_schedule(6), examples.batches()
    run = ia.iterate(rule, examples.batch_loss, examples.START, 6, batches=batches, schedule=schedule)
    theta, state = examples.START, rule.transformation().init(examples.START)
    for n in range(6):
        close(run.params[n], theta, 1e-14)
        g = jax.grad(examples.batch_loss)(theta, pick(batches, schedule[n]))
        with jax.numpy_dtype_promotion("standard"):
            update, state = rule.transformation().update(g, state, theta)
        theta = optax.apply_updates(theta, update)
    close(run.params[6], theta, 1e-14)
    np.testing.assert_allclose(run.t, 0.05 * np.arange(7), rtol=1e-15)


@every_rule
def test_the_memories_are_read_from_the_state_of_the_twin(build):
    rule, tx = build(0.05), build(0.05).transformation()
    gradients = jax.random.normal(jax.random.key(0), (5, 3))
    state = tx.init(examples.START)
    for g in gradients:
        with jax.numpy_dtype_promotion("standard"):
            _, state = tx.update(g, state, examples.START)
    s, _ = remembered(rule, state, gradients[-1])
    lags = 4 - jnp.arange(5.0)
    for s_i, kernel, psi in zip(s, rule.kernels(4), rule.features(gradients), strict=True):
        weights = sum(c * d**lags for c, d in zip(kernel.scale, kernel.decay, strict=True))
        close(s_i, weights @ psi, 1e-12)


@every_rule
def test_masses_are_what_the_weights_sum_to(build):
    for n in (0, 3, 40):
        for kernel in build(0.1).kernels(n):
            powers = kernel.decay[:, None] ** jnp.arange(n + 1.0)[None]
            close(masses(kernel, n), kernel.scale * jnp.sum(powers, axis=1), 1e-13)


# The twin of Adagrad is warned of: its memory does not fade.
@pytest.mark.filterwarnings("ignore:.*does not fade")
@every_rule
def test_the_field_is_the_derivative_of_the_optax_update_along_the_lagged_displacements(build):
    h, schedule, batches = 0.3, examples.random_schedule(6), examples.batches()
    one = build(1.0).transformation()
    for n in (0, 1, 4):
        F, DF = frozen_update_and_derivative(one, examples.batch_loss, batches, schedule, n, examples.START)
        for order, expected in enumerate((-F, -(F + h * DF))):
            kwargs = {"order": order, "batches": batches, "schedule": schedule}
            close(
                ia.vector_field(build(h), examples.batch_loss, **kwargs)(n, examples.START), expected, 1e-12
            )
            by_optax = ia.optax_vector_field(one, examples.batch_loss, h, **kwargs)
            close(by_optax(n, examples.START), expected, 1e-12)


@every_rule
def test_the_full_batch_field_of_an_early_step_is_that_derivative_too(build):
    """Early steps decide which rules have a closed form; slopes would not see them."""
    h, one = 0.3, build(1.0).transformation()
    batches = jax.tree.map(lambda x: x[:1], examples.batches())
    for n in (0, 1, 4):
        schedule = jnp.zeros(n + 1, int)
        F, DF = frozen_update_and_derivative(one, examples.batch_loss, batches, schedule, n, examples.START)
        for order, expected in enumerate((-F, -(F + h * DF))):
            close(
                ia.vector_field(build(h), examples.full_loss, order=order)(n, examples.START), expected, 1e-12
            )


@pytest.mark.parametrize("build", closed.values(), ids=closed.keys())
def test_the_closed_form_is_the_mini_batch_field_with_one_batch(build):
    objective = raveled_loss(examples.full_loss, examples.START)

    @jax.jit
    def both(n):
        return [
            [method(build(0.1), objective, 1, flow=flow)(n)(examples.START) for flow in (False, True)]
            for method in (closed_form_terms, mini_batch_terms)
        ]

    for n in (0, 1, 7, 200):
        for x, y in zip(*map(jax.tree.leaves, both(n)), strict=True):
            close(x, y, 1e-12)


@pytest.mark.parametrize("name", NO_LIMIT)
def test_rules_that_never_forget_have_no_limit(name):
    for call in (lambda: ia.limiting_field(CASES[name](0.1), examples.full_loss),
                 lambda: ia.bias(CASES[name](0.1), examples.full_loss, examples.START)):  # fmt: skip
        with pytest.raises(ValueError, match="no limit"):
            call()


@pytest.mark.parametrize("name", [name for name in CASES if name not in NO_LIMIT])
@pytest.mark.parametrize("order", [0, 1])
def test_the_limiting_field_is_the_field_of_a_late_step(name, order):
    build = CASES[name]
    limit = ia.limiting_field(build(0.1), examples.full_loss, order=order)(examples.START)
    late = ia.vector_field(build(0.1), examples.full_loss, order=order)(jnp.asarray(300), examples.START)
    close(limit, late, 1e-12)
    early = ia.vector_field(build(0.1), examples.full_loss, order=order)(0, examples.START)
    remembers = has_closed_form(build(0.1)) is False or (order == 1 and len(jax.tree.leaves(build(0.1))) > 1)
    assert bool(jnp.allclose(early, limit, rtol=1e-3)) != remembers


@every_rule
def test_the_field_of_a_pytree_is_the_field_of_the_flat_vector(build):
    kwargs = {"batches": examples.batches(), "schedule": examples.random_schedule(5)}
    flat = ia.vector_field(build(0.1), examples.batch_loss, **kwargs)(4, examples.START)
    tree = ia.vector_field(build(0.1), examples.tree_loss, **kwargs)(4, examples.as_tree(examples.START))
    assert jax.tree.structure(tree) == jax.tree.structure(examples.as_tree(examples.START))
    close(examples.from_tree(tree), flat, 1e-14)


@every_rule
def test_float32_parameters_stay_float32_and_agree_with_float64(build):
    cast = jax.tree.map(lambda x: x.astype(jnp.float32), (examples.START, examples.batches()))
    schedule = examples.random_schedule(40)
    # The flow adds the solver to the field of every rule: it is compiled for three of them.
    flows = build in [CASES[name] for name in ("adam", "nesterov", "scheduled-adam")]
    narrow, wide = (
        ia.vector_field(build(0.01), examples.batch_loss, batches=batches, schedule=schedule)(39, theta)
        for theta, batches in (cast, (examples.START, examples.batches()))
    )
    assert narrow.dtype == jnp.float32
    close(narrow, wide, 1e-4)
    for run in (ia.iterate, ia.flow) if flows else (ia.iterate,):
        wide = run(
            build(0.01),
            examples.batch_loss,
            examples.START,
            40,
            batches=examples.batches(),
            schedule=schedule,
        )
        narrow = run(build(0.01), examples.batch_loss, cast[0], 40, batches=cast[1], schedule=schedule)
        assert narrow.params.dtype == narrow.t.dtype == narrow.step_error.dtype == jnp.float32
        close(narrow.params, wide.params, 2e-5)


@every_rule
def test_building_under_vmap_is_building_one_by_one(build):
    """Of a field; a flow in lanes is in test_flow."""
    hs = jnp.asarray([0.01, 0.02, 0.05])

    @jax.jit
    def velocity(h):
        field = ia.vector_field(build(h), examples.batch_loss, batches=examples.batches())
        return field(jnp.asarray(5), examples.START)

    together = jax.vmap(velocity)(hs)
    for h, lane in zip(hs, together, strict=True):
        close(lane, velocity(h), 1e-13)


@pytest.mark.parametrize(
    ("name", "batched"),
    [*[(name, name not in closed) for name in CASES], ("adam", True), ("heavy-ball", False)],
)
def test_derivatives_in_every_hyperparameter_are_those_of_finite_differences(name, batched):
    build = CASES[name]
    loss = examples.batch_loss if batched else examples.full_loss
    batches = examples.batches() if batched else None

    leaves, structure = jax.tree.flatten(build(0.1))

    def observable(hyperparameters, n):
        rule = jax.tree.unflatten(structure, list(hyperparameters))
        return jnp.sum(jnp.sin(ia.vector_field(rule, loss, batches=batches)(n, examples.START)))

    x = jnp.stack(leaves)
    forward = jax.jit(jax.jacfwd(observable))(x, 5)
    reverse = jax.jit(jax.grad(observable), static_argnums=1)(x, 5)
    value, step = jax.jit(observable), 1e-5
    difference = [(value(x + step * e, 5) - value(x - step * e, 5)) / (2 * step) for e in jnp.eye(x.size)]
    np.testing.assert_allclose(forward, difference, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(reverse, forward, rtol=1e-12, atol=1e-12)


@every_rule
def test_a_zero_decay_has_finite_derivatives(build):
    fields = {field.name for field in dataclasses.fields(build(0.1))} & {"beta", "rho"}
    rule = dataclasses.replace(build(0.1), **dict.fromkeys(fields, 0.0)) if fields else build(0.1)

    def field(rule):
        return ia.vector_field(rule, examples.batch_loss, batches=examples.batches())(4, examples.START)

    for leaf in jax.tree.leaves(jax.jit(jax.jacfwd(field))(rule)):
        assert bool(jnp.all(jnp.isfinite(leaf)))


@every_rule
@pytest.mark.parametrize("run", [ia.iterate, ia.flow], ids=["iterate", "flow"])
def test_one_trace_serves_all_hyperparameters_and_starts(build, run):
    traces = []
    # In full batch where that is quicker to compile: the inputs of a run are the same.
    batches = examples.batches() if build in (CASES["adam"], CASES["heavy-ball"]) else None

    def batch_loss(theta, batch):
        traces.append(1)
        return examples.batch_loss(theta, batch)

    def full_loss(theta):
        traces.append(1)
        return examples.full_loss(theta)

    loss = full_loss if batches is None else batch_loss

    def go(rule, start):
        return run(rule, loss, start, 4, batches=batches)

    go(build(0.1), examples.START)
    first = len(traces)
    for i in range(1, 4):
        scaled = jax.tree.map(lambda x, i=i: x * (1 - 0.1 * i), build(0.1))
        go(scaled, examples.START * i)
    # Every call looks at the loss to check it and to see whether it has changed; a compilation looks again.
    looks = {ia.iterate: 2, ia.flow: 3}[run]
    assert len(traces) == first + 3 * looks


# In mini-batches the fields of all rules are compared with their definition above; of each kind one in time.
STUDIES = [
    *((name, "full-batch") for name in CASES if name not in NO_ASYMPTOTIC_REGIME),
    *((name, "cyclic") for name in ("adam", "rmsprop-eps-outside", "nesterov", "adamw", "scheduled-adam")),
    *((name, "random") for name in ("adam-eps-outside", "heavy-ball", "lion")),
]


@pytest.mark.parametrize(("name", "schedule"), STUDIES)
def test_the_corrected_flow_is_of_second_order_and_the_plain_one_of_first(name, schedule):
    step_counts = (60, 120, 240, 480)
    batched = schedule != "full-batch"
    study = ia.convergence(
        CASES[name](1.0),
        examples.batch_loss if batched else examples.full_loss,
        examples.START,
        horizon=0.1,
        step_counts=step_counts,
        batches=examples.batches() if batched else None,
        schedule=examples.random_schedule(max(step_counts)) if schedule == "random" else None,
    )
    # A random schedule is another one at every step count, so that its local slopes scatter.
    tolerance = 0.25 if schedule == "random" else 0.1
    assert abs(study.slope[1] - 2) < tolerance
    assert abs(study.slope[0] - 1) < tolerance
    assert study.error[1][-1] < study.error[0][-1] / 20
