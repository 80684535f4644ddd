"""An optimizer as features of the gradient, kernels that remember them, and a readout.

With g_k the gradient of the mini-batch of step k, the update of step n is

    theta^(n+1) = theta^(n) - h F^(n),      F^(n) = readout(s_1, .., s_r, theta^(n), n)
    s_i = sum_{k<=n} w_i(n, k) psi_i(g_k)

with elementwise `features` psi_i, scalar memory `kernels` w_i and an elementwise `readout`. Everything else
that the library knows about an optimizer (closed forms, mini-batch fields, flows, command line) follows from
these three and the optax twin.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import equinox as eqx
import jax
import optax
from jaxtyping import Array, DTypeLike, Float

from implicit_adam.reprs import call
from implicit_adam.rules.contract import check_contract
from implicit_adam.rules.hyperparameters import ALLOWED, cast, check_hyperparameter
from implicit_adam.rules.kernels import Kernel
from implicit_adam.rules.names import check_arguments
from implicit_adam.rules.twin import sums_in, twin
from implicit_adam.types import Scalar, StepNumber, Vector


class AbstractOptimizer(eqx.Module):
    """An optimizer theta^(n+1) = theta^(n) - h F^(n), as a pytree with its hyperparameters as leaves.

    Construct it under `jax.vmap` for many at once, and differentiate through the constructor as through any
    function. A hyperparameter out of range raises `ValueError` on construction, unless it is traced.
    Positional arguments have the order and the defaults of optax's function of the same name; all others are
    keyword-only. In float32 a decay is a float32 number, so 1 - rho has the relative error 6e-8 / (1 - rho),
    while optax computes it from the Python float.
    """

    h: eqx.AbstractVar[Scalar]

    def __new__(cls, *args: object, **kwargs: object):
        check_arguments(cls, args, kwargs)
        return super().__new__(cls)

    def __check_init__(self) -> None:
        _check_hyperparameters(self)

    def __repr__(self) -> str:
        return call(self)

    @abstractmethod
    def transformation(self) -> optax.GradientTransformation:
        """The optax optimizer that gives the same iterates."""

    def astype(self, dtype: DTypeLike) -> "AbstractOptimizer":
        """The optimizer with its hyperparameters in the dtype of the computation.

        Raises `ValueError` for a value that changes its meaning there (an eps or h that vanishes, a decay too
        close to 1). A traced value outside its interval becomes NaN, and so does the result.
        """
        rule = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_array(x) else x, self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, AbstractOptimizer):
                converted = value.astype(dtype)
            elif ALLOWED in field.metadata or field.name == "eps":
                converted = cast(type(self).__name__, field.name, value, field.metadata.get(ALLOWED), dtype)
            else:
                continue
            rule = eqx.tree_at(lambda rule, name=field.name: getattr(rule, name), rule, converted)
        return rule

    def with_step_size(self, h: Scalar) -> "AbstractOptimizer":
        """The same optimizer with another step size."""
        return eqx.tree_at(lambda rule: rule.h, self, h)


def _check_hyperparameters(rule: AbstractOptimizer) -> None:
    for field in fields(rule):
        if ALLOWED in field.metadata:
            value, allowed = getattr(rule, field.name), field.metadata[ALLOWED]
            check_hyperparameter(type(rule).__name__, field.name, value, allowed)
        elif isinstance(getattr(rule, field.name), float):
            msg = (
                f"{type(rule).__name__}: {field.name} must become an array, to be swept and differentiated: "
                f"{field.name}: Array = eqx.field(converter=scalar, metadata=POSITIVE), from ia.rules"
            )
            raise ValueError(msg)


# For each feature, for each exponential of its kernel: sum_k decay^(n-k) psi(g_k), None for decay 0.
Sums = tuple[tuple[Vector | None, ...], ...]


class AbstractRule(AbstractOptimizer):
    """An optimizer given by features, kernels and a readout, all elementwise.

    The contract, checked on construction (`rules.contract`; the `ValueError` says what is broken):

    - `features(g)` and `readout(s, theta, n)` are elementwise in the coordinates; there is one kernel for
      each feature, in the same order;
    - the decays of `kernels(n)` are numbers in [0, 1] that do not depend on n, while scales may;
    - all three are differentiable and can be traced, also in n.

    Which of them depend on n is found automatically: if the update with all gradients taken at one point is
    the same at every step, full-batch fields have closed forms.

    `study` holds hyperparameters for a first convergence study, in place of the defaults: memories short
    enough for the theorem. An `eps` in it is the width of a smooth sign, in units of a gradient component.
    """

    study: ClassVar[Mapping[str, float]] = {}

    def __check_init__(self) -> None:
        _check_hyperparameters(self)
        check_contract(self)

    @abstractmethod
    def features(self, g: Float[Array, "*batch p"]) -> tuple[Float[Array, "*batch p"], ...]:
        """The features psi_i(g), elementwise."""

    @abstractmethod
    def kernels(self, n: StepNumber) -> tuple[Kernel, ...]:
        """The memory kernel of each feature at step n, which may be `jnp.inf`."""

    @abstractmethod
    def readout(self, s: tuple[Vector, ...], theta: Vector, n: StepNumber) -> Vector:
        """F^(n) from the remembered features s and the current point theta, elementwise."""

    def readout_between_steps(self, s: tuple[Vector, ...], theta: Vector, n: Scalar) -> Vector:
        """The readout at a step number n that is not an integer; by default the same formula."""
        return self.readout(s, theta, n)

    def transformation(self) -> optax.GradientTransformation:
        """The optax optimizer with the same iterates, derived from the three methods above (`rules.twin`)."""
        return twin(self)

    def sums(self, opt_state: Any) -> Sums:
        """The memories in a state of `transformation()`, for each feature and each exponential of its kernel.

        Each is the flat vector sum_k decay^(n-k) psi(g_k), or None for the present gradient alone, which no
        state keeps. A rule with its own `transformation` must say here what its state holds; see `Adam`.
        """
        return sums_in(self, opt_state)
