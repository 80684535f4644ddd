"""The inputs of a run (optimizer, loss, start, batches and their order), checked and cast to one dtype."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from implicit_adam.checks.batches import check_batches, check_schedule
from implicit_adam.checks.losses import check_loss
from implicit_adam.checks.numbers import is_traced
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.parameters import check_params
from implicit_adam.objective import Objective, first_arguments, raveled_loss
from implicit_adam.programs.captured import digest, digest_of_arrays, trace
from implicit_adam.programs.products import check_products, has_custom_derivative, may_hide
from implicit_adam.rules.base import AbstractOptimizer, AbstractRule
from implicit_adam.rules.from_optax.checks import check_equation, check_runs
from implicit_adam.rules.from_optax.rate import warn_of_a_rate_twice
from implicit_adam.rules.from_optax.rule import Optax, as_optimizer
from implicit_adam.rules.from_optax.rule import raveled_transformation as on_vectors
from implicit_adam.types import Batches, Loss, Params, Scalar, Schedule, Vector, working_dtype
from implicit_adam.vectors import concatenated, ravel, unravel_like


class Inputs(NamedTuple):
    """The inputs of a run: a pytree of arrays, except for the loss, so that it can be passed to jit.

    `program` is a digest of the loss alone and, from `identified` on, of everything that is computed;
    compiled runs are cached by it and by the functions themselves.
    """

    rule: Any
    loss: Loss
    params: Params
    batches: Batches
    schedule: Schedule | None
    shifted: bool = False
    program: Hashable = None
    noise: Scalar | None = None

    @property
    def objective(self) -> Objective:
        """The mini-batch losses on flat vectors."""
        objective = raveled_loss(self.loss, self.params, self.batches, self.schedule)
        return objective._replace(shift=self.rule.h if self.shifted else None, noise=self.noise)

    @property
    def theta(self) -> Vector:
        """The start as a flat vector."""
        return concatenated(self.params)

    def unraveled(self, theta: Vector) -> Params:
        """A flat vector as a pytree like the start, in the start's dtype."""
        return jax.tree.map(
            lambda x, like: x.astype(like.dtype), unravel_like(self.params)(theta), self.params
        )


def checked_inputs(
    rule: Any,
    loss: Any,
    params: Any,
    batches: Any = None,
    schedule: Any = None,
    steps: int = 1,
    *,
    shifted: bool = False,
    products: bool = True,
    equation: bool = True,
) -> Inputs:
    """The inputs of a run; raises `ValueError` for anything that cannot be run.

    The hyperparameters are cast to the dtype of theta: that of the parameters, but at least float32.

    - `products`: whether Hessian-vector products will be taken; they must then be the gradient's derivatives.
    - `equation`: whether the optimizer must have a modified equation, as every rule has; `iterate` needs
      none.
    """
    rule = as_optimizer(rule)
    check_rule(rule, AbstractOptimizer)
    m = check_batches(batches)
    schedule = check_schedule(schedule, m, steps)
    params, batches = check_params(params), jax.tree.map(jnp.asarray, batches)
    program = checked_program(loss, params, batches, products=products and not shifted)
    if isinstance(rule, Optax):
        # An optimizer computes in the dtype of theta.
        computed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, working_dtype(x.dtype)), params)
        check_runs(rule.tx, computed)
        warn_of_a_rate_twice(rule, computed)
        if equation:
            check_equation(rule, computed)
    rule = rule.astype(working_dtype(jax.tree.leaves(params)[0].dtype))
    return Inputs(rule, loss, _nan_with(rule, params), batches, schedule, shifted, program)


def checked_program(loss: Loss, params: Params, batches: Batches, *, products: bool) -> Hashable:
    """A digest of what the loss computes, and of the arrays it captures; raises as `checked_inputs` does."""
    check_loss(loss, params, batches)
    arguments = first_arguments(params, batches)
    jaxpr = _traced(loss, lambda loss, *arguments: loss(*arguments), *arguments)
    # What a custom derivative captures appears only in the program of the derivative.
    derivative = [_traced(loss, _product, *arguments)] if has_custom_derivative(jaxpr) else []
    program = digest(jaxpr, *derivative)
    if products and may_hide(jaxpr):
        # The program alone does not say which of its arguments are parameters.
        key = (program, digest_of_arrays(*jax.tree.leaves(loss)), len(jax.tree.leaves(params)))
        check_products(loss, key, *arguments)
    return program


def _nan_with(rule: AbstractOptimizer, params: Params) -> Params:
    """The parameters, or NaN if a traced hyperparameter, which could not be checked before, is NaN."""
    wrong = [jnp.isnan(x) for x in jax.tree.leaves(rule) if is_traced(x)]
    if not wrong:
        return params
    wrong = jnp.any(jnp.stack(wrong))
    return jax.tree.map(lambda x: jnp.where(wrong, jnp.full_like(x, jnp.nan), x), params)


def identified(inputs: Inputs, *watching: Callable[[Params], Any]) -> Inputs:
    """The inputs with a digest of what loss and optimizer compute, and of the arrays they capture.

    The digest also covers the functions of the parameters that a run is `watching`. A compiled run is reused
    only for the same digest: if the data that a loss reads have changed, the next run sees the new data, and
    nothing is compiled again for unchanged code and data.
    """
    rule, jaxprs = inputs.rule, []
    if rule is not None:
        # This trace only identifies the optimizer, which may mix dtypes, as in optax.
        with jax.numpy_dtype_promotion("standard"):
            jaxprs.append(_traced(rule, _first_step, inputs.params))
    jaxprs.extend(_traced(f, lambda f, params: f(params), inputs.params) for f in watching)
    return inputs._replace(program=(inputs.program, digest(*jaxprs)))


def _traced(owner: Any, f: Callable[..., Any], *arguments: Any) -> Any:
    """The jaxpr of f(owner, *arguments), with the arrays among the owner's leaves as arguments."""
    arrays, rest = eqx.partition(owner, eqx.is_array)
    return trace(lambda arrays, *args: f(eqx.combine(arrays, rest), *args), arrays, *arguments)[0]


def _product(loss: Loss, params: Params, *batch: Any) -> Params:
    return jax.jvp(lambda params: jax.grad(loss)(params, *batch), (params,), (params,))[1]


def _first_step(rule: AbstractOptimizer, params: Params) -> Any:
    """All that an optimizer computes: its twin's step and, if it has them, features, kernels and readout."""
    theta, n = ravel(params), jnp.zeros((), int)
    twin = on_vectors(rule.transformation(), unravel_like(params))
    update, _ = twin.update(theta, twin.init(theta), theta)
    if not isinstance(rule, AbstractRule):
        return update
    weights = [(kernel.scale, kernel.decay) for kernel in rule.kernels(n)]
    return update, weights, rule.readout(rule.features(theta), theta, n)
