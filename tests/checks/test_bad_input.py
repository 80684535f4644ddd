"""Bad arguments are refused at the boundary with words: what came, what is allowed, how to mend it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.losses.problems import digits
from tests import examples
from tests.refusals import check_refused

START, RULE = examples.START, ia.Adam(0.1, 0.5, 0.6, 0.1, eps_in_sqrt=True)

HYPERPARAMETERS = {
    "h-zero": (lambda: ia.Adam(0.0), "h = 0"),
    "h-negative": (lambda: ia.GradientDescent(-1.0), "h = -1"),
    "h-nan": (lambda: ia.GradientDescent(np.nan), "h = nan"),
    "h-infinite": (lambda: ia.HeavyBall(np.inf), "h = inf"),
    "h-vector": (lambda: ia.GradientDescent(jnp.ones(3)), "vmap"),
    "beta-one": (lambda: ia.Adam(0.1, beta=1.0), "beta = 1"),
    "beta-negative": (lambda: ia.HeavyBall(0.1, -0.1), "beta = -0.1"),
    "rho-above-one": (lambda: ia.RMSProp(0.1, rho=1.5), "rho = 1.5"),
    "rho-nan": (lambda: ia.Adam(0.1, rho=np.nan), "rho = nan"),
    "rho-rounds-to-one": (lambda: ia.Adam(0.1, rho=jnp.asarray(1 - 1e-9, jnp.float32)), "becomes 1"),
    "eps-zero": (lambda: ia.Adam(0.1, eps=0.0, eps_in_sqrt=True), "eps = 0"),
    "eps-negative": (lambda: ia.RMSProp(0.1, eps=-1e-8), "eps = -1e-08"),
    "eps-underflows-at-once": (
        lambda: ia.Adam(0.1, eps=jnp.asarray(1e-60, jnp.float32), eps_in_sqrt=True),
        "becomes 0",
    ),
}


@pytest.mark.parametrize(("build", "words"), HYPERPARAMETERS.values(), ids=HYPERPARAMETERS.keys())
def test_hyperparameters_out_of_range_are_refused_on_construction(build, words):
    with pytest.raises(ValueError, match=words) as error:
        build()
    assert "must be" in str(error.value)


RUNS = {
    "integer-params": ({"params": jnp.arange(3)}, "int64.*floating"),
    "complex-params": ({"params": jnp.ones(3, complex)}, "complex128"),
    "empty-params": ({"params": {}}, "no numbers"),
    "empty-leaf": ({"params": jnp.ones(0)}, "no numbers"),
    "nan-start": ({"params": jnp.asarray([1.0, jnp.nan, 0.0])}, "NaN"),
    "infinite-start": ({"params": jnp.asarray([1.0, jnp.inf, 0.0])}, "infinite"),
    "mixed-dtypes": ({"params": (jnp.ones(3), jnp.ones(3, jnp.float32))}, "float32, float64"),
    "vector-loss": ({"loss": lambda t, _: t}, r"shape \(3,\)"),
    "integer-loss": ({"loss": lambda t, _: jnp.argmax(t)}, "int"),
    "loss-with-auxiliary": ({"loss": lambda t, _: (jnp.sum(t), t)}, "tuple"),
    "no-steps": ({"steps": 0}, "steps.*>= 1.*0"),
    "save-every-zero": ({"save_every": 0}, "save_every"),
    "save-every-no-divisor": ({"save_every": 3}, "divide"),
    "unequal-batches": ({"batches": (jnp.ones((3, 2)), jnp.ones((4, 2)))}, r"\[3, 4\]"),
    "scalar-batches": ({"batches": jnp.ones(())}, "leading axis"),
    "no-batches": ({"batches": jnp.ones((0, 3))}, "m >= 1"),
    "short-schedule": ({"schedule": jnp.zeros(3, int)}, "3 entries for 4 steps"),
    "learning-rate": ({"schedule": lambda n: 1e-3}, "belongs to the optimizer"),
    "float-schedule": ({"schedule": jnp.zeros(4)}, "integer"),
    "matrix-schedule": ({"schedule": jnp.zeros((4, 1), int)}, "1-D"),
    "schedule-too-large": ({"schedule": jnp.asarray([0, 1, 2, 3])}, "0 .. 2"),
    "schedule-negative": ({"schedule": jnp.asarray([0, -1, 2, 2])}, "-1"),
    "schedule-as-words": ({"schedule": "cyclic"}, "schedule"),
}  # fmt: skip


@pytest.mark.parametrize("run", [ia.iterate, ia.flow], ids=["iterate", "flow"])
@pytest.mark.parametrize(("change", "words"), RUNS.values(), ids=RUNS.keys())
def test_bad_runs_are_refused_before_any_compilation(run, change, words):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    arguments = {
        "rule": RULE, "loss": examples.batch_loss, "params": START, "steps": 4, "batches": examples.batches()
    } | change  # fmt: skip
    compiled.clear()
    with pytest.raises(ValueError, match=words):
        run(**arguments)
    assert not compiled


@pytest.mark.parametrize("eps", [1e-60, 1e-40], ids=["zero", "subnormal, which XLA flushes"])
def test_an_eps_that_vanishes_in_the_dtype_of_the_parameters_is_refused(eps):
    with pytest.raises(ValueError, match=r"underflows.*float32"):
        ia.iterate(
            ia.Adam(0.1, eps=eps, eps_in_sqrt=True), lambda t: jnp.sum(t**2), START.astype(jnp.float32), 4
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_decay_that_becomes_one_in_the_dtype_of_the_arithmetic_is_refused(dtype):
    rule = ia.Adam(0.1, rho=1 - 1e-9, eps=1e-3, eps_in_sqrt=True)
    with pytest.raises(ValueError, match=r"rho = 1 .*float32"):
        ia.iterate(rule, lambda t: jnp.sum(t**2), START.astype(dtype), 4)


@pytest.mark.parametrize("twin", [False, True], ids=["rule", "optax"])
@pytest.mark.parametrize("bad", [[0, 1, 3, 0], [0, -1, 1, 0]], ids=["too large", "negative"])
def test_a_traced_schedule_out_of_range_is_flagged(bad, twin):
    """It cannot be looked at; it must not pass for another mini-batch."""
    rule = ia.Optax(0.1, ia.Adam(1.0, 0.5, 0.6, 0.1, eps_in_sqrt=True).transformation()) if twin else RULE

    @jax.jit
    def finite(schedule):
        kwargs = {"batches": examples.batches(), "schedule": schedule}
        runs = [run(rule, examples.batch_loss, START, 4, **kwargs) for run in (ia.iterate, ia.flow)]
        return [run.finite for run in runs]

    assert all(finite(jnp.asarray([0, 1, 2, 0])))
    assert not any(finite(jnp.asarray(bad)))


@pytest.mark.parametrize("twin", [False, True], ids=["rule", "optax"])
def test_a_traced_step_beyond_the_schedule_gives_nan(twin):
    rule = ia.Optax(0.1, ia.Adam(1.0, 0.5, 0.6, 0.1, eps_in_sqrt=True).transformation()) if twin else RULE
    field = ia.vector_field(rule, examples.batch_loss, batches=examples.batches(), schedule=jnp.arange(3))
    assert jnp.isfinite(jax.jit(field)(jnp.asarray(2), START)).all()
    assert jnp.isnan(jax.jit(field)(jnp.asarray(3), START)).all()


def test_a_window_is_a_positive_count():
    with pytest.raises(ValueError, match="window"):
        ia.Optax(0.1, ia.Adam(1.0).transformation(), window=0)


TYPES = """
import jax.numpy as jnp
import numpy as np
import implicit_adam as ia
rule, loss, start = ia.Adam(0.1), lambda t: jnp.sum(t**2), jnp.ones(2)
assert ia.iterate(rule, loss, start, np.int64(4)).t.shape == (5,)
CALLS = [
    (lambda: ia.iterate(rule, loss, start, 4.0), "integer >= 1, got 4.0"),
    (lambda: ia.flow(rule, loss, start, True), "got True"),
    (lambda: ia.iterate(rule, loss, start, np.int64(4), save_every=np.int32(3)), "divide"),
    (lambda: ia.flow("adam", loss, start, 4), "ia.Adam"),
    (lambda: ia.vector_field("adam", loss), "ia.Adam"),
    (lambda: ia.vector_field(rule, loss, order=True), "order"),
    (lambda: ia.flow(rule, loss, start, 4, order=1.5), "from 0 (leading flow) to 3, got 1.5"),
    (lambda: ia.flow(rule, loss, {"a": "one"}, 4), "str"),
    (lambda: ia.convergence(rule, loss, start, horizon=1.0, step_counts=(10.0, 20.0, 30.0)), "integer"),
    (lambda: ia.convergence(rule, loss, start, horizon=1.0, step_counts=(10, 20, 30), orders=1), "orders"),
    (lambda: ia.flow(rule, loss, start, 4, solver="heun"), "diffrax.Heun()"),
    (lambda: ia.Scheduled(lambda n: 1.0, rule), "are swapped"),
    (lambda: ia.Scheduled(rule, 0.5), "function of the step number"),
    (lambda: ia.Scheduled(ia.Optax(0.1, rule.transformation()), abs), "ia.Adam"),
    (lambda: ia.Adam(abs), "ia.Scheduled"),
]
"""


def test_wrong_types_are_refused_in_words_too():
    """Outside pytest, where no type checker stands before our own words."""
    check_refused(TYPES)


FIELDS = {
    "order": (lambda: ia.vector_field(RULE, examples.full_loss, order=4), "order"),
    "limit-order": (lambda: ia.limiting_field(RULE, examples.full_loss, order=-1), "order"),
    "n-negative": (lambda: ia.vector_field(RULE, examples.full_loss)(-1, START), "n, the step number"),
    "n-float": (lambda: ia.vector_field(RULE, examples.full_loss)(1.0, START), "integer"),
    "n-beyond-schedule": (
        lambda: ia.vector_field(
            RULE, examples.batch_loss, batches=examples.batches(), schedule=jnp.zeros(4, int)
        )(4, START),
        r"0 \.\. 3",
    ),
    "params": (lambda: ia.vector_field(RULE, examples.full_loss)(0, jnp.arange(3)), "int64"),
    "bias-params": (lambda: ia.bias(RULE, examples.full_loss, jnp.arange(3)), "int64"),
    "bias-loss": (lambda: ia.bias(RULE, lambda t: t, START), "shape"),
    "norm-eps": (lambda: ia.perturbed_one_norm(START, 0.0), "eps"),
}


@pytest.mark.parametrize(("call", "words"), FIELDS.values(), ids=FIELDS.keys())
def test_bad_fields_and_observables_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


STUDIES = {
    "two-counts": ({"step_counts": (10, 20)}, "three"),
    "repeated-counts": ({"step_counts": (10, 10, 20)}, "increasing"),
    "decreasing-counts": ({"step_counts": (40, 20, 10)}, "increasing"),
    "zero-count": ({"step_counts": (0, 10, 20)}, ">= 1"),
    "no-horizon": ({"horizon": 0.0}, "horizon"),
    "infinite-horizon": ({"horizon": np.inf}, "horizon"),
    "order": ({"orders": (0, 5)}, "order"),
    "no-orders": ({"orders": ()}, "orders"),
    "short-schedule": ({"schedule": jnp.zeros(30, int)}, "30 entries for 40"),
}


@pytest.mark.parametrize(("change", "words"), STUDIES.values(), ids=STUDIES.keys())
def test_bad_studies_are_refused(change, words):
    arguments = {"horizon": 0.1, "step_counts": (10, 20, 40), **change}
    with pytest.raises(ValueError, match=words):
        ia.convergence(RULE, examples.full_loss, START, **arguments)


@pytest.mark.parametrize("kwargs", [{"samples": 0}, {"samples": 5000}, {"samples": 10}, {"batches": 0}])
def test_bad_sizes_of_the_digits_problem_are_refused(kwargs):
    with pytest.raises(ValueError, match="must"):
        digits(**kwargs)
