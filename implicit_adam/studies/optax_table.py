"""The order of the modified equation, measured for every optimizer of optax, or why there is none.

Each optimizer gets a short memory. It is first examined as in `ia.Optax`. Then its updates at learning rate
h are compared with h times those at learning rate 1, to make sure that the optimizer itself is measured. Then
the plain (order 0) and the corrected flow (order 1) are compared with its iterates at several h, on a small
network in three mini-batches.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from implicit_adam.fields.vector_field import exact_terms
from implicit_adam.objective import raveled_loss
from implicit_adam.rules.from_optax.checks import check_rate, check_runs, refusal, reservation
from implicit_adam.rules.from_optax.probe import behaviour
from implicit_adam.rules.from_optax.rule import Optax
from implicit_adam.runs.interval import interval_step
from implicit_adam.runs.iterate import optimizer_step
from implicit_adam.studies.optax_examples import Make, entries
from implicit_adam.types import Params, Scalar, StepNumber
from implicit_adam.vectors import ravel

SUPPORTED, OUTSIDE, REFUSED, UNSETTLED = "supported", "outside the theorem", "refused", "not settled"
HORIZON, STEP_COUNTS = 0.05, (96, 192)
TOLERANCE = 0.15


class Row(NamedTuple):
    """The result for one optimizer: the slopes of orders 0 and 1, and the relative error of order 1.

    `error` is that at the smallest h, over the distance travelled. NaN where nothing was measured.
    """

    name: str
    arguments: str
    verdict: str
    slope: tuple[float, float]
    error: float
    reason: str


def rows(chosen: list[str] | None = None, threads: int = 2) -> Iterator[Row]:
    """The rows of the table, one by one; `chosen` restricts them to some names of `entries()`."""
    table = entries()
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda name: row(name, *table[name]), table if chosen is None else chosen)


def row(name: str, arguments: str, make: Make) -> Row:
    """Examine one optimizer, then measure its slopes if it has a modified equation."""
    params = _problem()[1]
    try:
        tx = make(1.0)
        check_runs(tx, params)
        found = behaviour(tx, params)
        assert found is not None
        wrong = refusal(found)
        if wrong is not None:
            return _refused(name, arguments, wrong)
        check_rate(make, params)
    except ValueError as error:
        return _refused(name, arguments, str(error))
    slope, error = _measured(tx)
    doubt = reservation(found)
    holds = all(abs(slope[q] - (q + 1)) <= TOLERANCE for q in (0, 1))
    verdict = OUTSIDE if doubt else SUPPORTED if holds else UNSETTLED
    return Row(name, arguments, verdict, slope, error, doubt or "")


def _refused(name: str, arguments: str, reason: str) -> Row:
    return Row(name, arguments, REFUSED, (np.nan, np.nan), np.nan, reason)


def _problem() -> tuple[Callable[..., Scalar], Params, Any]:
    """(loss, params, batches): a small tanh layer on three mini-batches, with no gradient near zero."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape))

    def loss(params: Params, batch: Any) -> Scalar:
        x, y = batch
        return jnp.mean((jnp.tanh(x @ params["w"]) + params["b"][None] - y) ** 2)

    return loss, {"w": normal(3, 2), "b": normal(2)}, (normal(3, 4, 3), 2 + normal(3, 4, 2))


def _measured(tx: optax.GradientTransformation) -> tuple[tuple[float, float], float]:
    """The slopes of orders 0 and 1 between the two smallest h, and the relative error of order 1 there."""
    loss, params, batches = _problem()
    objective, theta = raveled_loss(loss, params, batches), ravel(params)

    @jax.jit
    def largest(h: Scalar, steps: StepNumber) -> Any:
        rule = Optax(h, tx)
        start, step = optimizer_step(rule, objective)
        terms = exact_terms(rule, objective, 1, flow=True)

        def across(n: StepNumber, theta: Any, order: Scalar) -> Any:
            def field(n: StepNumber) -> Any:
                def velocity(theta: Any) -> Any:
                    F, correction = terms(n)(theta)
                    return -(F + order * h * correction)

                return velocity

            return interval_step(field, h, diffrax.Bosh3())(n, theta)[0]

        def advance(n: StepNumber, carry: Any) -> Any:
            optimizer, points, sup = carry
            optimizer = step(n, optimizer)
            points = jax.vmap(across, (None, 0, 0))(n, points, jnp.asarray([0.0, 1.0]))
            error = jnp.linalg.norm(points - optimizer[0][None], axis=1)
            far = jnp.linalg.norm(optimizer[0] - theta)[None]
            return optimizer, points, jnp.maximum(sup, jnp.concatenate([error, far]))

        begun = (start(theta), jnp.stack([theta, theta]), jnp.zeros(3))
        return jax.lax.fori_loop(0, steps, advance, begun)[2]

    errors = np.array([largest(jnp.asarray(HORIZON / n), jnp.asarray(n)) for n in STEP_COUNTS])
    slope = np.log2(errors[-2, :2] / errors[-1, :2])
    return (float(slope[0]), float(slope[1])), float(errors[-1, 1] / errors[-1, 2])
