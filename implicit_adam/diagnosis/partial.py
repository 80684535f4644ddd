"""The diagnosis of an optimizer whose memory cannot be carried, so that no equation here predicts it.

Its steps, the Hessian and the mini-batches can still be measured. The denominator R of such an optimizer and
its stability threshold are not known, so curvatures are those of the loss itself.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_adam.diagnosis.curvature import Curvature, felt_with
from implicit_adam.diagnosis.forecasts import alternation, ends, full_batch_path
from implicit_adam.diagnosis.moment import Moment
from implicit_adam.diagnosis.noise import noise_of
from implicit_adam.diagnosis.verdict import APART, PAST_EDGE, alternates, alternating, noise_in_words
from implicit_adam.reprs import table
from implicit_adam.types import Params, Scalar

UNKNOWN = "unknown"
SCALARS = ("alignment", "one_norm", "update_sharpness", "batch_sharpness", "spread", "alternation", "swing")


class PartialDiagnosis(NamedTuple):
    """The result of `diagnose` where the memory cannot be carried: everything that needs no equation.

    - `equation`: "unknown", or "past the edge" where consecutive updates alternate.
    - `missing`: in words, why there is no more. No equation here predicts this optimizer, so there are no
      errors of equations, no parts of the velocity, and no rates at which memory and step change norms. Its
      denominator is not known, and so neither is its stability threshold.
    - `step`: how many steps the run has taken; `horizon`: for how many more it was run.
    - `update`: the next full-batch update of params, a pytree like params.
    - `alignment`: the cosine between that and the negative gradient.
    - `one_norm`: the one-norm of the full-batch gradient.
    - `sharpness`: (k,) the top eigenvalues of Hess E itself, without a preconditioner, and their `residual`.
      **Do not compare them with a threshold**, only with those at other moments of the run.
    - `update_sharpness`: u^T Hess E u / ||u||^2 along the update; `batch_sharpness`: the mean over
      mini-batches of g_b^T Hess E_b g_b / ||g_b||^2, NaN in full batch.
    - `spread`: how far single runs in mini-batches are from their mean after the horizon, over the distance
      travelled; `alternation`, `swing`, `noise`: as in `Diagnosis`.
    - `gradients`: how many full-batch gradients the diagnosis took.
    """

    equation: str
    missing: str
    step: int
    horizon: int
    update: Params
    alignment: Scalar
    one_norm: Scalar
    sharpness: Float[Array, " k"]
    residual: Float[Array, " k"]
    update_sharpness: Scalar
    batch_sharpness: Scalar
    spread: Scalar
    alternation: Scalar
    swing: Scalar
    noise: Scalar
    gradients: float

    @property
    def verdict(self) -> str:
        """The diagnosis in words."""
        return " ".join(sentences(self))

    def numbers(self) -> dict[str, float]:
        """The scalars by name, for a log."""
        found = {name: getattr(self, name) for name in (*SCALARS, "noise")}
        found = {"step": self.step, "sharpness": self.sharpness[0], **found}
        return {name: float(x) for name, x in found.items()}

    def __repr__(self) -> str:
        shown = {name: f"{x:.4g}" for name, x in self.numbers().items() if np.isfinite(x)}
        said = "\n".join(sentences(self))
        return f"{said}\n{table('PartialDiagnosis', {'equation': self.equation, **shown})}"


class _Seen(NamedTuple):
    update: Any
    alignment: Scalar
    one_norm: Scalar
    curvature: Curvature
    spread: Scalar
    alternation: Scalar
    swing: Scalar
    noise: Scalar


def partial_diagnosis(
    now: Moment, missing: str, orders: Any, horizon: int, k: int, iterations: int
) -> PartialDiagnosis:
    """The `PartialDiagnosis` at a moment without a memory; the arguments are those of `diagnose`."""
    seen, (runs, m) = _seen(now, orders, horizon, k, iterations), (len(orders), now.inputs.objective.m)
    found = PartialDiagnosis(
        UNKNOWN,
        missing,
        int(now.n),
        horizon,
        now.inputs.unraveled(seen.update),
        seen.alignment,
        seen.one_norm,
        seen.curvature.top,
        seen.curvature.residual,
        seen.curvature.along_update,
        seen.curvature.in_batch,
        seen.spread,
        seen.alternation,
        seen.swing,
        seen.noise,
        gradients=horizon + 2 * k * iterations + 4 + (runs * horizon / m + 4 if m > 1 else 0),
    )
    return found._replace(equation=PAST_EDGE) if alternates(found) else found


@eqx.filter_jit
def _seen(now: Moment, orders: Any, horizon: int, k: int, iterations: int) -> _Seen:
    inputs, path = now.inputs, full_batch_path(now, horizon)
    theta, update = inputs.theta, path[1] - path[0]
    g = jax.grad(inputs.objective.full_batch().loss)(theta, None)
    mean, apart, _ = ends(now, path, orders)
    return _Seen(
        update,
        -(update @ g) / (jnp.linalg.norm(update) * jnp.linalg.norm(g)),
        jnp.sum(jnp.abs(g)),
        felt_with(now, update, jnp.ones_like(theta), k, iterations),
        apart / jnp.linalg.norm(mean - theta),
        *alternation(jnp.diff(path, axis=0)),
        noise_of(inputs),
    )


def sentences(found: PartialDiagnosis) -> list[str]:
    """The partial diagnosis in sentences: what is missing and why, then what was measured."""
    said = [
        f"Which equation predicts the next steps, what memory and step do, and how far the edge of stability "
        f"is are not known: {found.missing}."
    ]
    if found.equation == PAST_EDGE:
        said.append(f"{alternating(found)}.")
    said.append(
        f"The next update has a cosine of {float(found.alignment):.2f} with the negative gradient. The top "
        f"eigenvalue of the Hessian is {float(found.sharpness[0]):.3g}, the curvature along the update "
        f"{float(found.update_sharpness):.3g}."
    )
    if np.isfinite(float(found.noise)):
        said.append(noise_in_words(found))
    if float(found.spread) > APART:
        said.append(
            f"Single runs over random orders of the mini-batches are {float(found.spread):.1f} times the "
            f"distance apart after {found.horizon} steps."
        )
    return said
