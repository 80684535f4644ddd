"""Modified losses against the fields that they stand for, and against training itself where it is random."""

import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses import modified_losses
from implicit_adam.measures.slopes import local_slopes
from tests import examples
from tests.refusals import check_refused

gradient = jax.grad(examples.full_loss)
SMALL, LARGE = 1e-12, 1e10


def unit(g):
    return jnp.ones_like(g)


# The modified loss, its optimizer as a function of h, what divides its gradient, and how well it must agree:
# to rounding, or to eps/g^2 (small eps) or g^2/eps (large eps) with g^2 between 0.09 and 1.3 at the start.
CASES = {
    "gradient-descent": (modified_losses.gradient_descent, ia.GradientDescent, unit, 1e-12),
    "heavy-ball": (modified_losses.heavy_ball, lambda h: ia.HeavyBall(h, 0.7), unit, 1e-12),
    "adam-small-eps-protects": (
        modified_losses.adam_small_eps,
        lambda h: ia.Adam(h, 0.9, 0.99, SMALL, eps_in_sqrt=True),
        jnp.abs,
        1e-9,
    ),
    "adam-small-eps-penalises": (
        modified_losses.adam_small_eps,
        lambda h: ia.Adam(h, 0.99, 0.9, SMALL, eps_in_sqrt=True),
        jnp.abs,
        1e-9,
    ),
    "adam-small-eps-outside": (
        modified_losses.adam_small_eps,
        lambda h: ia.Adam(h, 0.9, 0.99, SMALL, eps_in_sqrt=False),
        jnp.abs,
        1e-9,
    ),
    "rmsprop-small-eps": (modified_losses.adam_small_eps, lambda h: ia.RMSProp(h, 0.9, SMALL), jnp.abs, 1e-9),
    "adam-large-eps": (
        modified_losses.adam_large_eps,
        lambda h: ia.Adam(h, 0.9, 0.99, LARGE, eps_in_sqrt=True),
        unit,
        1e-9,
    ),
    "rmsprop-large-eps": (modified_losses.adam_large_eps, lambda h: ia.RMSProp(h, 0.9, LARGE), unit, 1e-9),
}


@pytest.mark.parametrize(("modified", "rule", "divisor", "rtol"), CASES.values(), ids=CASES.keys())
def test_its_gradient_is_the_field_late_in_training(modified, rule, divisor, rtol):
    descent = jax.grad(modified(rule(0.1), examples.full_loss))(examples.START)
    field = ia.limiting_field(rule(0.1), examples.full_loss)(examples.START)
    np.testing.assert_allclose(-descent / divisor(gradient(examples.START)), field, rtol=rtol)


@pytest.mark.parametrize("n", [0, 5])
def test_gradient_descent_descends_it_from_the_first_step(n):
    rule = ia.GradientDescent(0.1)
    descent = jax.grad(modified_losses.gradient_descent(rule, examples.full_loss))(examples.START)
    field = ia.vector_field(rule, examples.full_loss)(n, examples.START)
    np.testing.assert_allclose(-descent, field, rtol=1e-12)


def test_with_large_eps_the_gap_to_the_field_is_far_smaller_than_the_correction():
    """Already at eps = 1e4; so the agreement at 1e10 is no accident of everything being small."""
    for rule in (
        ia.Adam(0.1, 0.9, 0.99, 1e4, eps_in_sqrt=True),
        ia.Adam(0.1, 0.9, 0.5, 1e4, eps_in_sqrt=True),
    ):
        descent = jax.grad(modified_losses.adam_large_eps(rule, examples.full_loss))(examples.START)
        plain, field = (
            ia.limiting_field(rule, examples.full_loss, order=order)(examples.START) for order in (0, 1)
        )
        np.testing.assert_allclose(-descent - plain, field - plain, rtol=0.01)


def tree_loss(tree):
    return examples.full_loss(examples.from_tree(tree))


@pytest.mark.parametrize(("modified", "rule"), [case[:2] for case in CASES.values()], ids=CASES.keys())
def test_it_takes_pytrees_and_jits(modified, rule):
    flat = jax.value_and_grad(modified(rule(0.1), examples.full_loss))(examples.START)
    tree = jax.jit(jax.value_and_grad(modified(rule(0.1), tree_loss)))(examples.as_tree(examples.START))
    np.testing.assert_allclose(tree[0], flat[0], rtol=1e-13)
    np.testing.assert_allclose(examples.from_tree(tree[1]), flat[1], rtol=1e-12)


@pytest.mark.parametrize(("modified", "rule"), [case[:2] for case in CASES.values()], ids=CASES.keys())
def test_it_is_linear_in_a_traced_step_size(modified, rule):
    value = lambda h: modified(rule(h), examples.full_loss)(examples.START)
    values = jax.vmap(value)(jnp.asarray([0.1, 0.2, 0.4]))
    atol = 1e-14 * abs(values[0])
    np.testing.assert_allclose((values[2] - values[1]) / 0.2, (values[1] - values[0]) / 0.1, atol=20 * atol)
    np.testing.assert_allclose(jax.grad(value)(0.3), (values[1] - values[0]) / 0.1, atol=20 * atol)


def test_the_other_hyperparameters_may_be_traced_too():
    h, b, r = 0.1, 0.9, 0.99
    E, g = examples.full_loss(examples.START), gradient(examples.START)
    small = lambda b, r: modified_losses.adam_small_eps(
        ia.Adam(h, b, r, eps_in_sqrt=True), examples.full_loss
    )(examples.START)
    norm = jnp.sum(jnp.abs(g))
    expected = h / (1 - b) ** 2 * norm, -h / (1 - r) ** 2 * norm
    np.testing.assert_allclose(jax.grad(small, (0, 1))(b, r), expected, rtol=1e-12)

    large = lambda r, eps: modified_losses.adam_large_eps(
        ia.Adam(h, b, r, eps, eps_in_sqrt=True), examples.full_loss
    )(examples.START)
    expected = 0, -E / 2 - h / 4 * (1 + b) / (1 - b) * jnp.sum(g**2)
    np.testing.assert_allclose(jax.grad(large, (0, 1))(r, 1.0), expected, rtol=1e-12)

    ball = lambda b: modified_losses.heavy_ball(ia.HeavyBall(h, b), examples.full_loss)(examples.START)
    np.testing.assert_allclose(jax.grad(ball)(0.0), E + h * jnp.sum(g**2), rtol=1e-12)


def test_a_float32_run_stays_in_float32():
    loss, start = lambda t: jnp.sum(jnp.cos(t)), examples.START.astype(jnp.float32)
    for modified, rule, *_ in CASES.values():
        assert modified(rule(0.1), loss)(start).dtype == jnp.float32


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("eps", [1e-3, 1e10])
def test_adam_with_large_eps_is_heavy_ball_with_another_step_in_another_time(beta, eps):
    """Example 2.1: n steps are the time n h of one and n k, k = h (1-beta)/sqrt(eps), of the other."""
    h = 0.1
    k = h * (1 - beta) / eps**0.5
    adam = modified_losses.adam_large_eps(ia.Adam(h, beta, 0.99, eps, eps_in_sqrt=True), examples.full_loss)
    ball = modified_losses.heavy_ball(ia.HeavyBall(k, beta), examples.full_loss)
    np.testing.assert_allclose(h * adam(examples.START), k * ball(examples.START), rtol=1e-13)
    np.testing.assert_allclose(
        h * jax.grad(adam)(examples.START), k * jax.grad(ball)(examples.START), rtol=1e-12
    )


def test_without_momentum_both_are_the_modified_loss_of_barrett_and_dherin():
    h, eps = 0.1, 0.04
    k = h / eps**0.5
    descent = modified_losses.gradient_descent(ia.GradientDescent(k), examples.full_loss)(examples.START)
    ball = modified_losses.heavy_ball(ia.HeavyBall(k, 0.0), examples.full_loss)(examples.START)
    np.testing.assert_allclose(ball, descent, rtol=1e-14)
    for rule in (ia.Adam(h, 0.0, 0.9, eps, eps_in_sqrt=True), ia.RMSProp(h, 0.9, eps)):
        adam = modified_losses.adam_large_eps(rule, examples.full_loss)(examples.START)
        np.testing.assert_allclose(h * adam, k * descent, rtol=1e-13)


def test_shuffled_mini_batches_descend_the_mean_of_their_own_modified_losses():
    rule, batches = ia.GradientDescent(0.1), examples.batches()
    own = lambda batch: modified_losses.gradient_descent(rule, lambda t: examples.batch_loss(t, batch))
    mean = jnp.mean(jnp.stack([own((A, c))(examples.START) for A, c in zip(*batches, strict=True)]))
    shuffled = modified_losses.shuffled_gradient_descent(rule, examples.batch_loss, batches)
    np.testing.assert_allclose(shuffled(examples.START), mean, rtol=1e-14)
    tree = modified_losses.shuffled_gradient_descent(rule, examples.tree_loss, batches)
    descent = jax.jit(jax.grad(tree))(examples.as_tree(examples.START))
    np.testing.assert_allclose(examples.from_tree(descent), jax.grad(shuffled)(examples.START), rtol=1e-12)


def test_one_mini_batch_is_full_batch():
    rule = ia.GradientDescent(0.1)
    full = modified_losses.gradient_descent(rule, examples.full_loss)(examples.START)
    one = modified_losses.shuffled_gradient_descent(rule, examples.batch_loss, examples.batches(m=1))
    np.testing.assert_allclose(
        modified_losses.shuffled_gradient_descent(rule, examples.full_loss, None)(examples.START),
        full,
        rtol=1e-14,
    )
    only = lambda t: examples.batch_loss(t, jax.tree.map(lambda x: x[0], examples.batches(m=1)))
    np.testing.assert_allclose(
        one(examples.START), modified_losses.gradient_descent(rule, only)(examples.START), rtol=1e-14
    )


def mean_over_shuffles(h):
    """The iterate after one epoch, averaged over all m! orders of the mini-batches."""
    shuffles = jnp.asarray(list(itertools.permutations(range(examples.M))))

    def end(shuffle):
        run = ia.iterate(
            ia.GradientDescent(h), examples.batch_loss, examples.START, examples.M,
            batches=examples.batches(), schedule=shuffle, save_every=examples.M,
        )  # fmt: skip
        return run.params[-1]

    return jnp.mean(jax.vmap(end)(shuffles), axis=0)


def descend(loss, time):
    """The solution of d theta / dt = -grad loss(theta) at a time."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, theta, args: -jax.grad(loss)(theta)),
        diffrax.Tsit5(), 0.0, time, None, examples.START,
        stepsize_controller=diffrax.PIDController(rtol=1e-13, atol=1e-13),
    )  # fmt: skip
    return solution.ys[0]


def test_the_mean_over_shuffles_of_an_epoch_follows_the_modified_loss_of_smith_et_al():
    """Within O((mh)^3) after one epoch, where the gradient flow of the mean loss stays O((mh)^2) away."""
    batches = examples.batches()
    mean_loss = lambda t: jnp.mean(jax.vmap(examples.batch_loss, (None, 0))(t, batches))

    def errors(h):
        E_tilde = modified_losses.shuffled_gradient_descent(
            ia.GradientDescent(h), examples.batch_loss, batches
        )
        end = mean_over_shuffles(h)
        return [jnp.max(jnp.abs(descend(loss, examples.M * h) - end)) for loss in (E_tilde, mean_loss)]

    h = 8e-3 / 2.0 ** np.arange(5)
    corrected, plain = jax.vmap(errors)(jnp.asarray(h))
    np.testing.assert_allclose(local_slopes(h, np.asarray(corrected)), 3, atol=0.1)
    np.testing.assert_allclose(local_slopes(h, np.asarray(plain)), 2, atol=0.1)


TYPES = """
import jax.numpy as jnp
import implicit_adam as ia
from implicit_adam.losses import modified_losses
loss = lambda t: jnp.sum(t**2)
CALLS = [
    (lambda: modified_losses.gradient_descent(ia.Adam(0.1), loss), "must be ia.GradientDescent, got Adam"),
    (lambda: modified_losses.gradient_descent("adam", loss), "got 'adam'"),
    (lambda: modified_losses.shuffled_gradient_descent(ia.HeavyBall(0.1), loss, None), "got HeavyBall"),
    (lambda: modified_losses.heavy_ball(ia.GradientDescent(0.1), loss), "must be ia.HeavyBall"),
    (lambda: modified_losses.adam_small_eps(ia.HeavyBall(0.1), loss), "must be ia.Adam or ia.RMSProp"),
    (lambda: modified_losses.adam_large_eps(ia.GradientDescent(0.1), loss), "must be ia.Adam or ia.RMSProp"),
]
"""


def test_the_formula_of_another_optimizer_is_refused():
    """Outside pytest, where no type checker stands before our own words."""
    check_refused(TYPES)


@pytest.mark.parametrize("rule", [ia.Adam, ia.RMSProp])
def test_equation_8_is_refused_for_eps_outside_the_root(rule):
    with pytest.raises(ValueError, match="eps_in_sqrt=True"):
        modified_losses.adam_large_eps(rule(0.1, eps=LARGE, eps_in_sqrt=False), examples.full_loss)


def test_for_eps_outside_the_root_no_large_eps_makes_equation_8_good_to_the_order_of_its_correction():
    """Why it is refused: with eps for sqrt(eps), the gap to the field is as large as the correction."""
    for eps in (1e3, 1e6):
        rule = ia.Adam(0.1, 0.9, 0.99, eps, eps_in_sqrt=False)
        analogue = modified_losses.adam_large_eps(
            ia.Adam(0.1, 0.9, 0.99, eps**2, eps_in_sqrt=True), examples.full_loss
        )
        plain, field = (
            ia.limiting_field(rule, examples.full_loss, order=order)(examples.START) for order in (0, 1)
        )
        gap = jnp.abs(jax.grad(analogue)(examples.START) + field)
        assert float(jnp.max(gap / jnp.abs(field - plain))) > 0.5


REFUSED = {
    "params": (lambda E: E(ia.GradientDescent(0.1), examples.full_loss)(jnp.arange(3)), "int64"),
    "loss": (lambda E: E(ia.GradientDescent(0.1), lambda t: t)(examples.START), "shape"),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_arguments_are_refused_when_it_is_called(call, words):
    with pytest.raises(ValueError, match=words):
        call(modified_losses.gradient_descent)
    with pytest.raises(ValueError, match=words):
        call(lambda rule, loss: modified_losses.shuffled_gradient_descent(rule, loss, None))


def test_bad_batches_are_refused():
    ragged = (jnp.ones((3, 3, 3)), jnp.ones((4, 3)))
    E_tilde = modified_losses.shuffled_gradient_descent(ia.GradientDescent(0.1), examples.batch_loss, ragged)
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        E_tilde(examples.START)


def test_an_eps_that_vanishes_in_the_dtype_of_the_parameters_is_refused():
    E_tilde = modified_losses.adam_large_eps(
        ia.Adam(0.1, eps=1e-60, eps_in_sqrt=True), lambda t: jnp.sum(t**2)
    )
    with pytest.raises(ValueError, match="underflows"):
        E_tilde(examples.START.astype(jnp.float32))
