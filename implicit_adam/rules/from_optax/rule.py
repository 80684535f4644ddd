"""Any optax transformation as an optimizer."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import optax

from implicit_adam.checks.numbers import check_count
from implicit_adam.checks.optimizers import check_transformation
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.hyperparameters import POSITIVE, scalar
from implicit_adam.types import Params, Scalar, Vector
from implicit_adam.vectors import ravel


@final
class Optax(AbstractOptimizer):
    """Any optax transformation: theta^(n+1) = theta^(n) + h u^(n), u^(n) its updates, so that F^(n) = -u^(n).

    - `h`: the step size, for a `tx` made with learning rate 1. The learning rate must be a factor of the
      updates of `tx`; then these are the iterates of the same optimizer with learning rate h. A bare
      transformation in place of an optimizer counts as h = 1: its own learning rate is the step size, and
      time is counted in steps. Runs and fields warn if `tx` still has a small learning rate beside a small h
      (`from_optax.rate`).
    - `tx`: e.g. `optax.adabelief(1.0)` or a chain. Make it once: JAX takes each new transformation for a new
      function and compiles again, while `h` is traced.
    - `window`: how many past steps the vector field looks back; None for all. For transformations that are
      re-run over their history (see `vector_field`); others cost less without. The memory then starts empty
      at step n - window, or up to one period of the state earlier, with step counters set as if it had run. A
      memory of decay b is cut with a relative error of about b^window.

    `iterate` runs every transformation. Whether there is a modified equation is found by running it once on
    random gradients (`from_optax.probe`). Fields and flows raise `ValueError` for a transformation without
    one, and warn if its memory does not fade (`from_optax.checks`). `implicit-adam optax` prints a table of
    all.
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
    """A bare optax transformation becomes `Optax` with h = 1: its learning rate is the step size."""
    is_transformation = isinstance(rule, optax.GradientTransformation)
    return Optax(1.0, rule) if is_transformation else rule


def raveled_transformation(
    tx: optax.GradientTransformation, unravel: Callable[[Vector], Params]
) -> optax.GradientTransformation:
    """`tx` on flat vectors; inside it still sees the pytree, since it may depend on layers and shapes."""
    tx = promoting(tx)

    def init(params: Any) -> Any:
        return tx.init(unravel(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = tx.update(unravel(updates), state, unravel(params))
        return ravel(updates), state

    return optax.GradientTransformation(init, update)


def promoting(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` where dtypes are promoted: optax raises floating decays to an integer count."""

    def init(params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return tx.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(init, update)
