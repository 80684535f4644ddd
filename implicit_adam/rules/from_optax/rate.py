"""A warning for a learning rate that is given twice: as h, and inside the transformation.

`ia.Optax(1e-3, optax.adam(1e-3))` takes steps of 1e-6. The learning rate is the last constant that multiplies
the updates (`programs.last_factor`). It is read from the program, so that updates that are small for other
reasons do not count: gradients, an eps, a trust ratio and the distance travelled are data.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.checks.numbers import is_traced
from implicit_adam.programs.captured import trace
from implicit_adam.programs.last_factor import Data, last_factors
from implicit_adam.rules.from_optax.found_once import found_once
from implicit_adam.rules.from_optax.rule import Optax
from implicit_adam.rules.from_optax.state import is_number
from implicit_adam.rules.scheduled import LOOKS, RATE, TIMES
from implicit_adam.types import Params


def warn_of_a_rate_twice(rule: Optax, params: Any) -> None:
    """Warn if h looks like a learning rate and the constant factor of the updates is at most ten times h."""
    if is_traced(rule.h) or float(rule.h) > RATE:
        return
    h, rate = float(rule.h), learning_rate(rule.tx, params)
    if rate is None or not 0 < rate <= TIMES * h:
        return
    msg = (
        f"the updates of this transformation are multiplied by {rate:g} (its learning rate?), and h = {h:g} "
        f"multiplies them again: the steps are those of the learning rate {rate * h:.3g}. Make it with "
        f"learning rate 1, as in ia.Optax({rate:g}, optax.adam(1.0)), or pass the transformation bare, whose "
        "own learning rate is the step size"
    )
    warnings.warn(msg, stacklevel=4)


@found_once
def learning_rate(tx: optax.GradientTransformation, params: Any) -> float | None:
    """The largest constant factor at the end of any update, at early and late steps; None if unknown."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)

    def zeros() -> Params:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    with jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(lambda: tx.init(zeros()))
        program, _ = trace(lambda g, state, params: tx.update(g, state, params)[0], like, shapes, like)
        with jax.ensure_compile_time_eval():
            state = [jnp.asarray(x) for x in jax.tree.leaves(tx.init(zeros()))]
    if any(is_traced(x) for x in (*program.consts, *state)):
        return None
    data = [Data(1.0) for _ in jax.tree.leaves(like)]
    factors = [
        factor
        for n in LOOKS
        for factor in last_factors(program, [*data, *(_at(n, x) for x in state), *data])
        if factor is not None
    ]
    return max(factors, default=None)


def _at(n: int, x: Any) -> Any:
    """A leaf of the state at step n: integers count steps, other numbers stay, arrays are data."""
    if not is_number(x):
        return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else Data(1.0)
    return np.asarray(n, x.dtype) if jnp.issubdtype(x.dtype, jnp.integer) else x
