"""The curvature that an optimizer feels: the top eigenvalue of the Hessian, plain or preconditioned.

By Lanczos' iteration (matfree) on Hessian-vector products; no Hessian is ever formed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.checks import check_batches, check_count, check_loss, check_params, check_rule
from implicit_adam.fields.closed_form import check_has_limit
from implicit_adam.objective import Objective, first_arguments, ravel, raveled
from implicit_adam.observables import denominator
from implicit_adam.products import check_products
from implicit_adam.reprs import line
from implicit_adam.rules.base import AbstractRule
from implicit_adam.training import checked_training
from implicit_adam.types import Batches, Loss, Params, Scalar, Vector


class TopEigenvalue(NamedTuple):
    """The largest eigenvalue (algebraic) of a symmetric operator A.

    - `value`: lambda; `vector`: a unit eigenvector, a pytree like the parameters.
    - `residual`: ||A v - lambda v||, which bounds the distance of `value` to an eigenvalue of A.
    """

    value: Scalar
    vector: Params
    residual: Scalar

    def __repr__(self) -> str:
        return line(self)


def sharpness(
    loss: Loss, params: Params, *, batches: Batches = None, iterations: int = 40, seed: int = 0
) -> TopEigenvalue:
    """The largest eigenvalue of Hess E at params, E the mean over the mini-batches if there are any.

    Full-batch gradient descent of step h is stable below 2/h (Cohen et al. 2021). `iterations` Hessian-vector
    products from a random start drawn from `seed`; the residual says whether they were enough. Needs matfree.
    Raises `ValueError` for bad parameters, losses and batches, `ImportError` without matfree.
    """
    check_batches(batches)
    params = check_params(params)
    check_loss(loss, params, batches)
    check_products(loss, *first_arguments(params, batches))
    theta, objective = ravel(params), raveled(loss, params, batches).full_batch()
    return _top_eigenvalue(_hessian(objective, theta), objective, theta, iterations, seed)


def preconditioned_sharpness(
    rule: AbstractRule,
    loss: Loss,
    params: Params,
    *,
    batches: Batches = None,
    iterations: int = 40,
    seed: int = 0,
) -> TopEigenvalue:
    """The largest eigenvalue of P^-1 Hess E, P = diag(R) the late update's denominator (Cohen et al. 2022).

    R = sqrt(g^2 + eps) for Adam with eps inside, |g| + eps outside, 1 - beta for heavy ball. Computed for the
    symmetric R^-1/2 Hess E R^-1/2, whose eigenvector is returned. To be compared with
    `stability_threshold(rule)`. Arguments and errors as in `sharpness`; a rule without a limit is refused.
    """
    check_has_limit(rule)
    training = checked_training(rule, loss, params, batches)
    theta, objective = training.theta, training.objective.full_batch()
    hessian = _hessian(objective, theta)
    scale = 1 / jnp.sqrt(denominator(training.rule, objective, theta))
    return _top_eigenvalue(lambda v: scale * hessian(scale * v), objective, theta, iterations, seed)


def stability_threshold(rule: AbstractRule) -> Scalar:
    """(2 + 2 beta) / ((1 - beta) h): above this preconditioned sharpness the late update oscillates, growing.

    beta is the decay of the memory of the gradient (0 for gradient descent and RMSProp); derived for a frozen
    preconditioner. Raises `ValueError` where that memory is not one exponential (Nesterov, NAdam, Lion, ..).
    """
    check_rule(rule, AbstractRule)
    memory = rule.kernels(jnp.inf)[0]
    if memory.decay.size != 1:
        name = type(rule).__name__
        msg = f"the threshold is known for one exponential memory of the gradient, not for {name}"
        raise ValueError(msg)
    (beta,) = memory.decay
    return (2 + 2 * beta) / ((1 - beta) * rule.h)


def _hessian(objective: Objective, theta: Vector) -> Callable[[Vector], Vector]:
    _, products = objective.linearize(theta)
    return lambda v: products(v[None])[0]


def _top_eigenvalue(
    A: Callable[[Vector], Vector], objective: Objective, theta: Vector, iterations: int, seed: int
) -> TopEigenvalue:
    lanczos = _matfree_eigenpairs(min(check_count("iterations", iterations), theta.size))
    start = jax.random.normal(jax.random.key(seed), theta.shape, theta.dtype)
    values, vectors = lanczos(A, start)
    value, v = values[-1], vectors[-1]
    return TopEigenvalue(value, objective.unravel(v), jnp.linalg.norm(A(v) - value * v))


def _matfree_eigenpairs(iterations: int) -> Callable[..., tuple[Float[Array, " k"], Any]]:
    """Ritz values in ascending order and their vectors as rows."""
    try:
        from matfree import decomp, eig
    except ImportError as error:
        msg = "eigenvalues come from matfree: pip install 'implicit-adam[spectra]'"
        raise ImportError(msg) from error
    return eig.eigh_partial(decomp.tridiag_sym(iterations, reortho="full"))
