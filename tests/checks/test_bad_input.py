"""Bad arguments are refused at the boundary with words: what came, what is allowed, how to mend it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
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


def quadratic(tree):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))


def of_batch(params, batch):
    return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)


class Tensor:
    """Named as torch's own, which is told by its type's name and not imported."""


Tensor.__module__ = "torch"
X, Y = jnp.ones((4, 8, 3)), jnp.ones((4, 8))
MLP = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
SPLIT = r"eqx\.partition.*nnx\.split"

LEAVES = {
    "module": (MLP, rf"params\.activation is a .*{SPLIT}"),
    "random key": ({"w": START, "key": jax.random.key(0)}, rf"params\['key'\] has the dtype key.*{SPLIT}"),
    "counter": ({"w": START, "n": 3}, rf"params\['n'\] has the dtype int.*astype\(float\).*{SPLIT}"),
    "flag": ({"w": START, "flag": True}, SPLIT),
    "name": ([START, "adam"], rf"params\[1\] is a str.*{SPLIT}"),
    "complex": ({"w": START.astype(complex)}, r"\['w'\] has the dtype complex128.*'re': x\.real"),
    "tensor": ({"w": Tensor()}, r"\['w'\] is a Tensor.*detach\(\)\.cpu\(\)\.numpy\(\)"),
    "function": (quadratic, "loss and params swapped"),
    "not finite": ({"w": START * jnp.inf}, r"params\['w'\] holds NaN or infinite"),
    "two dtypes": ([START, START.astype(jnp.float32)], r"jnp\.asarray\(x, 'float64'\)"),
}


@pytest.mark.parametrize(("params", "words"), LEAVES.values(), ids=LEAVES.keys())
def test_what_is_no_parameter_is_named_by_its_place_with_the_cure(params, words):
    with pytest.raises(ValueError, match=words):
        ia.iterate(RULE, quadratic, params, 4)


def test_the_cure_works():
    params, rest = eqx.partition(MLP, eqx.is_inexact_array)
    model_loss = lambda params: jnp.sum(eqx.combine(params, rest)(jnp.ones(3)) ** 2)
    run = ia.iterate(RULE, model_loss, params, 4)
    assert bool(run.finite)
    batches = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    np.testing.assert_array_equal(stacked["x"], X)
    re_im = {"re": START, "im": START}
    ia.iterate(RULE, lambda p: jnp.sum(jnp.abs(jax.lax.complex(p["re"], p["im"])) ** 2), re_im, 2)


BATCHES = {
    "list of dicts": (
        [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)],
        r"list of 4 mini-batches.*jnp\.stack",
    ),
    "ragged list": (
        [{"x": X[0], "y": Y[0]}, {"x": X[0, :2], "y": Y[0, :2]}],
        r"jnp\.stack.*smaller last one",
    ),
    "list of arrays": (list(X), r"list of 4 arrays.*jnp\.stack"),
    "loader": (({"x": x} for x in X), r"generator.*jnp\.stack.*loader"),
    "tensors": ({"x": Tensor(), "y": Tensor()}, r"batches\['x'\] is a Tensor.*numpy"),
}


@pytest.mark.parametrize(("batches", "words"), BATCHES.values(), ids=BATCHES.keys())
def test_batches_of_another_kind_are_told_to_be_stacked(batches, words):
    with pytest.raises(ValueError, match=words):
        ia.iterate(RULE, of_batch, START, 4, batches=batches)


def test_a_list_of_two_arrays_is_a_batch_of_two_parts():
    loss = lambda params, batch: jnp.mean((batch[0] @ params - batch[1]) ** 2)
    as_list = ia.iterate(RULE, loss, START, 4, batches=[X, Y])
    as_tuple = ia.iterate(RULE, loss, START, 4, batches=(X, Y))
    np.testing.assert_array_equal(as_list.params, as_tuple.params)


WITHOUT_BATCHES = {
    "iterate": lambda: ia.iterate(RULE, of_batch, START, 4),
    "flow": lambda: ia.flow(RULE, of_batch, START, 4),
    "regimes": lambda: ia.regimes(RULE, of_batch, START),
    "bias": lambda: ia.bias(RULE, of_batch, START),
    "sharpness": lambda: ia.sharpness(of_batch, START),
    "preconditioned sharpness": lambda: ia.preconditioned_sharpness(RULE, of_batch, START),
    "limiting field": lambda: ia.limiting_field(RULE, of_batch)(START),
    "observe": lambda: ia.observe(RULE, of_batch, START, 4, "loss"),
    "modified loss": lambda: ia.modified_losses.adam_small_eps(RULE, of_batch)(START),
    "penalty": lambda: ia.penalties.one_norm(of_batch, 0.1, 0.1)(START),
    "training regime": lambda: ia.training_regime(ia.iterate(RULE, quadratic, START, 4), of_batch),
}


@pytest.mark.parametrize("call", WITHOUT_BATCHES.values(), ids=WITHOUT_BATCHES.keys())
def test_a_loss_of_batches_without_batches_is_told_what_to_do(call):
    with pytest.raises(ValueError, match=r"'batch'.*Pass `batches`.*jnp\.mean\(jax\.vmap\(loss"):
        call()


def test_a_loss_of_params_alone_with_batches_is_told_what_to_do():
    with pytest.raises(ValueError, match=r"second argument, or leave `batches` out"):
        ia.iterate(RULE, quadratic, START, 4, batches=X)


CALLS = {
    "class for a rule": (lambda: ia.iterate(ia.Adam, quadratic, START, 4), r"Adam\(1e-3\)"),
    "optax function for a rule": (lambda: ia.iterate(optax.adam, quadratic, START, 4), r"adam\(1e-3\)"),
    "transformation where a rule is needed": (
        lambda: ia.stability_threshold(optax.adam(0.1)),
        "got a GradientTransformation",
    ),
    "array for a loss": (lambda: ia.sharpness(START, START), "loss must be a function"),
    "word for a hyperparameter": (lambda: ia.Adam("0.1"), "real number, got '0.1'"),
    "nothing for a hyperparameter": (lambda: ia.GradientDescent(None), "real number, got None"),
    "complex hyperparameter": (lambda: ia.GradientDescent(0.1 + 1j), "real number"),
    "flag for a hyperparameter": (lambda: ia.GradientDescent(True), "real number, got True"),
    "word for eps": (lambda: ia.perturbed_one_norm(START, "small"), "eps must be a number"),
    "integer gradient": (lambda: ia.perturbed_one_norm(jnp.arange(3), 0.1), "int64.*cannot hold eps"),
    "word for a weight": (lambda: ia.penalties.one_norm(quadratic, "a", 0.1), "weight must be"),
    "word for a horizon": (
        lambda: ia.convergence(RULE, quadratic, START, horizon="1", step_counts=(10, 20, 40)),
        "horizon must",
    ),
    "one step count": (
        lambda: ia.convergence(RULE, quadratic, START, horizon=1.0, step_counts=10),
        "least three",
    ),
    "ragged schedule": (
        lambda: ia.iterate(RULE, of_batch, START, 2, batches={"x": X, "y": Y}, schedule=[[0], [0, 1]]),
        "ragged",
    ),
    "number for a controller": (
        lambda: ia.flow(RULE, quadratic, START, 4, stepsize_controller=1e-3),
        r"diffrax\.PIDController",
    ),
    "word for a flag of a rule": (
        lambda: ia.Adam(0.1, eps_in_sqrt="outside"),
        "eps_in_sqrt, must be True or False",
    ),
    "word for shifted gradients": (
        lambda: ia.flow(RULE, quadratic, START, 4, shifted="no"),
        "shifted must be True or False",
    ),
    "word for replacement": (
        lambda: ia.carried_flow(RULE, quadratic, START, 40, replacement="no"),
        "replacement must be True or False",
    ),
    "word for memories": (
        lambda: ia.carried_flow(RULE, quadratic, START, 40, memories="no"),
        "memories must be True or False",
    ),
    "word for the smallest eigenvalue": (
        lambda: ia.sharpness(quadratic, START, smallest="no"),
        "smallest must be True or False",
    ),
    "word for the smallest preconditioned eigenvalue": (
        lambda: ia.preconditioned_sharpness(RULE, quadratic, START, smallest="no"),
        "smallest must be True or False",
    ),
    "word for carried memory": (
        lambda: ia.convergence(RULE, quadratic, START, horizon=1.0, step_counts=(10, 20, 40), carried="no"),
        "carried must be True or False",
    ),
    "every so many steps and chosen ones": (
        lambda: ia.smooth_flow(RULE, quadratic, START, 4, save_every=2, save_at=(2, 4)),
        "not both",
    ),
    "one step to save at": (
        lambda: ia.smooth_flow(RULE, quadratic, START, 4, save_at=5),
        "save_at must be",
    ),
    "rule as a transformation": (lambda: ia.Optax(0.1, RULE), "optax transformation.*no wrapping"),
    "rule where only optax is": (lambda: ia.optax_vector_field(RULE, quadratic, 0.1), "optax transformation"),
    "schedule of many factors": (lambda: ia.Scheduled(RULE, lambda n: jnp.ones(2)), r"one number.*\(2,\)"),
    "no folder of data": (lambda: ia.datasets.cifar("cifar10", None), "folder must be"),
    "number for a sweep": (lambda: ia.plotting.plot_sweep(3, ["value"]), r"ia\.sweep"),
    "run for a study": (lambda: ia.plotting.plot_convergence(START), r"ia\.convergence"),
    "list for a sweep's function": (lambda: ia.sweep([1.0], {"x": [1.0]}), r"ia\.sweep\(fn, grid\)"),
    "word from a sweep's function": (
        lambda: ia.sweep(lambda x: "a", {"x": [1.0]}, progress=False),
        "fn returns a str",
    ),
    "key from a sweep's function": (
        lambda: ia.sweep(lambda x: jax.random.key(0), {"x": [1.0]}, progress=False),
        "fn returns a key.*key_data",
    ),
    "ragged axis of a sweep": (lambda: ia.sweep(lambda x: x, {"x": [[1.0], [1.0, 2.0]]}), "'x' are ragged"),
    "number for a mesh": (
        lambda: ia.sweep(lambda x: x, {"x": [1.0]}, mesh=4, progress=False),
        r"jax\.make_mesh",
    ),
    "number for a folder": (
        lambda: ia.sweep(lambda x: x, {"x": [1.0]}, checkpoint=3, progress=False),
        "checkpoint must be the name",
    ),
    "cost of other names": (
        lambda: ia.sweep(lambda x: x, {"x": [1.0]}, cost=lambda h: h, progress=False),
        "arguments of cost",
    ),
    "cost that is no number": (
        lambda: ia.sweep(lambda x: x, {"x": [1.0]}, cost=lambda x: np.nan, progress=False),
        "cost must give a finite",
    ),
    "word for progress": (
        lambda: ia.sweep(lambda x: x, {"x": [1.0]}, progress="no"),
        "progress must be True",
    ),
    "array for a run": (lambda: ia.training_regime(START, quadratic), r"ia\.iterate"),
}


@pytest.mark.parametrize(("call", "words"), CALLS.values(), ids=CALLS.keys())
def test_arguments_of_a_wrong_kind_never_reach_jax(call, words):
    with pytest.raises(ValueError, match=words):
        call()
