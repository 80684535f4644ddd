"""Parameters, batches, losses and arguments of a wrong kind are refused in words before they reach JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_adam as ia
from tests import examples

START, RULE = examples.START, ia.Adam(0.1, 0.5, 0.6, 0.1, eps_in_sqrt=True)


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
