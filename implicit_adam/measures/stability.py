"""The largest curvature at which an optimizer is stable on a quadratic (`rules.root_locus`)."""

from typing import cast

import jax.numpy as jnp

from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.runs import check_step_number
from implicit_adam.rules.base import AbstractRule
from implicit_adam.rules.linear import linear_part
from implicit_adam.rules.root_locus import first_crossing
from implicit_adam.rules.scheduled import unscheduled
from implicit_adam.types import Scalar, StepNumber


def stability_threshold(rule: AbstractRule, n: StepNumber | None = None) -> Scalar:
    """The `preconditioned_sharpness` above which the optimizer is unstable: growing oscillations.

    For Adam, heavy ball, and with beta = 0 RMSProp and gradient descent, d being the weight decay if any,

        (2 - h d) (1 + beta) / ((1 - beta) h)

    For other rules, the value at which the first root of their linear recursion on a quadratic leaves the
    unit circle: for Nesterov 2 (1 + beta) / ((1 - beta) (1 + 2 beta) h). Derived for a frozen preconditioner;
    for Lion and Signum, with the smooth sign linearised at its present argument.

    - `n`: the step at which the learning-rate schedule and the bias correction are taken; by default the
      limit n to infinity. A rule on a schedule needs it: its step size there is h schedule(n).

    Has the unit of 1/h. Infinite if no root ever leaves the circle, 0 if h d >= 2 makes the decay itself
    unstable. Can be jitted, vmapped and differentiated; NaN for traced hyperparameters that would be refused
    as known numbers. Raises `ValueError` for a rule without a linear part or with one that differs between
    points, and for a schedule without n.
    """
    check_rule(rule, AbstractRule)
    if n is not None:
        check_step_number(n, None)
    rule = cast(AbstractRule, unscheduled(rule, n).astype(rule.h.dtype))
    return first_crossing(linear_part(rule, jnp.inf if n is None else n), rule.h)
