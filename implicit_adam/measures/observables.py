"""Quantities to observe along a run: those known by name, or the user's own functions of the parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.bias.bias import perturbed_one_norm
from implicit_adam.inputs import Inputs
from implicit_adam.measures.sharpness import sharpness
from implicit_adam.objective import Objective
from implicit_adam.rules.scheduled import below_schedules
from implicit_adam.types import Params, Scalar, Vector

# theta, the point of the flow at the same time -> a number
Observable = Callable[[Vector, Vector], Scalar]


def check_named(observables: Any) -> None:
    """Raise `ValueError` unless `observables` holds names, or is a mapping from names to functions."""
    if not np.iterable(observables) or any(map(callable, observables)):
        msg = (
            f"observables must be names from {', '.join(OBSERVABLES)}, or your own by name, "
            f"{{'my name': f, ..}} with f(params) -> a number; got {observables!r}"
        )
        raise ValueError(msg)


def chosen(observables: Any, inputs: Inputs) -> dict[str, Observable]:
    """The functions to watch, by name; raises `ValueError` for unknown names and for two flows at once."""
    if isinstance(observables, Mapping) and observables:
        return {str(name): _own(str(name), f, inputs) for name, f in observables.items()}
    names = names_of(observables)
    unknown = [name for name in names if name not in OBSERVABLES]
    if unknown or not names:
        msg = f"observables {unknown or names!r} are not known; known are {', '.join(OBSERVABLES)}"
        raise ValueError(msg)
    with_flow = [name for name in names if OBSERVABLES[name].flow is not None]
    if len({OBSERVABLES[name].flow for name in with_flow}) > 1:
        msg = f"observe one of {' and '.join(with_flow)} at a time: each has a flow of its own"
        raise ValueError(msg)
    return {name: OBSERVABLES[name].watch(inputs, inputs.objective.full_batch()) for name in names}


def names_of(observables: Any) -> tuple[str, ...]:
    """The known names that are asked for; empty if the observables are the user's own functions."""
    if isinstance(observables, Mapping):
        return ()
    return (observables,) if isinstance(observables, str) else tuple(observables)


def _own(name: str, f: Callable[[Params], Any], inputs: Inputs) -> Observable:
    if not callable(f):
        msg = f"the observable {name!r} must be a function of the params, got {f!r}"
        raise ValueError(msg)  # noqa: TRY004
    value = jax.eval_shape(f, inputs.params)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        msg = f"the observable {name!r} must return one real floating number, got {value}"
        raise ValueError(msg)
    return lambda theta, _: jnp.asarray(f(inputs.unraveled(theta)), theta.dtype)


def _gradient(f: Callable[[Inputs, Vector], Scalar]) -> Callable[[Inputs, Objective], Observable]:
    """An observable f(inputs, g) of the full-batch gradient g."""
    return lambda inputs, whole: lambda theta, _: f(inputs, whole.gradients(theta)[0])


def _perturbed(inputs: Inputs, g: Vector) -> Scalar:
    rule = below_schedules(inputs.rule)
    if not hasattr(rule, "eps_in_sqrt"):
        msg = (
            "perturbed_one_norm needs an optimizer whose eps stands beside the root of squared gradients, as "
            f"in ia.Adam; {type(rule).__name__} has none (in ia.Lion and ia.Signum eps is the width "
            "of the sign). Watch a norm with an eps of your own: "
            "{'norm': lambda params: ia.perturbed_one_norm(jax.grad(loss)(params), eps)}"
        )
        raise ValueError(msg)
    return perturbed_one_norm(g, rule.eps, eps_in_sqrt=rule.eps_in_sqrt)


def _distance(_inputs: Inputs, _whole: Objective) -> Observable:
    return lambda theta, flow: jnp.linalg.norm(theta - flow)


def _sharpness(_inputs: Inputs, whole: Objective) -> Observable:
    def mean_loss(theta: Vector) -> Scalar:
        return whole.loss(theta, None)

    return lambda theta, _: sharpness(mean_loss, theta).value


# The flow with carried memory, of order 1.
CARRIED = "carried"


class Named(NamedTuple):
    """An observable that is known by name. To add one, add an entry to `OBSERVABLES`.

    - `words`: its description.
    - `watch`: (inputs, the full-batch objective) -> (theta, the flow's point) -> the number.
    - `flow`: the order of the flow that theta is compared with, or `CARRIED`; None without a flow.
    - `curvature`: whether it takes Hessian-vector products, which the loss must then allow.
    """

    words: str
    watch: Callable[[Inputs, Objective], Observable]
    flow: int | str | None = None
    curvature: bool = False


# The observables that `observe` and `implicit-adam sweep --observable` know by name.
OBSERVABLES: dict[str, Named] = {
    "loss": Named("the full-batch loss", lambda inputs, whole: lambda theta, _: whole.loss(theta, None)),
    "one_norm": Named("sum_i |g_i| of its gradient", _gradient(lambda inputs, g: jnp.sum(jnp.abs(g)))),
    "perturbed_one_norm": Named("||g||_{1,eps} with the optimizer's eps", _gradient(_perturbed)),
    "two_norm": Named("||g||", _gradient(lambda inputs, g: jnp.linalg.norm(g))),
    "distance": Named("to the flow of order 1 from the same start", _distance, flow=1, curvature=True),
    "plain_distance": Named("to the flow of order 0 from the same start", _distance, flow=0),
    "carried_distance": Named("to the flow with carried memory (`ia.carried_flow`)", _distance, flow=CARRIED),
    "sharpness": Named("the top Hessian eigenvalue", _sharpness, curvature=True),
}
