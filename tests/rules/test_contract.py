"""What holds for every rule."""

import dataclasses
import functools

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
from tests.oracles import frozen_updates_and_derivatives, pick
from tests.registry import CASES, NO_ASYMPTOTIC_REGIME, NO_LIMIT, ONE_ROOT

every_rule = pytest.mark.parametrize("build", CASES.values(), ids=CASES.keys())
every_memory = pytest.mark.parametrize("build", ONE_ROOT.values(), ids=ONE_ROOT.keys())
closed = {name: build for name, build in CASES.items() if has_closed_form(build(0.1))}

# The same for all, and step numbers as arrays, so that the tests share what is compiled for a field.
BATCHES, SCHEDULE = examples.batches(), examples.random_schedule(40)
RANDOM = {"batches": BATCHES, "schedule": SCHEDULE}


def close(x, y, rtol=1e-10):
    scale = max(float(jnp.max(jnp.abs(y))), 1e-300)
    np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=0, atol=rtol * scale)


@functools.cache
def stepping(tx):
    """`update` of an optax transformation, compiled."""

    def update(*arguments):
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(*arguments)

    return jax.jit(update)


@functools.cache
def twin_of(build):
    return build(0.05).transformation()


@jax.jit
def gradient(theta, n):
    return jax.grad(examples.batch_loss)(theta, pick(BATCHES, SCHEDULE[n]))


def weights_of(kernel, lags):
    """Of gradients of these lags."""
    scale, decay = np.asarray(kernel.scale), np.asarray(kernel.decay)
    return sum(c * d**lags for c, d in zip(scale, decay, strict=True))


def test_the_registry_covers_every_rule_of_the_library():
    assert {type(build(0.1)) for build in CASES.values()} == {*RULES.values(), ia.Scheduled}


@every_rule
def test_a_dead_coordinate_has_no_velocity_and_spoils_nothing(build):
    """A pixel that is always dark: its weight, zero, never gets a gradient."""
    rule = build(0.01)
    loss = lambda t: examples.full_loss(t[:3]) + 0 * t[3]
    n = jnp.asarray(3)
    velocity = ia.vector_field(rule, loss)(n, jnp.append(examples.START, 0.0))
    alone = ia.vector_field(rule, examples.full_loss)(n, examples.START)
    np.testing.assert_allclose(velocity, jnp.append(alone, 0.0), rtol=1e-12, atol=1e-15)


@every_rule
def test_the_twin_makes_the_iterates_of_the_features_kernels_and_readout(build):
    rule, tx = build(0.05), twin_of(build)
    theta, state = examples.START, tx.init(examples.START)
    features, kernels = jax.jit(lambda g: rule.features(g)), jax.jit(lambda n: rule.kernels(n))
    readout = jax.jit(lambda *arguments: rule.readout(*arguments))
    remembered = []
    for n in range(7):
        g = gradient(theta, n)
        remembered.append(features(g))
        psi = [np.stack(x) for x in zip(*remembered, strict=True)]
        weights = [weights_of(kernel, n - np.arange(n + 1.0)) for kernel in kernels(n)]
        s = tuple(jnp.asarray(w @ x) for w, x in zip(weights, psi, strict=True))
        update, state = stepping(tx)(g, state, theta)
        close(-rule.h * readout(s, theta, n), update, 1e-13)
        theta = optax.apply_updates(theta, update)


@every_rule
def test_the_derived_twin_makes_the_iterates_of_the_rules_own(build):
    """On a pytree, with the memories that it says it holds."""
    rule = build(0.05)
    gradients = jax.random.normal(jax.random.key(1), (6, 3))
    params = [examples.as_tree(examples.START)] * 2
    transformations = twin_of(build), twin(rule)
    states = [tx.init(params[0]) for tx in transformations]
    for g in gradients:
        for i, tx in enumerate(transformations):
            update, states[i] = stepping(tx)(examples.as_tree(g), states[i], params[i])
            params[i] = optax.apply_updates(params[i], update)
        close(examples.from_tree(params[1]), examples.from_tree(params[0]), 1e-13)
    n, held = 5 - np.arange(6.0), sums_in(rule, states[1])
    for kernel, psi, row in zip(rule.kernels(5), rule.features(gradients), held, strict=True):
        for decay, A in zip(kernel.decay, row, strict=True):
            close(A, np.asarray(decay) ** n @ psi, 1e-12)


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
    tx = twin_of(build)
    run = ia.iterate(build(0.05), examples.batch_loss, examples.START, 40, **RANDOM)
    theta, state = examples.START, tx.init(examples.START)
    for n in range(40):
        close(run.params[n], theta, 1e-14)
        update, state = stepping(tx)(gradient(theta, n), state, theta)
        theta = optax.apply_updates(theta, update)
    close(run.params[40], theta, 1e-14)
    np.testing.assert_allclose(run.t, 0.05 * np.arange(41), rtol=1e-15)


@every_memory
def test_the_memories_are_read_from_the_state_of_the_twin(build):
    rule, tx = build(0.05), twin_of(build)
    gradients = jax.random.normal(jax.random.key(0), (5, 3))
    state = tx.init(examples.START)
    for g in gradients:
        _, state = stepping(tx)(g, state, examples.START)
    s, _ = remembered(rule, state, gradients[-1])
    for s_i, kernel, psi in zip(s, rule.kernels(4), rule.features(gradients), strict=True):
        close(s_i, weights_of(kernel, 4 - np.arange(5.0)) @ np.asarray(psi), 1e-12)


@every_memory
def test_masses_are_what_the_weights_sum_to(build):
    for n in (0, 3, 40):
        for kernel in build(0.1).kernels(n):
            powers = np.asarray(kernel.decay)[:, None] ** np.arange(n + 1.0)
            close(masses(kernel, n), kernel.scale * np.sum(powers, axis=1), 1e-13)


@functools.cache
def definition(build, batches_seen):
    """F^(n) and DF^(n) of the optax twin for n = 0 .. 4."""
    schedule = jnp.asarray(batches_seen)
    one = build(1.0).transformation()
    return frozen_updates_and_derivatives(one, examples.batch_loss, BATCHES, schedule, examples.START)


# The twin of Adagrad is warned of: its memory does not fade.
@pytest.mark.filterwarnings("ignore:.*does not fade")
@every_rule
def test_the_field_is_the_derivative_of_the_optax_update_along_the_lagged_displacements(build):
    h, one = 0.3, build(1.0).transformation()
    F, DF = definition(build, tuple(SCHEDULE[:5].tolist()))
    # Order 0 is the first term of order 1, left alone by code that knows no rule.
    orders = (0, 1) if build in (CASES["adam"], CASES["heavy-ball"]) else (1,)
    for order in orders:
        expected = -(F + order * h * DF)
        by_rule = ia.vector_field(build(h), examples.batch_loss, order=order, **RANDOM)
        by_optax = ia.optax_vector_field(one, examples.batch_loss, h, order=order, **RANDOM)
        for n in (0, 1, 4):
            for field in (by_rule, by_optax):
                close(field(jnp.asarray(n), examples.START), expected[n], 1e-12)


@every_rule
def test_the_full_batch_field_of_an_early_step_is_that_derivative_too(build):
    """Early steps decide which rules have a closed form; slopes would not see them."""
    h = 0.3
    F, DF = definition(build, (0,) * 5)
    for order, expected in enumerate((-F, -(F + h * DF))):
        field = ia.vector_field(build(h), examples.full_loss, order=order)
        for n in (0, 1, 4):
            close(field(jnp.asarray(n), examples.START), expected[n], 1e-12)


@pytest.mark.parametrize("build", closed.values(), ids=closed.keys())
def test_the_closed_form_is_the_mini_batch_field_with_one_batch(build):
    objective = raveled_loss(examples.full_loss, examples.START)

    # The map differs from the flow by c in formulas that are the same for every rule.
    flows = (False, True) if build in (CASES["adam"], CASES["adamw"]) else (True,)

    @jax.jit
    def both(n):
        return [
            [method(build(0.1), objective, 1, flow=flow)(n)(examples.START) for flow in flows]
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
    field = ia.vector_field(build(0.1), examples.full_loss, order=order)
    early, late = (field(jnp.asarray(n), examples.START) for n in (0, 300))
    close(limit, late, 1e-12)
    remembers = has_closed_form(build(0.1)) is False or (order == 1 and len(jax.tree.leaves(build(0.1))) > 1)
    assert bool(jnp.allclose(early, limit, rtol=1e-3)) != remembers


@every_memory
def test_the_field_of_a_pytree_is_the_field_of_the_flat_vector(build):
    n = jnp.asarray(4)
    flat = ia.vector_field(build(0.1), examples.batch_loss, **RANDOM)(n, examples.START)
    tree = ia.vector_field(build(0.1), examples.tree_loss, **RANDOM)(n, examples.as_tree(examples.START))
    assert jax.tree.structure(tree) == jax.tree.structure(examples.as_tree(examples.START))
    close(examples.from_tree(tree), flat, 1e-14)


@every_memory
def test_float32_parameters_stay_float32_and_agree_with_float64(build):
    cast = jax.tree.map(lambda x: x.astype(jnp.float32), (examples.START, BATCHES))
    # The flow adds the solver to the field of every rule: it is compiled for three of them.
    flows = build in [CASES[name] for name in ("adam", "nesterov", "scheduled-adam")]
    narrow, wide = (
        ia.vector_field(build(0.01), examples.batch_loss, batches=batches, schedule=SCHEDULE)(
            jnp.asarray(39), theta
        )
        for theta, batches in (cast, (examples.START, BATCHES))
    )
    assert narrow.dtype == jnp.float32
    close(narrow, wide, 1e-4)
    for run in (ia.iterate, ia.flow) if flows else (ia.iterate,):
        narrow, wide = (
            run(build(0.01), examples.batch_loss, theta, 40, batches=batches, schedule=SCHEDULE)
            for theta, batches in (cast, (examples.START, BATCHES))
        )
        assert narrow.params.dtype == narrow.t.dtype == narrow.step_error.dtype == jnp.float32
        close(narrow.params, wide.params, 2e-5)


@every_memory
def test_building_under_vmap_is_building_one_by_one(build):
    """Of a field; a flow in lanes is in test_flow."""
    hs = jnp.asarray([0.01, 0.02, 0.05])
    kwargs = {"batches": BATCHES} if build is CASES["adam"] else RANDOM

    def velocity(h):
        return ia.vector_field(build(h), examples.batch_loss, **kwargs)(jnp.asarray(5), examples.START)

    for h, lane in zip(hs, jax.vmap(velocity)(hs), strict=True):
        close(lane, velocity(h), 1e-13)


@functools.cache
def derivatives(name, training):
    """Of a number made of the field, in the hyperparameters: `along(x, v, n)`, which gives it, too, and
    `gradient(x, n)`."""
    structure = jax.tree.structure(CASES[name](0.1))
    loss = examples.full_loss if training == "full-batch" else examples.batch_loss
    kwargs = {"full-batch": {}, "cyclic": {"batches": BATCHES}, "random": RANDOM}[training]

    def observable(hyperparameters, n):
        rule = jax.tree.unflatten(structure, list(hyperparameters))
        return jnp.sum(jnp.sin(ia.vector_field(rule, loss, **kwargs)(n, examples.START)))

    def along(x, v, n):
        return jax.jvp(lambda x: observable(x, n), (x,), (v,))

    return jax.jit(along), jax.jit(jax.grad(observable), static_argnums=1)


def random_unless_adam(name):
    """The few rows of a cyclic schedule are the same for every rule, and slow to compile."""
    return "cyclic" if name == "adam" else "random"


@pytest.mark.parametrize(
    ("name", "batched"),
    [*[(name, name not in closed) for name in ONE_ROOT], ("adam", True), ("heavy-ball", False)],
)
def test_derivatives_in_every_hyperparameter_are_those_of_finite_differences(name, batched):
    along, gradient = derivatives(name, random_unless_adam(name) if batched else "full-batch")
    x, step = jnp.asarray(jax.tree.leaves(CASES[name](0.1)), float), 1e-5
    directions = jnp.eye(x.size)
    forward = [along(x, e, 5)[1] for e in directions]
    difference = [
        (along(x + step * e, e, 5)[0] - along(x - step * e, e, 5)[0]) / (2 * step) for e in directions
    ]
    np.testing.assert_allclose(forward, difference, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(gradient(x, 5), forward, rtol=1e-12, atol=1e-12)


def decays(build):
    return {field.name for field in dataclasses.fields(build(0.1))} & {"beta", "rho"}


@pytest.mark.parametrize("name", [name for name, build in ONE_ROOT.items() if decays(build)])
def test_a_zero_decay_has_finite_derivatives(name):
    """Their sum is finite, as it is only if each is. Along the cyclic schedule, which counts by powers."""
    build = CASES[name]
    rule = dataclasses.replace(build(0.1), **dict.fromkeys(decays(build), 0.0))

    @jax.jit
    def along(rule, v):
        field = lambda rule: ia.vector_field(rule, examples.batch_loss, batches=BATCHES)(4, examples.START)
        return jax.jvp(field, (rule,), (v,))[1]

    assert bool(jnp.all(jnp.isfinite(along(rule, jax.tree.map(jnp.ones_like, rule)))))


# Fields are traced in their hyperparameters above; a flow adds nothing that knows a rule.
FLOWS = ("adam", "heavy-ball", "scheduled-adam", "ademamix")


@pytest.mark.parametrize(
    ("name", "run"), [*((name, ia.iterate) for name in ONE_ROOT), *((name, ia.flow) for name in FLOWS)]
)
def test_one_trace_serves_all_hyperparameters_and_starts(name, run):
    build, traces = CASES[name], []
    # In full batch where that is quicker to compile: the inputs of a run are the same.
    batches = BATCHES if build in (CASES["adam"], CASES["heavy-ball"]) else None

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
    assert len(traces) == first + 3 * 2


# The fields of all rules, and of all variants, are compared with their definition above; of each class one
# follows its run in time.
CLASSES = {type(build(1.0)): name for name, build in reversed(CASES.items())}
CYCLIC = ("adam", "nesterov", "adamw", "scheduled-adam")
RANDOM_ORDER = ("adam-eps-outside", "heavy-ball", "lion")
IN_BOTH = ("adam", "heavy-ball")
FULL_BATCH = {*CLASSES.values()} - {*NO_ASYMPTOTIC_REGIME, *CYCLIC, *RANDOM_ORDER} | {*IN_BOTH}
STUDIES = [
    *((name, "full-batch") for name in CASES if name in FULL_BATCH),
    *((name, "cyclic") for name in CYCLIC),
    *((name, "random") for name in RANDOM_ORDER),
]


@pytest.mark.parametrize(("name", "schedule"), STUDIES)
def test_the_corrected_flow_is_of_second_order_and_the_plain_one_of_first(name, schedule):
    step_counts = (80, 160, 320) if schedule == "full-batch" else (60, 120, 240, 480)
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
