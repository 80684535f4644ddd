"""Hyperparameters, counts and norms keep their values in every dtype of the parameters, or are refused."""

import decimal
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from tests import examples

NARROW = [jnp.bfloat16, jnp.float16]
CURVATURES = np.array([0.5, 1.0, 2.0])
# Exact in every dtype, and so is the gradient.
POINT = np.array([1.0, -0.5, 0.25])


def bowl(theta):
    return jnp.sum(jnp.asarray(CURVATURES, theta.dtype) * theta**2) / 2


def adam(h=0.01, beta=0.9, rho=0.996, eps=0.1):
    return ia.Adam(h, beta, rho, eps, eps_in_sqrt=True)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("rho", [0.995, 0.996, 0.998])
def test_in_narrow_parameters_every_decay_has_its_own_bias(dtype, rho):
    g, h, eps = CURVATURES * POINT, 0.01, 0.1
    cb, cr = 1.9 / 0.1, (1 + rho) / (1 - rho)
    brace = cb - cr + cr * eps / (g**2 + eps)
    expected = h / 2 * brace * CURVATURES * g / np.sqrt(g**2 + eps)
    found = ia.bias(adam(rho=rho), bowl, jnp.asarray(POINT, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(float), expected, rtol=4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_iterates_are_those_of_the_twin_with_a_float32_memory(dtype):
    theta = start = jnp.asarray(POINT, dtype)
    wide = lambda x: x.astype(jnp.float32)
    tx = optax.adam(
        np.float32(0.01), b1=np.float32(0.9), b2=np.float32(0.996), eps=0.0, eps_root=np.float32(0.1)
    )
    with jax.numpy_dtype_promotion("standard"):
        state = tx.init(wide(theta))
        for _ in range(5):
            updates, state = tx.update(wide(jax.grad(bowl)(theta)), state, wide(theta))
            theta = optax.apply_updates(theta, updates)
    run = ia.iterate(adam(), bowl, start, 5)
    assert run.params.dtype == dtype
    np.testing.assert_allclose(
        run.params[-1].astype(float), theta.astype(float), rtol=2 * jnp.finfo(dtype).eps
    )
    assert bool(jnp.all(run.params[-1] != start))


@pytest.mark.parametrize("dtype", [*NARROW, jnp.float32, jnp.float64])
def test_narrow_parameters_compute_in_float32_and_others_in_their_own(dtype):
    wide = jnp.float32 if dtype in NARROW else dtype
    run = ia.flow(adam(), bowl, jnp.asarray(POINT, dtype), 2)
    assert run.params.dtype == dtype
    assert run.t.dtype == run.validity.dtype == run.step_error.dtype == wide


@pytest.mark.parametrize("dtype", [*NARROW, jnp.float32, jnp.float64])
def test_steps_that_round_away_are_summed_and_warned_of(dtype):
    h, steps = float(jnp.finfo(dtype).eps) / 8, 20
    arguments = ia.GradientDescent(h), jnp.sum, jnp.ones(3, dtype), steps
    with pytest.warns(
        ia.RoundingWarning, match=rf"{jnp.dtype(dtype)}: rounding took .* moved them by 0 "
    ) as seen:
        run = ia.iterate(*arguments)
    assert len(seen) == 1
    assert bool(run.finite)
    assert bool(jnp.all(run.params == 1))
    np.testing.assert_allclose(run.rounding, h * np.arange(steps + 1), rtol=1e-5)


def test_rounding_counts_what_is_lost_and_what_is_won():
    # Near 1 bfloat16 has steps of 2^-8 below and 2^-7 above: 0.6 of such a step becomes a whole one.
    run = ia.iterate(ia.GradientDescent(0.6 * 2**-8), jnp.sum, jnp.ones(1, jnp.bfloat16), 10)
    np.testing.assert_allclose(run.params[:, 0].astype(float), 1 - np.arange(11) / 256)
    np.testing.assert_allclose(run.rounding, 0.4 * np.arange(11) / 256, rtol=1e-4)


def test_a_run_that_rounds_little_away_warns_of_nothing_and_none_does_inside_jit():
    run = ia.iterate(adam(), bowl, jnp.asarray(POINT), 20)
    assert 0 < float(run.rounding[-1]) < 1e-15
    tiny = jax.jit(lambda theta: ia.iterate(ia.GradientDescent(1e-5), jnp.sum, theta, 4))
    assert float(tiny(jnp.ones(1, jnp.bfloat16)).rounding[-1]) == pytest.approx(4e-5)


def test_a_flow_in_bfloat16_moves_where_the_optimizer_cannot():
    start = jnp.asarray(POINT, jnp.bfloat16)
    flow = ia.flow(adam(h=1e-4), bowl, start, 400, save_every=400)
    exact = ia.flow(adam(h=1e-4), bowl, jnp.asarray(POINT), 400, save_every=400)
    np.testing.assert_allclose(flow.params[-1].astype(float), exact.params[-1], atol=2**-8)
    assert float(jnp.max(jnp.abs(exact.params[-1] - POINT))) > 0.02
    assert float(flow.rounding[-1]) < 1e-5
    with pytest.warns(ia.RoundingWarning):
        stuck = ia.iterate(adam(h=1e-4), bowl, start, 400, save_every=400)
    assert bool(stuck.params[-1, 0] == start[0])


@pytest.mark.parametrize("run", [ia.flow, ia.memoryless], ids=lambda f: f.__name__)
def test_what_rounds_away_of_a_flow_is_counted_too(run):
    with pytest.warns(ia.RoundingWarning, match="float32"):
        still = run(ia.GradientDescent(1e-9), jnp.sum, jnp.ones(2, jnp.float32), 10)
    np.testing.assert_allclose(still.rounding, 1e-9 * np.arange(11), rtol=1e-5)


@pytest.mark.parametrize("dtype", NARROW)
def test_times_in_narrow_parameters_do_not_overflow_or_stick(dtype):
    with pytest.warns(ia.RoundingWarning):
        run = ia.iterate(
            ia.GradientDescent(1e-3), jnp.sum, jnp.full(1, 1e4, dtype), 70_001, save_every=70_001
        )
    np.testing.assert_allclose(run.t, [0, 70.001], rtol=1e-6)


def test_a_decay_is_refused_where_rounding_changes_its_memory():
    start = jnp.asarray(POINT, jnp.float32)
    assert bool(ia.iterate(adam(rho=0.99999), bowl, start, 1).finite)
    # The nearest float32 remembers 1.1e7 steps.
    with pytest.raises(ValueError, match=r"Adam: rho = 0.9999999 .*float32.*1\.19209e-07 instead of 1e-07"):
        ia.iterate(adam(rho=0.9999999), bowl, start, 1)
    assert bool(ia.iterate(adam(rho=0.9999999), bowl, start.astype(float), 1).finite)


@pytest.mark.parametrize(
    "rule",
    [ia.GradientDescent(1e-40), ia.Scheduled(adam(eps=1e-40), optax.constant_schedule(1.0))],
    ids=["h", "eps of a scheduled rule"],
)
def test_what_vanishes_in_float32_is_refused_in_every_place(rule):
    with pytest.raises(ValueError, match=r"1e-40 underflows .*float32"):
        ia.iterate(rule, bowl, jnp.asarray(POINT, jnp.float32), 1)


OUTSIDE = {
    "beta-above-one": lambda x: adam(beta=x + 1.5),
    "beta-one": lambda x: adam(beta=x + 1.0),
    "rho-negative": lambda x: adam(rho=x - 0.5),
    "eps-zero": lambda x: adam(eps=x),
    "h-negative": lambda x: adam(h=x - 0.1),
    "scheduled-h-zero": lambda x: ia.Scheduled(adam(h=x), optax.constant_schedule(1.0)),
    "weight-decay-negative": lambda x: ia.AdamW(0.1, eps=0.1, eps_in_sqrt=True, weight_decay=x - 1),
    "h-infinite": lambda x: ia.GradientDescent(x + np.inf),
}


@pytest.mark.parametrize("build", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_traced_hyperparameter_outside_its_interval_gives_no_numbers(build):
    start = jnp.asarray(POINT)

    @jax.jit
    def results(x):
        run = ia.iterate(build(x), bowl, start, 2)
        return run.finite, run.params[-1], ia.vector_field(build(x), bowl, order=0)(3, start)

    finite, end, field = results(0.0)
    assert not bool(finite)
    assert bool(jnp.all(jnp.isnan(end)))
    assert bool(jnp.all(jnp.isnan(field)))


def test_a_traced_hyperparameter_inside_its_interval_changes_nothing():
    lanes = jax.jit(jax.vmap(lambda beta: ia.iterate(adam(beta=beta), bowl, jnp.asarray(POINT), 3).params))
    known = [ia.iterate(adam(beta=beta), bowl, jnp.asarray(POINT), 3).params for beta in (0.0, 0.9)]
    np.testing.assert_allclose(lanes(jnp.asarray([0.0, 0.9])), known, rtol=1e-14)


def test_a_schedule_in_narrow_integers_finds_all_of_many_batches():
    m = 200
    batches = examples.batches(m=m)
    indices = np.array([3, 127, 64, 5])
    for dtype in (np.int8, np.uint8, np.uint64):
        wide, narrow = (
            [
                ia.iterate(
                    adam(), examples.batch_loss, examples.START, 4, batches=batches, schedule=schedule
                ).params,
                ia.vector_field(adam(), examples.batch_loss, batches=batches, schedule=schedule)(
                    3, examples.START
                ),
            ]
            for schedule in (indices, indices.astype(dtype))
        )
        for x, y in zip(wide, narrow, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("n", [jnp.int8(127), jnp.uint8(255)], ids=["int8", "uint8"])
def test_a_step_number_in_a_narrow_integer_does_not_wrap_round(n):
    field = ia.vector_field(adam(), examples.batch_loss, batches=examples.batches())
    expected = field(jnp.asarray(int(n)), examples.START)
    np.testing.assert_allclose(field(n, examples.START), expected, rtol=1e-14)
    np.testing.assert_allclose(jax.jit(field)(n, examples.START), expected, rtol=1e-13)


def test_a_traced_step_number_below_zero_gives_no_numbers():
    field = jax.jit(ia.vector_field(adam(), bowl))
    assert bool(jnp.all(jnp.isnan(field(-1, jnp.asarray(POINT)))))
    assert bool(jnp.all(jnp.isfinite(field(0, jnp.asarray(POINT)))))


def test_a_learning_rate_schedule_beyond_int32_stays_at_its_last_step():
    late = ia.Scheduled(ia.GradientDescent(0.1), lambda n: jnp.where(n < 0, 5.0, 1.0))
    field = ia.vector_field(late, bowl, order=0)
    np.testing.assert_allclose(field(2**31 + 5, jnp.asarray(POINT)), -CURVATURES * POINT)


def test_observing_so_many_steps_in_an_int8_is_observing_so_many_steps():
    seen = [
        ia.observe(adam(), bowl, jnp.asarray(POINT), steps, ["loss"], every=100, records=3)
        for steps in (jnp.asarray(120, jnp.int8), 120)
    ]
    jax.tree.map(np.testing.assert_array_equal, *seen)
    assert seen[0].n.tolist() == [0, 100, 120]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("x", [1e-12, 1e-7, 1e-3, 0.3, 0.99, 1.01, 30.0])
def test_the_norm_with_eps_outside_does_not_cancel(x, dtype):
    decimal.getcontext().prec = 60
    v, eps = np.asarray(x * 1e-3, dtype), np.asarray(1e-3, dtype)
    V, E = decimal.Decimal(float(v)), decimal.Decimal(float(eps))
    expected = float(V - E * (1 + V / E).ln())
    norm = lambda v: ia.perturbed_one_norm(v, eps, eps_in_sqrt=False)
    found = norm(jnp.asarray([v, -v]))
    np.testing.assert_allclose(found, 2 * expected, rtol=20 * float(jnp.finfo(dtype).eps))
    gradient = jax.grad(norm)(jnp.asarray([v]))[0]
    np.testing.assert_allclose(gradient, v / (v + eps), rtol=50 * float(jnp.finfo(dtype).eps))


def test_the_norm_with_eps_outside_is_twice_differentiable_at_zero_and_does_not_overflow():
    norm = lambda v: ia.perturbed_one_norm(v, 1e-3, eps_in_sqrt=False)
    np.testing.assert_allclose(jax.hessian(norm)(jnp.zeros(2)), 1e3 * np.eye(2), rtol=1e-12)
    huge = ia.perturbed_one_norm(jnp.asarray([1e10], jnp.float32), 1e-30, eps_in_sqrt=False)
    np.testing.assert_allclose(huge, 1e10, rtol=1e-6)


def test_a_mean_over_many_narrow_micro_batches_does_not_stop_at_256():
    ones = ia.accumulated_loss(lambda theta, batch: batch * theta, jnp.ones(1000, jnp.bfloat16))
    value, slope = jax.value_and_grad(ones)(jnp.ones((), jnp.bfloat16))
    assert value.dtype == slope.dtype == jnp.bfloat16
    assert (float(value), float(slope)) == (1, 1)


IN_32_BITS = """
import numpy as np, jax, jax.numpy as jnp, implicit_adam as ia
assert not jax.config.jax_enable_x64
loss = lambda theta: jnp.sum(theta**2) / 2
start = jnp.asarray([1.0, -0.5])

def refused(words, f, *args, **kwargs):
    try:
        f(*args, **kwargs)
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)

adam = ia.Adam(1e-3, 0.9, 0.99, 0.1, eps_in_sqrt=True)
refused("steps = 3000000000 is beyond", ia.smooth_flow, adam, loss, start, 3 * 10**9)
refused("save_at = 3000000000 is", ia.smooth_flow, adam, loss, start, 9, save_at=[3 * 10**9])
for n in (2**31 + 3, np.int64(2**31 + 3), np.uint32(2**31 + 3)):
    refused("is beyond", ia.vector_field(adam, loss), n, start)
refused("too close to 1", ia.Adam, 1e-3, 0.9, 0.9999999)
refused("too close to 1", ia.Adam, 1e-3, 0.9, np.float64(0.9999999))

# Once the memory has settled, the field of a phase does not depend on n any more.
rms = ia.RMSProp(1e-3, 0.6, 0.1, eps_in_sqrt=True)
field = ia.vector_field(rms, lambda t, x: jnp.sum((t - x) ** 2), batches=jnp.asarray([0.3, -0.4]))
early, late = field(jnp.asarray(1001), start), field(jnp.asarray(1_000_000_031), start)
np.testing.assert_allclose(late, early, rtol=1e-5)

# Looks times records would overflow, and a plain sum would drift.
tenth = {"tenth": lambda x: jnp.float32(0.1) + 0 * x}
seen = ia.observe(ia.GradientDescent(1e-7), lambda x: x**2, jnp.asarray(1.0), 300_000, tenth, records=10_000)
assert seen.n.dtype == jnp.int32 and (np.diff(seen.n) > 0).all()
assert seen.n[0] == 0 and 300_000 - 40 < seen.n[-1] <= 300_000
np.testing.assert_allclose(seen.mean["tenth"], 0.1, rtol=1e-6)
print("done")
"""


def test_with_32_bit_integers_no_count_wraps_round():
    run = subprocess.run([sys.executable, "-W", "error", "-c", IN_32_BITS], capture_output=True, text=True)
    assert run.stdout == "done\n", run.stderr


def test_these_tests_see_warnings_as_errors():
    with pytest.raises(ia.RoundingWarning):
        ia.iterate(ia.GradientDescent(1e-20), jnp.sum, jnp.ones(1), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ia.RoundingWarning)
        ia.iterate(ia.GradientDescent(1e-20), jnp.sum, jnp.ones(1), 1)
