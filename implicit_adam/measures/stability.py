"""How sharp a quadratic an optimizer bears: its threshold of stability (`rules.root_locus`)."""

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
    """Where the update starts to oscillate, growing: the bound on `preconditioned_sharpness`.

    For Adam, heavy ball, and with beta = 0 RMSProp and gradient descent, d being the weight decay if any,

        (2 - h d) (1 + beta) / ((1 - beta) h)

    and for every rule where the first root of its linear recursion on a quadratic leaves the unit circle: for
    Nesterov 2 (1 + beta) / ((1 - beta) (1 + 2 beta) h). Derived for a frozen preconditioner, and for Lion and
    Signum with the smooth sign linearised about where it is.

    - `n`: the step at which learning-rate schedule and bias correction are read; by default late, n to
      infinity. A rule on a schedule needs it: its step size there is h schedule(n).

    In units of 1/h; infinite if no root ever leaves, 0 if h d >= 2 makes the decay itself unstable. May be
    jitted, mapped and differentiated; NaN for traced hyperparameters where known ones would be refused.
    Raises `ValueError` for a rule without a linear part or with one that differs between points, and for a
    schedule without n.
    """
    check_rule(rule, AbstractRule)
    if n is not None:
        check_step_number(n, None)
    rule = cast(AbstractRule, unscheduled(rule, n).astype(rule.h.dtype))
    return first_crossing(linear_part(rule, jnp.inf if n is None else n), rule.h)
