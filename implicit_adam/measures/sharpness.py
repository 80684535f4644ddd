"""The sharpness that an optimizer feels: extreme eigenvalues of the Hessian, plain or preconditioned."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from implicit_adam.bias.bias import late_denominator
from implicit_adam.checks.batches import check_batches
from implicit_adam.checks.numbers import check_count, check_switch
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.parameters import check_params
from implicit_adam.eigenpairs import Rows, largest_eigenpairs
from implicit_adam.fields.full_batch.closed_form import check_has_limit
from implicit_adam.inputs import Inputs, checked_inputs, checked_program, identified
from implicit_adam.reprs import line
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.linear import check_linear, denominator, remembered
from implicit_adam.rules.opt_state import check_seen
from implicit_adam.rules.scheduled import unscheduled
from implicit_adam.types import Batches, Loss, Params, Scalar, Vector
from implicit_adam.vectors import ravel, unravel_like


class TopEigenvalue(NamedTuple):
    """The k largest (algebraic) eigenvalues of a symmetric operator A, or its k smallest.

    - `value`: lambda, the extreme one first; `vector`: a unit eigenvector v, a pytree like the parameters.
    - `residual`: ||A v - lambda v||; an eigenvalue of A lies this close to `value` (up to rounding in A v).

    For k > 1 every array has a leading axis k.
    """

    value: Scalar
    vector: Params
    residual: Scalar

    def __repr__(self) -> str:
        return line(self)


def sharpness(
    loss: Loss,
    params: Params,
    *,
    batches: Batches = None,
    k: int = 1,
    smallest: bool = False,
    start: Params | None = None,
    iterations: int = 40,
    seed: int = 0,
) -> TopEigenvalue:
    """The largest eigenvalue of Hess E at params, where E is the mean over the mini-batches if there are any.

    Full-batch gradient descent with step size h is stable below 2/h (Cohen et al. 2021).

    - `k`: how many of the largest eigenvalues; a repeated one is counted as often as it is repeated.
    - `smallest`: return the k smallest (algebraic) ones instead.
    - `start`: a vector to start from, a pytree like params, or several with a leading axis. The `vector` of a
      result at a nearby point saves iterations. One more vector is drawn at random, since another eigenvalue
      may have become the largest.
    - `iterations`: Hessian-vector products for each starting vector (k random ones without `start`), all
      kept in memory. As many as there are parameters give the exact value; the residual tells whether fewer
      were enough.
    - `seed`: of the random vectors.

    Can be jitted and vmapped; the derivative of `value` is that of the exact eigenvalue. NaN where the
    Hessian is not finite. Raises `ValueError` for bad parameters, losses, batches and starts.
    """
    smallest = check_switch("smallest", smallest)
    check_batches(batches)
    params = check_params(params)
    program = checked_program(loss, params, batches, products=True)
    inputs = identified(Inputs(None, loss, params, batches, None, program=program))
    return extreme(inputs, None, search_for(params, k, start, iterations, seed), smallest=smallest)


def preconditioned_sharpness(
    rule: AbstractRule,
    loss: Loss,
    params: Params,
    *,
    opt_state: Any = None,
    batches: Batches = None,
    k: int = 1,
    smallest: bool = False,
    start: Params | None = None,
    iterations: int = 40,
    seed: int = 0,
) -> TopEigenvalue:
    """The largest eigenvalue of P^-1 Hess E, with P = diag(R) the update's denominator (Cohen et al. 2022).

    R = sqrt(v + eps) for Adam with eps inside the root, sqrt(v) + eps outside, 1 - beta for heavy ball. In
    general, 1/R is the derivative of the update by the remembered gradient (`rules.linear`), with other
    memories (v) held fixed.

    - `opt_state`: the optimizer's state after some steps, from `rule.transformation()` or the optax function
      of the same name. Its memories give R: for Adam its own bias-corrected v, and R times 1 - beta^steps.
      **Without it, R is that of an optimizer that has stayed at params forever, v = g^2 of the full-batch
      gradient there.** In training that can be off by orders of magnitude, above all at the edge of stability
      or with mini-batches.

    Computed for the symmetric R^-1/2 Hess E R^-1/2, whose eigenvectors are returned. Compare the value with
    `stability_threshold(rule)`; a learning-rate schedule enters there, not here. Other arguments and errors
    as in `sharpness`. Also raises `ValueError` for a rule without a limit if `opt_state` is not given, and
    for the state of another rule.
    """
    smallest = check_switch("smallest", smallest)
    check_rule(rule, AbstractRule)
    inputs = checked_inputs(rule, loss, params, batches)
    # Any step will do, since the schedule only changes the step size.
    inputs = identified(inputs._replace(rule=unscheduled(inputs.rule, 0)))
    check_linear(inputs.rule)
    search = search_for(inputs.params, k, start, iterations, seed)
    if opt_state is None:
        check_has_limit(inputs.rule)
        return _late_extreme(inputs, search, smallest=smallest)
    check_seen(opt_state)
    return _remembered_extreme(inputs, opt_state, search, smallest=smallest)


@eqx.filter_jit
def _late_extreme(inputs: Inputs, search: "Search", *, smallest: bool) -> TopEigenvalue:
    R = late_denominator(inputs.rule, inputs.objective.full_batch(), inputs.theta)
    return extreme(inputs, 1 / jnp.sqrt(R), search, smallest=smallest)


@eqx.filter_jit
def _remembered_extreme(inputs: Inputs, opt_state: Any, search: "Search", *, smallest: bool) -> TopEigenvalue:
    g = inputs.objective.full_batch().gradients(inputs.theta)[0]
    s, n = remembered(inputs.rule, opt_state, g)
    R = denominator(inputs.rule, s, inputs.theta, n)
    return extreme(inputs, 1 / jnp.sqrt(R), search, smallest=smallest)


class Search(NamedTuple):
    """A search for k eigenvalues: vectors to start from, iterations for each, a random vector in reserve."""

    k: int
    starts: Rows
    iterations: int
    spare: Vector


def search_for(params: Params, k: int, start: Any, iterations: int, seed: int) -> Search:
    theta = ravel(params)
    if check_count("k", k) > theta.size:
        msg = f"k = {k} eigenvalues of {theta.size} parameters do not exist; k must be at most that"
        raise ValueError(msg)
    known = _starts(start, params)
    count = min(max(1, k - len(known)), theta.size)
    starts, spare = _with_random_rows(known, jax.random.key(seed), count)
    return Search(k, starts, check_count("iterations", iterations), spare)


@partial(jax.jit, static_argnums=2)
def _with_random_rows(known: Rows, key: Array, count: int) -> tuple[Rows, Vector]:
    """At most p rows, of which `count` are random, and one more."""
    p = known.shape[1]
    drawn = jax.random.normal(key, (count + 1, p), known.dtype)
    return jnp.concatenate([known, drawn[:-1]])[:p], drawn[-1]


@eqx.filter_jit
def extreme(inputs: Inputs, scale: Vector | None, search: Search, *, smallest: bool) -> TopEigenvalue:
    """Extreme eigenvalues of Hess E, or with `scale` of diag(scale) Hess E diag(scale)."""
    _, products = inputs.objective.full_batch().linearize(inputs.theta)
    sign = -1.0 if smallest else 1.0

    def A(v: Vector) -> Vector:
        if scale is None:
            return sign * products(v[None])[0]
        return sign * scale * products((scale * v)[None])[0]

    found = largest_eigenpairs(A, search.starts, search.spare, search.k, search.iterations)
    values, vectors, residuals = (x[0] for x in found) if search.k == 1 else found
    unravel = unravel_like(inputs.params)
    vector = unravel(vectors) if search.k == 1 else jax.vmap(unravel)(vectors)
    return TopEigenvalue(sign * values, vector, residuals)


def _starts(start: Any, params: Params) -> Rows:
    """The given starting vectors as rows (k, p)."""
    if start is None:
        return jnp.zeros((0, ravel(params).size), ravel(params).dtype)
    leaves, structure = jax.tree.flatten(params)
    given = [jnp.asarray(x, ravel(params).dtype) for x in jax.tree.leaves(start)]
    if [x.shape for x in given] == [x.shape for x in leaves]:
        given = [x[None] for x in given]
    rows = given[0].shape[:1] if given else ()
    if jax.tree.structure(start) != structure or [x.shape for x in given] != [rows + x.shape for x in leaves]:
        msg = (
            "start must be a pytree like params, or one with a leading axis that counts vectors, such as the "
            f"`vector` of an earlier result; got the shapes {[x.shape for x in given]} for "
            f"{[x.shape for x in leaves]}"
        )
        raise ValueError(msg)
    return jnp.concatenate([x.reshape(len(x), -1) for x in given], axis=1)
