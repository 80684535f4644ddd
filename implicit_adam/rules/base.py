"""What an optimizer is: features of the gradient, kernels that remember them, a readout.

With g_k the gradient of the mini-batch of step k, the update of step n is

    theta^(n+1) = theta^(n) - h F^(n),      F^(n) = readout(s_1, .., s_r, theta^(n), n)
    s_i = sum_{k<=n} w_i(n, k) psi_i(g_k)

with elementwise `features` psi_i, scalar memory `kernels` w_i and an elementwise `readout`. Whatever
else the library knows of an optimizer (closed forms, mini-batch fields, flows, command line) follows
from these three and the optax twin.
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
    """Anything that makes iterates: theta^(n+1) = theta^(n) - h F^(n), with its hyperparameters as leaves.

    Build under `jax.vmap` for many at once; differentiate through the constructor as through any function. A
    hyperparameter out of range raises `ValueError` on construction, unless it is traced. Positional arguments
    stand in the order of optax's function of the same name, with the same defaults; all others go by keyword.
    In float32 a decay is a float32 number, and 1 - rho has the relative error 6e-8 / (1 - rho), while optax
    takes it from the Python float.
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
        """The optax optimizer that makes the same iterates."""

    def astype(self, dtype: DTypeLike) -> "AbstractOptimizer":
        """Cast the hyperparameters to the dtype that is computed in.

        One that changes its meaning there (an eps or h that vanishes, a decay too close to 1) is refused, and
        a traced one outside its interval becomes NaN, which the result shows.
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
                f"{field.name}: Array = eqx.field(converter=scalar, metadata=POSITIVE), of ia.rules"
            )
            raise ValueError(msg)


# For each feature and each exponential of its kernel, sum_k decay^(n-k) psi(g_k); None for the present alone.
Sums = tuple[tuple[Vector | None, ...], ...]


class AbstractRule(AbstractOptimizer):
    """An optimizer given by features, kernels and a readout, all elementwise.

    The contract, checked on construction without computing anything (`rules.contract`; `ValueError` says what
    is broken):

    - `features(g)` and `readout(s, theta, n)` are elementwise in the coordinates; there is one kernel a
      feature, in the same order, which is any order;
    - the decays of `kernels(n)` are numbers in [0, 1] that do not depend on n, while scales may;
    - all three are differentiable and can be traced, in n too.

    What may depend on n and what does not is found out: an update that, all gradients taken at one point, is
    the same at every step has closed forms in full batch.

    `study` holds the hyperparameters that a first study of its order should take in place of its defaults,
    with memories short enough for the theorem; an `eps` there is the width of a sign, in units of a gradient
    component.
    """

    study: ClassVar[Mapping[str, float]] = {}

    def __check_init__(self) -> None:
        _check_hyperparameters(self)
        check_contract(self)

    @abstractmethod
    def features(self, g: Float[Array, "*batch p"]) -> tuple[Float[Array, "*batch p"], ...]:
        """psi_i(g), elementwise."""

    @abstractmethod
    def kernels(self, n: StepNumber) -> tuple[Kernel, ...]:
        """The memory kernel of each feature at step n, which may be `jnp.inf`."""

    @abstractmethod
    def readout(self, s: tuple[Vector, ...], theta: Vector, n: StepNumber) -> Vector:
        """F^(n) from the remembered features and the present point, elementwise."""

    def readout_between_steps(self, s: tuple[Vector, ...], theta: Vector, n: Scalar) -> Vector:
        """The readout at a step number that is no integer: its formula, where that holds for any n."""
        return self.readout(s, theta, n)

    def transformation(self) -> optax.GradientTransformation:
        """The optax optimizer that makes the same iterates, derived from the three above (`rules.twin`)."""
        return twin(self)

    def sums(self, opt_state: Any) -> Sums:
        """The memories in a state of `transformation()`, for each feature and each exponential of its kernel:

        the flat vector sum_k decay^(n-k) psi(g_k), or None where that is the present gradient alone, which no
        state keeps. A rule with a transformation of its own says here what its state holds; see `Adam`.
        """
        return sums_in(self, opt_state)
