"""The modified field of full-batch training to order 2, in closed form: no sum over p-vectors, whatever n is.

With one loss, and kernels of the same mass at every step (or late on, n to infinity), every update frozen at
theta is the same F, and the history seen from the point y(h) = theta + h c F + h^2 y_2 is, j steps back,

    theta_{n-j} = y + h j F + h^2 [ (j(j+1)/2 + c j) B + sum_i A_i sum_{l=n-j}^{n-1} first_i(l) ] + ..
    A_i = dphi/ds_i psi_i'(g) D,    D = Hess E F,    B = F'F = sum_i mass_i A_i + dphi/dtheta F

so that the sums over j are moments of the lag (`lag_moments`), and with T the third derivative of E

    s_i = sum_k w_i(n, k) psi_i(grad E(theta_k))
        = mass_i psi_i + h (first_i + c mass_i) psi_i' D + h^2 s_{i,2} + ..
    s_{i,2} = psi_i' Hess E V_i + e_i (psi_i' T[F,F] + psi_i'' D^2) / 2
    e_i = second_i + 2 c first_i + c^2 mass_i
    V_i = mass_i y_2 + ((second_i + first_i)/2 + c first_i) B + sum_i' cross_ii' A_i'

For the map y is theta itself: c = 0, y_2 = 0. For the flow y is half a step back (`map_to_flow`): c = 1/2,
y_2 = 3/8 B + 1/2 sum_i first_i A_i, and with x the flow of order 0

    -f = F^(n)(history seen from y) - h^2/24 (F o x)''

Products are linear, so the last term needs none of its own: V_i loses mass_i B/24, y_2 loses B/24 and e_i
loses mass_i/12. An evaluation costs 16/3 + 2r gradients: one gradient (1), D (2), T[F,F], the second
coefficient of a jet of the gradient (7/3), and r products Hess E V_i (2 each).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_adam.fields.full_batch.lag_moments import LagMoments, lag_moments
from implicit_adam.fields.series import Series, compose
from implicit_adam.fields.terms import Terms, application
from implicit_adam.objective import Objective
from implicit_adam.rules.kernels import HasKernels
from implicit_adam.types import StepNumber, Vector


def second_order_terms(
    rule: HasKernels,
    objective: Objective,
    *,
    flow: bool,
    moments: Callable[[HasKernels, StepNumber], LagMoments] = lag_moments,
) -> Terms:
    """The terms to order 2 for one loss; n as in `lag_moments`."""
    c, applied = 1 / 2 if flow else 0.0, application(rule, objective)

    def at(n: StepNumber) -> Callable[[Vector], Series]:
        mass, first, second, cross = moments(rule, n)
        e = second + 2 * c * first + c**2 * mass

        def readout(x: tuple[tuple[Vector, ...], Vector]) -> Vector:
            return rule.readout(*x, n)

        def frozen(g: Vector, theta: Vector) -> Vector:
            return readout((_weighed(mass, rule.features(g)), theta))

        def terms(theta: Vector) -> Series:
            (g,), hessian_products = objective.linearize(theta)
            F = applied(frozen, g, theta)
            D, T = _along(objective, theta, F)
            y_2, V = applied(displaced, g, D, F, theta)
            HV = tuple(hessian_products(V_i[None])[0] for V_i in V)
            return applied(series, g, D, T, HV, y_2, F, theta)

        def displaced(g: Vector, D: Vector, F: Vector, theta: Vector) -> tuple[Vector, tuple[Vector, ...]]:
            """y_2, and V_i for every kernel."""
            psi, psi_1 = compose(rule.features, (g, D))
            s = _weighed(mass, psi)

            def along(s_dot: tuple[Vector, ...], theta_dot: Vector) -> Vector:
                return jax.jvp(readout, ((s, theta),), ((s_dot, theta_dot),))[1]

            nothing = tuple(jnp.zeros_like(g) for _ in psi)
            A = [along(_only(i, psi_1, nothing), jnp.zeros_like(theta)) for i in range(len(psi))]
            B = along(_weighed(mass, psi_1), F)
            y_2 = 3 / 8 * B + sum(x * A_i for x, A_i in zip(first, A, strict=True)) / 2 if flow else 0 * B
            y_2 = y_2 - B / 24 if flow else y_2

            def lagged(i: int) -> Vector:
                V = mass[i] * y_2 + ((second[i] + first[i]) / 2 + c * first[i]) * B
                return V + sum(x * A_j for x, A_j in zip(cross[i], A, strict=True))

            return y_2, tuple(lagged(i) for i in range(len(psi)))

        def series(
            g: Vector,
            D: Vector,
            T: Vector,
            HV: tuple[Vector, ...],
            y_2: Vector,
            F: Vector,
            theta: Vector,
        ) -> Series:
            psi, psi_1, psi_2 = compose(rule.features, (g, D, T / 2))
            s, s_1 = _weighed(mass, psi), _weighed(mass, psi_1)
            curved = e - mass / 12 if flow else e
            s_2 = tuple(
                curved[i] * psi_2[i] + jax.jvp(rule.features, (g,), (HV_i,))[1][i]
                for i, HV_i in enumerate(HV)
            )
            lagged = ((s, theta), (_weighed(first + c * mass, psi_1), c * F), (s_2, y_2))
            F, G_1, G_2 = compose(readout, lagged)
            if flow:
                nothing = tuple(jnp.zeros_like(g) for _ in psi)
                G_2 = G_2 - compose(readout, ((s, theta), (s_1, F), (nothing, jnp.zeros_like(F))))[2] / 12
            return F, G_1, G_2

        return terms

    return at


def _weighed(weights: Float[Array, " r"], features: tuple[Vector, ...]) -> tuple[Vector, ...]:
    return tuple(w * psi for w, psi in zip(weights, features, strict=True))


def _only(i: int, features: tuple[Vector, ...], nothing: tuple[Vector, ...]) -> tuple[Vector, ...]:
    return (*nothing[:i], features[i], *nothing[i + 1 :])


def _along(objective: Objective, theta: Vector, F: Vector) -> tuple[Vector, Vector]:
    """D = Hess E F and T[F, F]."""

    def gradient(theta: Vector) -> Vector:
        return objective.gradients(theta)[0]

    def product(theta: Vector) -> Vector:
        return jax.jvp(gradient, (theta,), (F,))[1]

    return jax.jvp(product, (theta,), (F,))
