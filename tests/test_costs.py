"""What an evaluation costs, in gradients and in vectors of size p, as the documentation says.

XLA counts the operations of a compiled program, the body of a loop once: of a run over the history that is
the cost of one remembered step.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.fields.carried.carried_field import carrier_of
from implicit_adam.fields.vector_field import raveled_field
from implicit_adam.inputs import checked_inputs
from implicit_adam.objective import AT_ONCE
from implicit_adam.runs.interval import interval_step, solver_of_order
from implicit_adam.runs.leaps import Leaps

# Square layers, so that nearly all products are with inner activations.
WEIGHTS = [jax.random.normal(key, (48, 48)) / 7 for key in jax.random.split(jax.random.key(0), 6)]
ADAM = ia.Adam(1e-3, 0.5, 0.6, 0.1, eps_in_sqrt=True)
HEAVY_BALL = ia.HeavyBall(1e-3, 0.5)
STEP = jnp.asarray(50)


def deep_loss(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return jnp.mean(x**2)


def batches(m):
    return jnp.cos(jnp.arange(m * 1024.0 * 48)).reshape(m, 1024, 48)


def one_batch(weights):
    return deep_loss(weights, batches(1)[0])


def operations(function, *arguments):
    return eqx.filter_jit(function).lower(*arguments).compile().compiled.cost_analysis()["flops"]


GRADIENT = operations(jax.grad(one_batch), WEIGHTS)


def gradients(function, *arguments):
    """The cost in gradients of one mini-batch."""
    return operations(function, *arguments) / GRADIENT


def once_and_per_batch(cost):
    """cost(m) = a + b m: (a, b), for as many mini-batches as are taken at once."""
    half, all_at_once = cost(AT_ONCE // 2), cost(AT_ONCE)
    return 2 * half - all_at_once, (all_at_once - half) / (AT_ONCE // 2)


def field(rule, order, loss=one_batch, **kwargs):
    return gradients(lambda n, w: ia.vector_field(rule, loss, order=order, **kwargs)(n, w), STEP, WEIGHTS)


def test_a_field_costs_three_gradients_in_full_batch_and_two_with_shifted_ones():
    for rule in (ADAM, HEAVY_BALL):
        np.testing.assert_allclose(field(rule, 0), 1, rtol=0.02)
        # No product is taken with the data, which do not move.
        assert 2.85 < field(rule, 1) <= 3
        np.testing.assert_allclose(field(rule, 1, shifted=True), 2, rtol=0.05)


@pytest.mark.parametrize(
    ("rule", "shifted", "expected"), [(HEAVY_BALL, False, 3), (ADAM, False, 5), (ADAM, True, 3)]
)
def test_a_field_costs_1_plus_2r_gradients_for_each_mini_batch(rule, shifted, expected):
    once, per_batch = once_and_per_batch(
        lambda m: field(rule, 1, deep_loss, batches=batches(m), shifted=shifted)
    )
    np.testing.assert_allclose(per_batch, expected, rtol=0.05)
    assert abs(once) < 0.3


def test_many_mini_batches_are_taken_a_few_at_a_time_for_one_gradient_more():
    """XLA counts one piece: all gradients, and then gradients and products."""
    eight, at = batches(8), lambda data: ia.vector_field(ADAM, deep_loss, batches=data)(STEP, WEIGHTS)
    with_products = gradients(lambda data: at(data), eight) / AT_ONCE
    np.testing.assert_allclose(with_products, 6, rtol=0.05)

    def vectors(m):
        field = eqx.filter_jit(lambda n, w, x: ia.vector_field(ADAM, deep_loss, batches=x)(n, w))
        plan = field.lower(STEP, WEIGHTS, batches(m)).compile().compiled.memory_analysis()
        return plan.temp_size_in_bytes / sum(w.nbytes for w in WEIGHTS)

    sixteen, thirty_two = vectors(16), vectors(32)
    # Of each mini-batch the gradient and a displacement for each feature.
    assert 3 <= (thirty_two - sixteen) / 16 < 5


def over_the_history(rule, order):
    def cost(m):
        return field(rule, order, deep_loss, batches=batches(m), schedule=jnp.arange(60) % m)

    return once_and_per_batch(cost)


def test_higher_orders_cost_what_is_said_for_each_remembered_step():
    per_step, per_batch = over_the_history(ADAM, 2)
    assert 10 < per_step < 12.5
    assert 6.5 < per_batch < 8.5
    per_step, per_batch = over_the_history(ADAM, 3)
    assert 70 < per_step < 80
    np.testing.assert_allclose(per_batch, 1, rtol=0.05)


OPTAX = ADAM.with_step_size(jnp.ones(())).transformation()


def test_an_optax_field_costs_what_that_of_the_rule_costs():
    costs = [field(rule, 1, one_batch) for rule in (ia.Optax(1e-3, OPTAX), ADAM)]
    np.testing.assert_allclose(*costs, rtol=0.02)


def test_with_a_window_an_optax_field_costs_a_gradient_and_a_product_for_each_step_of_the_history():
    per_step, per_batch = over_the_history(ia.Optax(1e-3, OPTAX, window=1000), 1)
    np.testing.assert_allclose(per_step, 3, rtol=0.06)
    np.testing.assert_allclose(per_batch, 1, rtol=0.02)


def test_a_product_of_an_accumulated_loss_costs_eight_thirds_of_a_gradient_in_place_of_two():
    """The gradient's forward pass is taken again with its tangents; of four micro-batches one is counted."""
    total = ia.accumulated_loss(deep_loss, batches(4))
    np.testing.assert_allclose(gradients(lambda loss, w: jax.grad(loss)(w), total, WEIGHTS), 1, rtol=0.02)
    found = gradients(lambda loss, w: ia.vector_field(ADAM, loss)(STEP, w), total, WEIGHTS)
    assert 3.5 < found <= 1 + 8 / 3


def test_a_field_of_an_accumulated_loss_holds_about_six_vectors():
    """Arguments, results and temporaries by XLA's own plan; the data are small here."""
    widths = (512, 1024, 512, 10)
    keys = jax.random.split(jax.random.key(0), 3)
    weights = [
        jax.random.normal(key, (a, b), jnp.float32) / a**0.5
        for key, a, b in zip(keys, widths, widths[1:], strict=False)
    ]
    total = ia.accumulated_loss(deep_loss, jnp.ones((4, 8, 512), jnp.float32))

    def velocity(total, weights):
        return ia.vector_field(ia.Adam(1e-3), total)(STEP, weights)

    plan = eqx.filter_jit(velocity).lower(total, weights).compile().compiled.memory_analysis()
    everything = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    assert 5 < everything / sum(4 * w.size for w in weights) < 7


def test_a_carried_field_costs_two_gradients_and_one_without_corrections():
    for order, expected in ((0, 1), (1, 2)):
        carried = ia.carried_field(ADAM, one_batch, order=order)
        found = gradients(
            lambda t, state, f=carried: f(t, state), jnp.asarray(0.1), carried.start(WEIGHTS, 3)
        )
        np.testing.assert_allclose(found, expected, rtol=0.12)


def test_a_leap_costs_one_gradient():
    inputs = checked_inputs(ADAM, one_batch, WEIGHTS, products=False)
    leaps = Leaps(carrier_of(inputs), inputs.rule.h)
    memory = leaps.carrier.start(inputs.theta)
    begun = leaps.init(None, jnp.asarray(0.1), None, (inputs.theta, memory), None)

    def leap(theta, memory, begun):
        return leaps.step(None, jnp.asarray(0.1), jnp.asarray(0.13), (theta, memory), None, begun, False)[0]

    np.testing.assert_allclose(gradients(leap, inputs.theta, memory, begun), 1, rtol=0.1)


def test_measuring_the_validity_of_a_flow_costs_nothing():
    inputs = checked_inputs(ADAM, one_batch, WEIGHTS)
    move = interval_step(raveled_field(inputs.rule, inputs.objective, 1), inputs.rule.h)
    alone = gradients(move, jnp.asarray(3), inputs.theta)
    whole = gradients(lambda w: ia.flow(ADAM, one_batch, w, 8), WEIGHTS)
    np.testing.assert_allclose(whole, alone, rtol=0.02)
    # The stages are a loop, whose body is counted once.
    assert 2.85 < alone <= 3


@pytest.mark.parametrize(("order", "stages"), [(0, 2), (1, 2), (2, 4), (3, 7)])
def test_a_flow_takes_the_cheapest_solver_of_its_order(order, stages):
    solver = solver_of_order(order)
    assert solver.tableau.num_stages == stages
    assert solver.order(diffrax.ODETerm(lambda t, y, args: y)) > order


def with_bias(order, **kwargs):
    tx = ia.with_bias(ADAM, deep_loss if kwargs else one_batch, -1.0, order=order, **kwargs)
    state = tx.init(WEIGHTS)._replace(n=jnp.asarray(50, jnp.int32))

    def update(g, state, params):
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(g, state, params)

    return gradients(update, WEIGHTS, state, WEIGHTS)


def test_with_bias_costs_an_evaluation_of_the_field_and_at_order_2_some_for_each_remembered_step():
    mini = {"batches": batches(3), "schedule": jnp.arange(60) % 3}
    fields = {"full": field(ADAM, 1), "mini": field(ADAM, 1, deep_loss, **mini)}
    np.testing.assert_allclose(with_bias(1), fields["full"], rtol=0.02)
    np.testing.assert_allclose(with_bias(1, **mini), fields["mini"], rtol=0.02)
    assert 10 < with_bias(2) / fields["full"] < 13
    assert 6 < with_bias(2, **mini) / fields["mini"] < 9


COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


def compilations(call):
    before = len(COMPILED)
    jax.block_until_ready(call())
    return len(COMPILED) - before


START = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
DATA = jnp.cos(jnp.arange(60.0)).reshape(5, 4, 3)
MEMORIES = ia.carried_field(ADAM, lambda params: jnp.sum(params["w"] ** 2)).start(START, 3)


def of_data(scale):
    def loss(params, x):
        return scale * jnp.mean((jnp.tanh(x @ params["w"]) - params["b"][None]) ** 2)

    return loss


def of_one_batch(scale):
    loss = of_data(scale)
    return lambda params: loss(params, DATA[0])


def biased(loss):
    tx = ia.with_bias(ADAM, loss, -1.0)
    with jax.numpy_dtype_promotion("standard"):
        return tx.update(START, tx.init(START), START)


EAGER = {
    "vector_field": lambda loss: ia.vector_field(ADAM, loss)(50, START),
    "order 2": lambda loss: ia.vector_field(ADAM, loss, order=2)(50, START),
    "limiting_field": lambda loss: ia.limiting_field(ADAM, loss)(START),
    "regimes": lambda loss: ia.regimes(ADAM, loss, START),
    "bias": lambda loss: ia.bias(ADAM, loss, START),
    "decompose": lambda loss: ia.decompose(ADAM, loss, START, 50),
    "modified loss": lambda loss: ia.modified_losses.adam_small_eps(ADAM, loss)(START),
    "with_bias": biased,
    "carried_field": lambda loss: ia.carried_field(ADAM, loss)(0.1, MEMORIES),
    "sharpness": lambda loss: ia.sharpness(loss, START, iterations=3),
    "preconditioned": lambda loss: ia.preconditioned_sharpness(ADAM, loss, START, iterations=3),
    "observe": lambda loss: ia.observe(ADAM, loss, START, 4, ("loss", "distance")),
}


@pytest.mark.parametrize("call", EAGER.values(), ids=EAGER.keys())
def test_a_call_outside_jit_compiles_one_program_of_its_own(call):
    """Beside conversions of numbers and checks, which all losses share."""
    first, second = of_one_batch(1.0), of_one_batch(2.0)
    call(first)
    assert compilations(lambda: call(second)) == 1
    assert compilations(lambda: call(second)) == 0


def test_a_field_of_mini_batches_outside_jit_compiles_one_program_of_its_own():
    call = lambda loss: ia.vector_field(ADAM, loss, batches=DATA)(50, START)
    call(of_data(1.0))
    assert compilations(lambda: call(of_data(2.0))) == 1
