"""No run answers for data, losses or optimizers that have changed since it was compiled."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from implicit_adam.programs.captured import digest, trace
from tests import examples

DATA = np.array([1.0, -2.0])
START = jnp.asarray([0.3, 0.8])


class Problem:
    def __init__(self):
        self.y = jnp.asarray([1.0, -2.0])

    def loss(self, x):
        return jnp.sum((jnp.sin(x) - self.y) ** 2)


def loss_of_the_module(x):
    return jnp.sum((jnp.sin(x) - DATA) ** 2)


def adam():
    return ia.Adam(0.01, 0.5, 0.6, 0.1, eps_in_sqrt=True)


def slopes(rule, loss, params, steps):
    return ia.convergence(rule, loss, params, horizon=0.1, step_counts=(steps, 2 * steps, 3 * steps)).error[1]


RUNS = {
    "iterate": lambda *args: ia.iterate(*args).params,
    "flow": lambda *args: ia.flow(*args).params,
    "smooth flow": lambda *args: ia.smooth_flow(*args).params,
    "memoryless": lambda *args: ia.memoryless(*args).params,
    "convergence": slopes,
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_a_bound_method_sees_its_object_as_it_is(run):
    problem = Problem()
    before = run(adam(), problem.loss, START, 6)
    problem.y = -problem.y
    after = run(adam(), problem.loss, START, 6)
    y = problem.y
    fresh = run(adam(), lambda x: jnp.sum((jnp.sin(x) - y) ** 2), START, 6)
    np.testing.assert_allclose(after, fresh, rtol=1e-12)
    assert not np.allclose(after, before)


@pytest.mark.parametrize("change", ["replaced", "changed in place"])
def test_a_function_sees_the_array_of_its_module_as_it_is(change, monkeypatch):
    data = np.array([1.0, -2.0])
    monkeypatch.setitem(globals(), "DATA", data)
    before = ia.iterate(adam(), loss_of_the_module, START, 6).params
    if change == "replaced":
        monkeypatch.setitem(globals(), "DATA", -data)
    else:
        data *= -1
    after = ia.iterate(adam(), loss_of_the_module, START, 6).params
    fresh = ia.iterate(adam(), lambda x: jnp.sum((jnp.sin(x) - jnp.asarray([-1.0, 2.0])) ** 2), START, 6)
    np.testing.assert_allclose(after, fresh.params, rtol=1e-12)
    assert not np.allclose(after, before)


def test_an_array_that_only_a_custom_derivative_reads_is_seen():
    scale = {"of the derivative": jnp.asarray(1.0)}

    @jax.custom_jvp
    def energy(x):
        return jnp.sum(x**2)

    @energy.defjvp
    def _(primals, tangents):
        return energy(primals[0]), scale["of the derivative"] * 2 * primals[0] @ tangents[0]

    gd = ia.GradientDescent(0.1)
    np.testing.assert_allclose(ia.iterate(gd, energy, START, 1).params[1], 0.8 * START)
    scale["of the derivative"] = jnp.asarray(2.0)
    np.testing.assert_allclose(ia.iterate(gd, energy, START, 1).params[1], 0.6 * START)


def test_a_schedule_and_a_transformation_see_what_they_read():
    factor = {"now": 1.0}
    scheduled = ia.Scheduled(ia.GradientDescent(0.1), lambda n: factor["now"] * jnp.ones_like(n, float))
    tx = optax.stateless(lambda updates, params: jax.tree.map(lambda g: -factor["now"] * g, updates))
    mine = ia.Optax(0.1, tx)

    def ends():
        return [
            ia.iterate(rule, examples.full_loss, examples.START, 1).params[1] for rule in (scheduled, mine)
        ]

    g = jax.grad(examples.full_loss)(examples.START)
    for now in (1.0, 3.0):
        factor["now"] = now
        for end in ends():
            np.testing.assert_allclose(end, examples.START - 0.1 * now * g, rtol=1e-12)


def test_the_schedules_of_optax_run_under_strict_promotion():
    rule = ia.Scheduled(ia.GradientDescent(0.1), optax.warmup_cosine_decay_schedule(0.0, 1.0, 2, 10))
    assert bool(ia.iterate(rule, examples.full_loss, examples.START, 3).finite)


def test_a_sweep_sees_what_its_function_reads():
    offset = {"now": jnp.asarray([1.0, 2.0])}

    def study(x):
        return x + offset["now"]

    for now in ([1.0, 2.0], [5.0, 7.0]):
        offset["now"] = jnp.asarray(now)
        found = ia.sweep(study, {"x": np.arange(3.0)}, progress=False).values
        np.testing.assert_array_equal(found, np.arange(3.0)[:, None] + np.asarray(now))


def test_unchanged_code_and_data_are_compiled_once():
    traces, data = [], jnp.asarray([1.0, 2.0])

    def loss(x):
        traces.append(1)
        return jnp.sum((jnp.tanh(x) - data) ** 2)

    ia.flow(adam(), loss, START, 4)
    compiled = len(traces)
    for h in (0.01, 0.02):
        ia.flow(eqx.tree_at(lambda rule: rule.h, adam(), jnp.asarray(h)), loss, START + h, 4)
    # Each call looks at the loss to check it and to see whether it has changed; a compilation looks again.
    assert len(traces) == compiled + 2 * 2


def test_a_loss_may_close_over_traced_values():
    def end(y):
        return ia.flow(adam(), lambda x: jnp.sum((x - y) ** 2), START, 5).params[-1, 0]

    ys = jnp.asarray([0.5, -0.5])
    one_by_one = [end(y) for y in ys]
    np.testing.assert_allclose(jax.vmap(end)(ys), one_by_one, rtol=1e-12)
    step = 1e-6
    difference = (end(0.5 + step) - end(0.5 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jacfwd(end)(0.5), difference, rtol=1e-5)


def constant(dtype=float, value=1.0):
    x = jnp.asarray([value, 2.0], dtype)
    return trace(lambda y: jnp.sum(x.astype(float) * y), START)[0]


def test_a_digest_tells_values_shapes_literals_and_inner_programs_apart():
    inner = jnp.asarray([1.0, 2.0])
    looped = [
        trace(lambda x, c=c: jax.lax.fori_loop(0, 3, lambda i, x: x * c, x), START)[0]
        for c in (inner, inner + 1e-12)
    ]
    literal = [trace(lambda x, c=c: x * c, START)[0] for c in (0.1, 0.1 + 1e-15)]
    programs = [constant(), constant(value=1 + 1e-15), constant(jnp.float32), *looped, *literal]
    assert len({digest(program) for program in programs}) == len(programs)
    assert digest(constant()) == digest(constant())
