"""`advise`: predicts what another step size, memory or batch size would change over the next steps."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from implicit_adam.checks.numbers import check_count
from implicit_adam.diagnosis import levers
from implicit_adam.diagnosis.advice import Advice, Change, Effect, Turn
from implicit_adam.diagnosis.curvature import edge
from implicit_adam.diagnosis.forecasts import carried_points, random_orders
from implicit_adam.diagnosis.moment import Moment, check_known, memory_of, moment
from implicit_adam.fields.carried.carrier import Memory
from implicit_adam.inputs import Inputs
from implicit_adam.loops import in_turn
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.runs.optimizer_run import on_from
from implicit_adam.types import Batches, Loss, Params, Scalar, Vector

# Hessian-vector products for the curvature, which is stated to a few per cent.
ITERATIONS = 10
# At this many moments of the way, the prediction without any change is compared with the optimizer.
LOOKS = 4
Looks = Int[Array, " looks"]


def advise(
    rule: AbstractOptimizer | optax.GradientTransformation,
    loss: Loss,
    params: Params,
    *,
    opt_state: Any = None,
    batches: Batches = None,
    step: int | None = None,
    steps: int = 200,
    runs: int = 8,
    seed: int = 0,
) -> Advice:
    """Predict what another h, memory or batch size would do to the loss `steps` steps from this point.

    The equation with carried memory is solved from the point and the optimizer's own state: without any
    change, with its derivative by each hyperparameter, and with each one halved and doubled. Then the
    optimizer itself is run without any change, to measure how good the prediction was.

    - `rule`, `loss`, `params`, `opt_state`, `step`: as in `diagnose`. For a rule, `h` and its decays are
      varied; for an optax transformation, which hides its decays, only `h`, the factor of its updates.
    - `batches`: a pytree of arrays with leading axis m. The batch size is then varied, too. The batches are
      taken to be all the data, used in epochs, so that m times their size is full batch.
    - `steps`: how many steps, **the same for every h**: with h doubled, the run covers twice the time.
    - `runs`: how many random orders of the mini-batches the optimizer is run with; `seed`: of these. The
      spread of these runs changes their mean loss in proportion to the variance, and so with the batch size;
      the effect of h and the decays on the spread is left out.

    Changes are made in the middle of the run: the state and the step count stay as they are. HeavyBall's
    memory is a sum of gradients, so that a longer memory also means a longer step.

    Past the edge of stability updates alternate, and no smooth equation follows them. For every change the
    curvature that the optimizer feels is compared with its threshold (as in `diagnose`), now and at the end.
    Where it is above, `edge` says so, the error bar is infinite, and the words leave the number out.

    Costs, for L varied quantities, up to (5 L + 1) `steps` full-batch gradients (fewer where the equation can
    leap), some 100 L + 50 for the curvature, and for the run itself `steps` full-batch gradients, or `runs`
    `steps` mini-batch gradients. Compiles once for all values (and in full batch, for all `steps`).

    Raises `ValueError` as `diagnose` does. Call it outside of `jax.jit`.
    """
    steps, runs = check_count("steps", steps, least=LOOKS), check_count("runs", runs, least=2)
    check_known("advise", params, opt_state)
    now = moment(rule, loss, params, opt_state, batches, step)
    m, looks = now.inputs.objective.m, jnp.asarray(np.arange(1, LOOKS + 1) * steps // LOOKS)
    ran, spread = _ran(now, looks, random_orders(m, runs, steps, seed) if m > 1 else None)
    here, curvature, slopes, turned = _foreseen(now, looks, spread)
    mean = jnp.mean(ran, 0)
    apart = jnp.sqrt(jnp.sum((ran[:, -1] - mean[None, -1]) ** 2, 0) / max(1, len(ran) - 1))
    return Advice(
        step=int(now.n),
        steps=steps,
        loss=here[-1, 0],
        one_norm=here[-1, 1],
        edge=curvature,
        changes={
            name: _change(now, name, slopes[i], turned[:, i])
            for i, name in enumerate(levers.names(now.inputs))
        },
        error=Effect(*jnp.max(jnp.abs((here - mean) / mean), 0)),
        sampling_error=Effect(*(apart / len(ran) ** 0.5 / jnp.abs(mean[-1]))),
    )


def _change(now: Moment, name: str, slope: Vector, turned: Float[Array, "2 3"]) -> Change:
    doubled, halved = turned
    if not levers.has_half(now.inputs, name):
        halved = jnp.full_like(halved, jnp.nan)
    return Change(levers.value(now.inputs, name), Effect(*slope), Turn(*halved), Turn(*doubled))


@eqx.filter_jit
def _ran(now: Moment, looks: Looks, orders: Any) -> tuple[Float[Array, "runs looks 2"], Float[Array, " 2"]]:
    """Loss and one-norm along the optimizer itself for each order of batches, and the part due to spread.

    That part is E[loss(theta)] - loss(E theta) at the end, corrected for the finite number of runs.
    """

    def of(order: Any) -> tuple[Float[Array, "looks 2"], Vector]:
        inputs = now.inputs._replace(schedule=order)

        def on(carry: Any, last: Any) -> Any:
            params, state, first = carry
            params, state = on_from(inputs._replace(params=params), state, first, last - first)
            return (params, state, last), _measured(inputs, inputs._replace(params=params).theta)

        begun = (inputs.params, jax.tree.map(jnp.asarray, now.opt_state), jnp.zeros_like(looks[0]))
        (params, *_), found = jax.lax.scan(on, begun, looks)
        return found, inputs._replace(params=params).theta

    if orders is None:
        alone, _ = of(None)
        return alone[None], jnp.zeros_like(alone[0])
    found, thetas = jax.vmap(of)(orders)
    of_mean = _measured(now.inputs, jnp.mean(thetas, 0))
    return found, (jnp.mean(found[:, -1], 0) - of_mean) * len(thetas) / max(1, len(thetas) - 1)


@eqx.filter_jit
def _foreseen(
    now: Moment, looks: Looks, spread: Float[Array, " 2"]
) -> tuple[Float[Array, "looks 2"], Scalar, Float[Array, "levers 2"], Float[Array, "turns levers 3"]]:
    """The prediction without any change, its edge, and its relative derivatives per octave.

    Last, with each lever doubled, then halved: the relative changes and the edge.
    """

    def way(octaves: Float[Array, " levers"]) -> tuple[Float[Array, "looks 2"], Moment, Any]:
        inputs = levers.turned(now.inputs, octaves)
        begun = now._replace(inputs=inputs, memory=memory_of(inputs, now.opt_state))
        (thetas, memories), _ = carried_points(begun, looks)
        found = jax.lax.map(lambda theta: _measured(now.inputs, theta), thetas)
        if inputs.noise is not None:
            found = found + (inputs.noise - 1) * spread[None]
        return found, begun, (thetas[-1], jax.tree.map(lambda x: x[-1], memories))

    def way_and_edge(octaves: Float[Array, " levers"]) -> tuple[Float[Array, "looks 2"], Scalar]:
        found, begun, end = way(octaves)

        def edge_at(n: Scalar, theta: Vector, memory: Memory) -> Scalar:
            there = begun.inputs._replace(params=begun.inputs.unraveled(theta))
            return edge(begun._replace(inputs=there, n=n, memory=memory), ITERATIONS)

        late = now.n + looks[-1].astype(now.n.dtype)
        return found, jnp.max(in_turn(edge_at, (now.n, now.inputs.theta, begun.memory), (late, *end)))

    one = jnp.eye(len(levers.names(now.inputs)), dtype=now.inputs.theta.dtype)
    still = jnp.zeros_like(one[0])
    slopes = jax.lax.map(lambda octave: jax.jvp(lambda u: way(u)[0][-1], (still,), (octave,))[1], one)
    ways, edges = jax.lax.map(way_and_edge, jnp.concatenate([still[None], one, -one]))
    here = ways[0, -1]
    changes = jnp.concatenate([(ways[1:, -1] - here[None]) / jnp.abs(here)[None], edges[1:, None]], axis=1)
    return ways[0], edges[0], slopes / jnp.abs(here)[None], changes.reshape(2, len(one), 3)


def _measured(inputs: Inputs, theta: Vector) -> Float[Array, " 2"]:
    """The full-batch loss and the one-norm of its gradient."""
    value, g = jax.value_and_grad(inputs.objective.full_batch().loss)(theta, None)
    return jnp.stack([value, jnp.sum(jnp.abs(g))])
