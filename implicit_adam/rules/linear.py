"""The linear part of a rule: how its update responds to past gradients with its other memories held fixed.

A feature counts as linear if psi_i(g) = a_i g. With the others (g^2, ..) held fixed, the update changes by

    dF^(n) = sum_i a_i dphi/ds_i sum_k w_i(n, k) dg_k + dphi/dtheta dtheta^(n)

and, if the gradient changes for good, by sum_i a_i dphi/ds_i gain_i times that change. Here gain_i =
sum_e scale_e / (1 - decay_e) is the mass of w_i with a full memory. For an update g/R the factor is 1/R.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.checks.numbers import is_traced
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.kernels import Kernel
from implicit_adam.rules.opt_state import last_step
from implicit_adam.types import Scalar, StepNumber, Vector

# Gradients and parameters at which a rule is evaluated to find its linear part.
GRADIENTS = (0.0, 1e-4, -0.3, 1.0, -1e3)
POINTS = (0.7, -2.0, 1.0, -0.1, 3.0)


class LinearPart(NamedTuple):
    """The linear part of the frozen update, where it is the same for all coordinates and points.

    - `scale`, `decay`: (terms,) of its memory W(j) = sum_e scale_e decay_e^j, scaled to gain 1.
    - `weight_decay`: dphi/dtheta.
    """

    scale: Float[Array, " terms"]
    decay: Float[Array, " terms"]
    weight_decay: Scalar


@eqx.filter_jit
def linear_features(rule: AbstractRule) -> Float[Array, " r"]:
    """a_i of the features that are linear in the gradient, 0 for the others, found by evaluating them."""
    g = jnp.asarray(GRADIENTS, rule.h.dtype)
    _, slopes = jax.jvp(rule.features, (g,), (jnp.ones_like(g),))
    return jnp.stack([jnp.where(_all_equal(slope), slope[0], jnp.zeros_like(slope[0])) for slope in slopes])


def denominator(rule: AbstractRule, s: tuple[Vector, ...], theta: Vector, n: StepNumber) -> Vector:
    """R = 1 / sum_i a_i gain_i dphi/ds_i, in units of gradient / update."""
    a = check_linear(rule)
    s_dot = tuple(jnp.full_like(theta, x) for x in _gains(a, rule.kernels(n)))
    return 1 / jax.jvp(lambda s: rule.readout(s, theta, n), (s,), (s_dot,))[1]


def remembered(rule: AbstractRule, opt_state: Any, g: Vector) -> tuple[tuple[Vector, ...], StepNumber]:
    """The memories s_i in a state of the optax twin, with g as the present gradient, and the last step n."""
    n, psi = last_step(opt_state), rule.features(g)

    def memory(kernel: Kernel, sums: tuple[Any, ...], psi: Vector) -> Vector:
        terms = jnp.stack([psi if S is None else _like(S, g) for S in sums])
        return jnp.sum(kernel.scale[:, None] * terms, axis=0)

    return tuple(
        memory(*of_feature) for of_feature in zip(rule.kernels(n), rule.sums(opt_state), psi, strict=True)
    ), n


def linear_part(rule: AbstractRule, n: StepNumber) -> LinearPart:
    """The linear part at step n; if it differs between coordinates or points, `ValueError`, traced NaN."""
    check_linear(rule)
    part = _tried(rule, n)
    if not is_traced(part.scale) and jnp.any(jnp.isnan(part.scale)):
        msg = (
            f"the linear part of {type(rule).__name__} is not one fading filter of the gradient: its "
            "response to gradients or parameters differs between points by more than a factor, or never fades"
        )
        raise ValueError(msg)
    return part


@eqx.filter_jit
def _tried(rule: AbstractRule, n: StepNumber) -> LinearPart:
    kernels, a = rule.kernels(n), linear_features(rule)
    g, theta = (jnp.asarray(x, rule.h.dtype) for x in (GRADIENTS, POINTS))
    s, none = rule.features(g), jnp.zeros_like(g)

    def along(i: int) -> Vector:
        """a_i dphi/ds_i."""
        s_dot = tuple(a[j] * (jnp.ones_like(g) if i == j else none) for j in range(len(s)))
        return jax.jvp(lambda s: rule.readout(s, theta, n), (s,), (s_dot,))[1]

    response = jnp.stack([along(i) for i in range(len(s))])
    total = jnp.sum(jnp.abs(response), axis=0)
    share = response / jnp.where(total > 0, total, jnp.ones_like(total))[None]
    # Where the update saturates, as Lion's does, shares are rounding; use the point of largest response.
    best = share[:, jnp.argmax(total)]
    same = (jnp.abs(share - best[:, None]) <= _rounding(g)) | (total == 0)[None]
    _, decay = jax.jvp(lambda theta: rule.readout(s, theta, n), (theta,), (jnp.ones_like(theta),))
    gain = sum(_gains(best, kernels))
    known = jnp.all(same) & _all_equal(decay) & jnp.isfinite(gain)
    scale = jnp.concatenate([x * kernel.scale for x, kernel in zip(best, kernels, strict=True)])
    scale = jnp.where(known, scale / gain, jnp.nan)
    return LinearPart(scale, jnp.concatenate([kernel.decay for kernel in kernels]), decay[0])


def _gains(a: Float[Array, " r"], kernels: tuple[Kernel, ...]) -> list[Scalar]:
    """a_i sum_j w_i(j) over all lags j; 0 where a_i = 0, even if that feature is never forgotten."""

    def gain(a: Scalar, kernel: Kernel) -> Scalar:
        fades = kernel.decay < 1
        total = kernel.scale / (1 - jnp.where(fades, kernel.decay, jnp.zeros_like(kernel.decay)))
        return jnp.where(a == 0, a, a * jnp.sum(jnp.where(fades, total, jnp.inf)))

    return [gain(x, kernel) for x, kernel in zip(a, kernels, strict=True)]


def _like(S: Array, g: Vector) -> Vector:
    if S.shape != g.shape:
        msg = f"opt_state remembers {S.size} numbers a gradient, but there are {g.size} parameters"
        raise ValueError(msg)
    return S.astype(g.dtype)


def check_linear(rule: AbstractRule) -> Float[Array, " r"]:
    """`linear_features`; raises `ValueError` if no feature is linear and the values are known."""
    a = linear_features(rule)
    if not is_traced(a) and not np.any(np.asarray(a)):
        msg = (
            f"no feature of {type(rule).__name__} is linear in the gradient, so that its update has no "
            "denominator"
        )
        raise ValueError(msg)
    return a


def _all_equal(x: Vector) -> Array:
    return jnp.all(jnp.abs(x - x[0]) <= _rounding(x) * jnp.max(jnp.abs(x)))


def _rounding(x: Vector) -> float:
    return 100 * float(jnp.finfo(x.dtype).eps)
