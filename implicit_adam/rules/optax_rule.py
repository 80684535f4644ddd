"""Any optax transformation as an optimizer."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from implicit_adam.checks import POSITIVE, check_count, check_transformation, is_traced
from implicit_adam.rules.base import AbstractOptimizer, scalar
from implicit_adam.types import Params, Scalar, Vector


@final
class Optax(AbstractOptimizer):
    """theta^(n+1) = theta^(n) + h u^(n), u^(n) the updates of any optax transformation: F^(n) = -u^(n).

    - `h`: the step size, for a `tx` of learning rate 1. A bare transformation given where an optimizer is
      expected counts as h = 1: its own learning rate is the step size, and time is counted in steps.
    - `tx`: e.g. `optax.adabelief(1.0)` or a chain. It must be differentiable in the gradient. Make it once:
      each new transformation is a new function to JAX and compiles anew, while `h` is traced.
      Its state must be a fading memory of gradients: iterates kept there (schedule_free, lookahead) or a
      memory that never fades (adagrad, amsgrad) are outside the theorem, which `convergence` shows.
    - `window`: how many past steps the vector field looks back; None, all of them. A window starts the memory
      empty at step n - window with its counters (integer scalars) set as if it had run, so that a memory of
      decay b is cut with a relative error of about b^window.
    """

    h: Scalar = eqx.field(converter=scalar, metadata=POSITIVE)
    tx: optax.GradientTransformation
    window: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_transformation("tx", self.tx)
        if self.window is not None:
            check_count("window", self.window)

    def transformation(self):
        return optax.chain(self.tx, optax.scale(self.h))


def as_optimizer(rule: Any) -> Any:
    """A bare optax transformation counts as h = 1: its learning rate is the step size. Others stay."""
    is_transformation = isinstance(rule, optax.GradientTransformation)
    return Optax(1.0, rule) if is_transformation else rule


def raveled(
    tx: optax.GradientTransformation, unravel: Callable[[Vector], Params]
) -> optax.GradientTransformation:
    """`tx` on flat vectors; it still sees the pytree, for what depends on layers and shapes."""

    def init(params: Any) -> Any:
        return tx.init(unravel(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # optax raises floating decays to an integer count, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(unravel(updates), state, unravel(params))
        return ravel_pytree(updates)[0], state

    return optax.GradientTransformation(init, update)


def check_differentiable(tx: optax.GradientTransformation, params: Params) -> None:
    """The update must respond to the gradient: a sign or a quantiser is flat wherever it is defined.

    Decided by trying, not by names: the derivative of the third update along random gradients, large and
    small (a clipped update responds to small ones only).
    """
    try:
        response = [*_response(tx, params, 1.0), *_response(tx, params, 1e-4)]
    except TypeError as error:
        msg = (
            f"this transformation cannot be run by update(gradient, state, params) alone ({error}); one that "
            "needs the loss or a line search as well has no modified equation here"
        )
        raise ValueError(msg) from error
    if any(is_traced(leaf) or isinstance(leaf, jax.ShapeDtypeStruct) for leaf in response):
        return
    size = sum(float(np.abs(np.asarray(leaf, np.float64)).sum()) for leaf in response)
    if size == 0:
        msg = (
            "this transformation's update has derivative zero in the gradient (a sign? a quantiser?), so "
            "that it has no modified equation; take a smooth one: ia.Lion or ia.Signum with a width eps, "
            "or optax.scale_by_lion(mode='smooth')"
        )
        raise ValueError(msg)
    if not np.isfinite(size):
        msg = "this transformation's update has no finite derivative in the gradient; a larger eps may help"
        raise ValueError(msg)


def _response(tx: optax.GradientTransformation, params: Params, scale: float) -> list[Any]:
    rng = np.random.default_rng(0)

    def random() -> Params:
        return jax.tree.map(lambda x: jnp.asarray(scale * rng.standard_normal(x.shape), x.dtype), params)

    def third_update() -> Any:
        point = random()
        state = tx.init(point)
        for _ in range(2):
            _, state = tx.update(random(), state, point)
        return jax.jvp(lambda g: tx.update(g, state, point)[0], (random(),), (random(),))[1]

    with jax.numpy_dtype_promotion("standard"):
        try:
            with jax.ensure_compile_time_eval():
                return jax.tree.leaves(third_update())
        except NotImplementedError:
            # JAX 0.7 cannot evaluate every loop at once, as in L-BFGS: only what needs no numbers is found.
            return jax.tree.leaves(jax.eval_shape(third_update))
