"""Checks that an optax transformation has a modified equation, with the reason if it has none."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from implicit_adam.rules.from_optax.clock import LONGEST
from implicit_adam.rules.from_optax.probe import Behaviour, behaviour
from implicit_adam.rules.from_optax.rule import Optax
from implicit_adam.rules.from_optax.trial import STEPS, updates_along
from implicit_adam.types import Params

# A window beyond which more than this share of an old gradient remains cuts more than the memory's tail.
CUT = 0.1


def check_runs(tx: optax.GradientTransformation, params: Any) -> None:
    """The transformation must run with `init(params)` and `update(gradient, state, params)` alone."""

    def once(params: Any) -> Any:
        return tx.update(params, tx.init(params), params)[0]

    try:
        with jax.numpy_dtype_promotion("standard"):
            updates = jax.eval_shape(once, params)
    except Exception as error:
        msg = (
            f"this transformation cannot be run by update(gradient, state, params) alone ({error}); one that "
            "needs the loss, a line search or parameters of its own kind as well cannot be used here"
        )
        raise ValueError(msg) from error
    if jax.tree.structure(updates) != jax.tree.structure(params):
        msg = "this transformation's updates are not a pytree like the parameters; is it an optimizer?"
        raise ValueError(msg)


def check_equation(rule: Optax, params: Any) -> None:
    """The transformation must have a modified equation and, with a window, a memory that can be restarted.

    Raises `ValueError` if not; warns if the equation is only formal, outside the theorem. A transformation
    that holds traced values cannot be inspected; it passes, unless it has a window.
    """
    found = behaviour(rule.tx, params)
    wrong = None if found is None else refusal(found)
    if wrong is None and rule.window is not None:
        wrong = _refused_window(found, rule.window)
    if wrong is not None:
        raise ValueError(wrong)
    doubt = None if found is None else reservation(found)
    if doubt is not None:
        warnings.warn(doubt, stacklevel=3)


def check_rate(make: Callable[[float], optax.GradientTransformation], params: Params) -> None:
    """The learning rate must be a factor of the updates, so that h can scale those of learning rate 1."""
    rate = 0.1
    with jax.numpy_dtype_promotion("standard"):
        ones, others = (updates_along(make(x), params) for x in (1.0, rate))
    pairs = zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True)
    if not all(np.allclose(rate * np.asarray(x), np.asarray(y), rtol=1e-4, atol=0) for x, y in pairs):
        msg = (
            "its learning rate is no factor of this transformation's updates, so that h times those of "
            "learning rate 1 are another optimizer; pass it bare, with its own learning rate, and count time "
            "in steps"
        )
        raise ValueError(msg)


def refusal(found: Behaviour) -> str | None:
    """Why there is no modified equation; None if there is one."""
    if found.differences:
        return (
            "this transformation's update depends on differences between iterates: it keeps earlier points, "
            "or moves the parameters away and back (as sam and schedule_free do, and those that take their "
            "step size from the distance travelled, such as dog and prodigy). Such differences vanish where "
            "the equation is expanded, at a history of equal points, and h from outside scales another step "
            "than its own: it has no modified equation here; ia.iterate runs it as it is"
        )
    if found.projects:
        return (
            "this transformation sets parameters, whatever they were (a projection, such as "
            "keep_params_nonnegative): its update jumps where the constraint begins to act, and h from "
            "outside undoes the projection, so that it has no modified equation; leave the projection out "
            "or write the parameters as a smooth function of free ones (e.g. squares)"
        )
    if not found.finite:
        return (
            "this transformation's update has no finite derivative in the gradient: it divides by zero, or "
            "takes a root of it, somewhere; an eps, or an eps_root inside the root, may help"
        )
    if not found.responds:
        return (
            f"this transformation's update has derivative zero in the gradient in each of {STEPS} steps, "
            "early and late (a sign? a quantiser?), so that it has no modified equation; take a smooth one: "
            "ia.Lion or ia.Signum with a width eps, or optax.scale_by_lion(mode='smooth')"
        )
    if found.narrow:
        return (
            "this transformation remembers gradients in a narrower dtype than it computes in: "
            f"{', '.join(found.narrow)}. The rounding, at every step, is not in the equation; pass the "
            "parameters' dtype, or float32 if theirs is narrower (as mu_dtype, accumulator_dtype, "
            "dtype_momentum, state_dtype or param_dtype)"
        )
    return None


def reservation(found: Behaviour) -> str | None:
    """Why the theorem does not cover an existing modified equation; None if it does."""
    formal = (
        "Its modified equation is formal: the error of the flow need not shrink with h, at any order. "
        "ia.iterate runs it as it is and ia.convergence measures the error; averages of a fixed decay are "
        "inside (rmsprop for adagrad, adam for amsgrad and yogi)"
    )
    outside = "this transformation is outside the theorem:"
    if found.kept:
        return f"{outside} its memory of old gradients does not fade ({', '.join(found.kept)}). {formal}"
    if found.growing:
        return f"{outside} its memory grows with the step number ({', '.join(found.growing)}). {formal}"
    if found.flat:
        return (
            f"this transformation's update has derivative zero in the gradient for {', '.join(found.flat)} "
            "(a sign? a trust ratio of a single number?); the modified equation is right only while none of "
            "these gradients changes its sign"
        )
    return None


def _refused_window(found: Behaviour | None, window: int) -> str | None:
    if found is None:
        return (
            "this transformation holds traced values, so that what counts steps in its state cannot be "
            "found; make it outside of jit and vmap, or leave out the window"
        )
    if found.clock.unpredictable:
        return (
            "with a window the memory is begun anew at a late step, where this transformation's "
            f"{', '.join(found.clock.unpredictable)} is unknown: it neither counts steps nor repeats itself "
            f"within {LONGEST} of them (a random key? a flag set by gradients?); leave out the window"
        )
    if found.kept or found.growing:
        return "a window cuts a memory that fades, and this transformation's does not; leave out the window"
    left = found.decay**window
    if left > CUT:
        enough = math.ceil(math.log(CUT) / math.log(found.decay))
        return (
            f"window = {window} cuts a memory of decay {found.decay:.6g} a step where {left:.0%} of it is "
            f"left; take {enough} or more, or leave out the window"
        )
    return None
