"""The checks that every run of a modified equation makes first."""

from typing import Any

from implicit_adam.checks.runs import check_order, check_shifted_order
from implicit_adam.fields.vector_field import HIGHEST_ORDER
from implicit_adam.inputs import Inputs, checked_inputs, identified


def checked_run(
    rule: Any,
    loss: Any,
    params: Any,
    steps: int,
    batches: Any,
    schedule: Any,
    *,
    order: int,
    shifted: bool,
) -> Inputs:
    """The checked inputs of a run of this order, with the digest under which its compiled program is kept."""
    check_order(order, HIGHEST_ORDER)
    check_shifted_order(order, shifted=shifted)
    inputs = checked_inputs(rule, loss, params, batches, schedule, steps, shifted=shifted, products=order > 0)
    return identified(inputs)
