"""`diagnose`: what the optimizer is doing at a point of a run, and which equation predicts its next steps."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from implicit_adam.checks.numbers import check_count
from implicit_adam.diagnosis import verdict as words
from implicit_adam.diagnosis.branches import has_branches, two_branch_error
from implicit_adam.diagnosis.curvature import Curvature, curvature
from implicit_adam.diagnosis.forecasts import (
    CARRIED,
    CORRECTED,
    TWO_BRANCH,
    Forecasts,
    forecasts,
    random_orders,
)
from implicit_adam.diagnosis.moment import Moment, check_known, memory_of, not_carried, without_memory
from implicit_adam.diagnosis.noise import noise_of
from implicit_adam.diagnosis.norms import NormRate, norm_rates
from implicit_adam.diagnosis.partial import PartialDiagnosis, partial_diagnosis
from implicit_adam.diagnosis.split import Parts, split
from implicit_adam.inputs import Inputs
from implicit_adam.reprs import table
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.types import Batches, Loss, Params, Scalar

SCALARS = (
    "leaps",
    "sampling_error",
    "spread",
    "speed",
    "update_sharpness",
    "batch_sharpness",
    "threshold",
    "edge",
    "alternation",
    "swing",
    "noise",
)


class Diagnosis(NamedTuple):
    """The result of `diagnose`. Print it, or read `verdict`; `numbers()` are its scalars by name, for a log.

    - `equation`: the simplest equation that predicts the next steps to within 2 % plus the sampling error:
      "plain", "corrected" or "carried"; or "past the edge", "noise-dominated", "none".
    - `verdict`: that and the rest in plain English.
    - `step`: how many steps the run has taken; `horizon`: how many were predicted.
    - `error`: by equation, its error after these steps over the distance travelled; NaN where not available.
      "two-branch" is the error of the centre of alternating points, measured only past the edge, in full
      batch.
    - `leaps`: in how many leaps the equation with carried memory was solved. If there are as many leaps as
      steps, the leaps are the optimizer's own steps, and a small error says nothing; the verdict says so.
    - `sampling_error`, `spread`: in mini-batches, the standard error of the mean over runs, and the distance
      of single runs from it, both over the distance travelled.
    - `largest_h`: the h up to which "corrected" (its correction below a tenth of the flow) and "carried" (the
      edge of stability) would hold here, if nothing else changed: extrapolated, not measured.
    - `velocity`: d params/dt, and its parts `instant`, `minibatch`, `memory` (with a leading axis of
      memories), `decay` and `step_correction`, pytrees like params that sum to it.
    - `speed`: ||velocity|| / ||instant||.
    - `norms`: for each norm of the gradient its `value`, and the rates at which the `velocity`, and the
      `bias` (memory and step) in it, change the norm. A negative bias penalises the norm, a positive one
      hinders its decrease.
    - `layers`: for each array of params, the norm of memory and step over that of the instant, and the
      cosine between the two.
    - `preconditioned_sharpness`: (k,) top eigenvalues of R^-1/2 Hess E R^-1/2, with R the optimizer's own
      denominator; `residual`: their residuals; `threshold`: above it the optimizer is unstable; `edge`: the
      first eigenvalue over the threshold. NaN where unknown.
    - `update_sharpness`: u^T Hess E u / (u^T R u) along the velocity u, at most the first of these, and near
      it if the update is in the unstable direction.
    - `batch_sharpness`: the mean over mini-batches of u^T Hess E_b u / (u^T R u) with u = g_b / R, their own
      curvature along their own gradient. For R = 1 it is that of Andreyev and Beneventano (2024), which SGD
      keeps at the threshold while `preconditioned_sharpness` stays below it. NaN in full batch.
    - `alternation`, `swing`: for the coming full-batch updates, the cosine between successive changes, and
      the size of these changes over that of the updates.
    - `noise`: variance of a mini-batch gradient (its trace) over the squared norm of the mean; NaN in full
      batch.
    - `gradients`: how many full-batch gradients all this took.
    """

    equation: str
    step: int
    horizon: int
    error: dict[str, Scalar]
    leaps: Int[Array, ""]
    sampling_error: Scalar
    spread: Scalar
    largest_h: dict[str, Scalar]
    velocity: Params
    instant: Params
    minibatch: Params
    memory: Params
    decay: Params
    step_correction: Params
    speed: Scalar
    norms: dict[str, NormRate]
    layers: dict[str, tuple[Scalar, Scalar]]
    preconditioned_sharpness: Float[Array, " k"]
    residual: Float[Array, " k"]
    update_sharpness: Scalar
    batch_sharpness: Scalar
    threshold: Scalar
    edge: Scalar
    alternation: Scalar
    swing: Scalar
    noise: Scalar
    gradients: float

    @property
    def verdict(self) -> str:
        """The diagnosis in words."""
        return " ".join(words.sentences(self))

    def numbers(self) -> dict[str, float]:
        """The scalars by name, such as "error/carried" and "norms/one_norm/bias"."""
        found = {
            **{f"error/{name}": x for name, x in self.error.items()},
            **{f"largest_h/{name}": x for name, x in self.largest_h.items()},
            **{f"norms/{name}/{part}": x
               for name, rate in self.norms.items() for part, x in rate._asdict().items()},
            **{f"layers/{name}/size": size for name, (size, _) in self.layers.items()},
            **{f"layers/{name}/cosine": cosine for name, (_, cosine) in self.layers.items()},
            "preconditioned_sharpness": self.preconditioned_sharpness[0],
        }  # fmt: skip
        for name in SCALARS:
            found[name] = getattr(self, name)
        return {"step": float(self.step), **{name: float(x) for name, x in found.items()}}

    def __repr__(self) -> str:
        shown = {name: f"{x:.4g}" for name, x in self.numbers().items() if np.isfinite(x)}
        said = "\n".join(words.sentences(self))
        return f"{said}\n{table('Diagnosis', {'equation': self.equation, **shown})}"


class _Found(NamedTuple):
    parts: Parts
    norms: dict[str, NormRate]
    forecasts: Forecasts
    curvature: Curvature
    layers: dict[str, tuple[Scalar, Scalar]]
    noise: Scalar


def diagnose(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    *,
    opt_state: Any = None,
    batches: Batches = None,
    step: int | None = None,
    horizon: int = 20,
    runs: int = 8,
    k: int = 1,
    iterations: int = 20,
    seed: int = 0,
) -> Diagnosis | PartialDiagnosis:
    """Tell what the optimizer is doing at this point of a run, and which equation predicts its next steps.

    The optimizer itself and the equations are run for `horizon` steps from the point and the optimizer's own
    state. The present velocity is split into its causes, and the curvature is measured with the optimizer's
    own denominator.

    - `rule`: the optimizer, e.g. `ia.Adam(1e-3)`, or any optax transformation (most have a carried memory,
      see `carried_field`). `ia.Adam(1e-3)` takes the state of `optax.adam(1e-3)`. The paper's corrected flow
      is also known for transformations that have a `limiting_field` (that of late steps, unless the update
      frozen at a point is the same at every step).
    - `loss`: `loss(params) -> scalar`, or `loss(params, batch) -> scalar` together with `batches`.
    - `params`, `opt_state`: the point and the state of the run there, as `tx.update` returned it. Without a
      state the run is taken to begin at params: the optimizer takes its first ten steps, and the diagnosis is
      of the point where they lead.
    - `batches`: a pytree of arrays with leading axis m. The equations are then those of the mean over random
      orders, compared with the mean of `runs` runs.
    - `step`: how many steps the run has taken, for a state that does not count them; by default late.
    - `horizon`: how many steps to predict, at least 3.
    - `runs`: how many random orders of the mini-batches, two or more; `seed`: of these.
    - `k`: how many eigenvalues; `iterations`: Hessian-vector products for each.

    Costs about 11 `horizon` + 2 k `iterations` + 18 full-batch gradients (278 by default), with mini-batches
    `runs` `horizon` / m + 4 more, and past the edge another 12 `horizon` or more; and memory for k
    `iterations` vectors like params. Compiles once for all values, and once more past the edge.

    For an optimizer whose memory cannot be carried (a maximum, a decay that changes) the result is a
    `PartialDiagnosis`: everything that needs no equation, and in words what is missing and why.

    Raises `ValueError` for bad arguments and for the state of another optimizer. Call it outside of
    `jax.jit`.
    """
    horizon, runs = check_count("horizon", horizon, least=3), check_count("runs", runs, least=2)
    check_known("diagnose", params, opt_state)
    now = without_memory(rule, loss, params, opt_state, batches, step)
    m = now.inputs.objective.m
    orders, missing = random_orders(m, runs, horizon, seed), not_carried(now.inputs)
    if missing is not None:
        return partial_diagnosis(now, missing, orders, horizon, k, iterations)
    now = now._replace(memory=memory_of(now.inputs, now.opt_state))
    found = _found(now, orders, horizon, k, iterations)
    inputs, parts, ahead = now.inputs, found.parts, found.forecasts
    unraveled = inputs.unraveled
    speed = jnp.linalg.norm(parts.velocity) / jnp.linalg.norm(parts.instant)
    edge = found.curvature.top[0] / found.curvature.threshold
    h = inputs.rule.h
    result = Diagnosis(
        equation="",
        step=int(now.n),
        horizon=horizon,
        error=ahead.error | {TWO_BRANCH: jnp.full_like(h, jnp.nan)},
        leaps=ahead.leaps,
        sampling_error=ahead.sampling_error,
        spread=ahead.spread,
        largest_h={CORRECTED: h * 0.1 * jnp.linalg.norm(parts.instant) / jnp.linalg.norm(parts.bias),
                   CARRIED: h / edge},
        velocity=unraveled(parts.velocity),
        instant=unraveled(parts.instant),
        minibatch=unraveled(parts.minibatch),
        memory=jax.vmap(unraveled)(parts.memory),
        decay=unraveled(parts.decay),
        step_correction=unraveled(parts.step),
        speed=speed,
        norms=found.norms,
        layers=found.layers,
        preconditioned_sharpness=found.curvature.top,
        residual=found.curvature.residual,
        update_sharpness=found.curvature.along_update,
        batch_sharpness=found.curvature.in_batch,
        threshold=found.curvature.threshold,
        edge=edge,
        alternation=ahead.alternation,
        swing=ahead.swing,
        noise=found.noise,
        gradients=11 * horizon + 2 * k * iterations + 18 + (runs * horizon / m + 4 if m > 1 else 0),
    )  # fmt: skip
    result = result._replace(equation=words.which(result))
    if result.equation == words.PAST_EDGE and has_branches(now):
        # This is a separate program, compiled only where it is needed.
        result = result._replace(error=result.error | {TWO_BRANCH: two_branch_error(now, horizon)})
    return result


@eqx.filter_jit
def _found(now: Moment, orders: Int[Array, "runs steps"], horizon: int, k: int, iterations: int) -> _Found:
    parts = split(now)
    return _Found(
        parts,
        norm_rates(now, parts),
        forecasts(now, horizon, orders),
        curvature(now, parts.velocity, k, iterations),
        _layers(now.inputs, parts),
        noise_of(now.inputs),
    )


def _layers(inputs: Inputs, parts: Parts) -> dict[str, tuple[Scalar, Scalar]]:
    def of(bias: Array, instant: Array) -> tuple[Scalar, Scalar]:
        sizes = jnp.linalg.norm(jnp.ravel(bias)), jnp.linalg.norm(jnp.ravel(instant))
        return sizes[0] / sizes[1], jnp.sum(bias * instant) / (sizes[0] * sizes[1])

    bias = jax.tree_util.tree_leaves_with_path(inputs.unraveled(parts.bias))
    instant = jax.tree.leaves(inputs.unraveled(parts.instant))
    return {
        jax.tree_util.keystr(path) or "params": of(x, y) for (path, x), y in zip(bias, instant, strict=True)
    }
