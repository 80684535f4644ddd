"""The modified field of full-batch training in closed form: Remark 3.2 for every rule, and n to infinity.

With one loss, and kernels of the same mass at every step, the update frozen at theta is the same F at every
step. Then the lagged displacements are v_k = (n-k+c) F, c = 1/2 for the flow, and one Hessian-vector product
D = Hess E . F is enough for the whole history; the sums over k are the scalars

    mass_i = sum_k w_i(n, k),       lag_i = sum_k w_i(n, k) (n-k)

    DF[v] = sum_i dphi/ds_i (lag_i + c mass_i) psi_i'(g) D + c dphi/dtheta F

For Adam this is Remark 3.2, and with n = infinity eq. (3)-(4). As n grows the masses of *all* kernels
settle, so the limit exists for others too (heavy ball, RMSProp without bias correction).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from implicit_adam.checks.optimizers import check_rule
from implicit_adam.fields.full_batch.lag_moments import LagMoments, lag_moments
from implicit_adam.fields.full_batch.second_order import second_order_terms
from implicit_adam.fields.series import Series
from implicit_adam.fields.terms import Terms
from implicit_adam.objective import Objective
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.contract import frozen_update_is_steady, settles
from implicit_adam.rules.from_optax.kernel_form import KernelForm
from implicit_adam.rules.from_optax.rule import Optax, as_optimizer
from implicit_adam.rules.kernels import HasKernels, lag_moment, mass
from implicit_adam.types import Scalar, StepNumber, Vector


def check_has_limit(rule: Any) -> None:
    """Raise `ValueError` if there is no limit n to infinity: it needs a rule whose memory fades."""
    if isinstance(as_optimizer(rule), Optax):
        msg = (
            "this is computed from the features and kernels of a rule such as ia.Adam in the limit n to "
            "infinity; of an optax transformation there is limiting_field, or vector_field at a late step n"
        )
        raise ValueError(msg)  # noqa: TRY004
    check_rule(rule, AbstractRule)
    if not has_limit(rule):
        msg = (
            f"{type(rule).__name__} has no limit for n to infinity: its memory never fades, or its update "
            "keeps changing with n, as on a schedule; use vector_field at a step n"
        )
        raise ValueError(msg)


def has_limit(rule: HasKernels) -> bool:
    """Whether the rule forgets its start, so that full-batch updates frozen at one point have a limit."""
    if isinstance(rule, KernelForm):
        return rule.settled
    kernels = eqx.filter_eval_shape(lambda rule: rule.kernels(0), rule)
    return all(kernel.forgets for kernel in kernels) and settles(rule)


def has_closed_form(rule: HasKernels) -> bool:
    """Whether full-batch updates frozen at one point are the same at every step."""
    return rule.steady if isinstance(rule, KernelForm) else frozen_update_is_steady(rule)


def closed_form_terms(
    rule: HasKernels,
    objective: Objective,
    order: int,
    *,
    flow: bool,
    moments: Callable[[HasKernels, StepNumber], LagMoments] = lag_moments,
) -> Terms:
    """The terms for one loss, up to order 2: at n if there is a closed form, at `jnp.inf` for any limit."""
    if order == 2:
        return second_order_terms(rule, objective, flow=flow, moments=moments)
    c, (applied, features, readout) = 1 / 2 if flow else 0.0, _by_leaves(rule, objective)

    def at(n: StepNumber) -> Callable[[Vector], Series]:
        kernels = rule.kernels(n)
        masses = [mass(kernel, n) for kernel in kernels]
        lags = [lag_moment(kernel, n) for kernel in kernels]

        def remembered(g: Any) -> tuple[Any, ...]:
            return tuple(_times(mass, psi) for mass, psi in zip(masses, features(g), strict=True))

        def frozen(g: Any, theta: Any) -> Any:
            return readout(remembered(g), theta, n)

        def leading(theta: Vector) -> Series:
            (g,) = objective.gradients(theta)
            return (applied(frozen, g, theta),)

        def corrected(theta: Vector) -> Series:
            (g,), hessian_products = objective.linearize(theta)
            F = applied(frozen, g, theta)
            (D,) = hessian_products(F[None])
            return applied(along, g, D, F, theta)

        def along(g: Any, D: Any, F: Any, theta: Any) -> Series:
            _, psi_dot = jax.jvp(features, (g,), (D,))
            weights = [lag + c * mass for lag, mass in zip(lags, masses, strict=True)]
            s_dot = tuple(_times(w, dot) for w, dot in zip(weights, psi_dot, strict=True))
            return jax.jvp(
                lambda s, theta: readout(s, theta, n), (remembered(g), theta), (s_dot, _times(c, F))
            )

        return (leading, corrected)[order]

    return at


def _by_leaves(rule: HasKernels, objective: Objective) -> tuple[Callable[..., Any], ...]:
    """How functions of features and readout are applied, leaf by leaf of the parameters, and these two."""
    if isinstance(rule, KernelForm):
        return objective.by_trees, rule.features_by_leaves, rule.readout_by_leaves
    return objective.by_leaves, rule.features, rule.readout


def _times(factor: Scalar | float, x: Any) -> Any:
    return jax.tree.map(lambda leaf: factor * leaf, x)
