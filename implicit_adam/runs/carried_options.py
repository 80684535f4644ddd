"""Checks of the options of `carried_flow`: the start, the sampling of mini-batches, the closure."""

import math
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from implicit_adam.checks.numbers import check_count, check_finite, check_positive, is_traced
from implicit_adam.fields.carried.carried_field import check_no_delays
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractRule
from implicit_adam.runs.interval import check_controller, check_solver
from implicit_adam.types import Scalar, Vector

# How many steps the optimizer takes itself before the equation takes over.
START = 10
CLOSURES = ("two-branch",)
# After how many steps the solver gives up.
MOST = 2**16


def check_solving(solver: Any, controller: Any) -> None:
    """A diffrax solver and controller; an implicit solver's root finder needs the tolerances of one."""
    check_solver(solver)
    check_controller(controller)
    if isinstance(solver, diffrax.AbstractImplicitSolver) and controller is None:
        msg = (
            f"solver: {type(solver).__name__} is implicit and needs tolerances; give a stepsize_controller "
            "as well, such as diffrax.PIDController(rtol=1e-6, atol=1e-9), or take an explicit solver"
        )
        raise ValueError(msg)


def checked_start(start: int | None, steps: int, m: int, noise: Any) -> int:
    """How many steps the optimizer takes itself: `start`, or the default.

    For a sampled run of m mini-batches the default is whole epochs: the memories must have seen a rare
    gradient before its variance can be simulated.
    """
    start = _usual_start(m, noise) if start is None else check_count("start", start, least=0)
    if start >= steps:
        msg = (
            f"start = {start} of steps = {steps}: the optimizer takes its first `start` steps itself, which "
            f"leaves the equation nothing to do; take more steps, or start = {steps // 10}"
        )
        raise ValueError(msg)
    return start


def _usual_start(m: int, noise: Any) -> int:
    if m == 1:
        return START
    # A number of steps is static: a traced noise cannot set it.
    epoch = m if noise is None or is_traced(noise) else 1 + float(noise) * (m - 1)
    return round(math.ceil(START / epoch) * epoch)


def check_sampled(
    key: Any, inputs: Inputs, order: int, solver: diffrax.AbstractSolver | None, *, replacement: bool
) -> None:
    """Raise `ValueError` unless `key` is None, or a key for a rule, mini-batches and the default solver."""
    if key is None:
        if replacement:
            msg = "replacement says how a sampled run draws its mini-batches: give a key, or leave it out"
            raise ValueError(msg)
        return
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim:
        msg = f"key must be a key such as jax.random.key(0), got {key!r}; map over several with jax.vmap"
        raise ValueError(msg)
    if inputs.batches is None or inputs.objective.m == 1:
        msg = "a sampled run (key) is one over random mini-batches: give two batches or more"
        raise ValueError(msg)
    if not isinstance(inputs.rule, AbstractRule):
        msg = (
            "a sampled run (key) is for rules such as ia.Adam(1e-3): what a transformation remembers of each "
            "mini-batch is not known; leave out the key for the mean run"
        )
        raise ValueError(msg)  # noqa: TRY004
    if order != 1 or solver is not None:
        msg = "a sampled run (key) takes leaps of order 1: leave out order and solver"
        raise ValueError(msg)


def checked_floor(closure: str | None, floor: Any, inputs: Inputs) -> Scalar | None:
    """The floor of the closure's alternation, None without a closure; raises `ValueError` for bad options."""
    if closure is None:
        if floor is not None:
            msg = 'floor belongs to a closure, and there is none: give closure="two-branch", or leave it out'
            raise ValueError(msg)
        return None
    if closure not in CLOSURES:
        msg = f"closure must be None or one of {', '.join(map(repr, CLOSURES))}, got {closure!r}"
        raise ValueError(msg)
    if inputs.batches is not None:
        msg = (
            f"closure={closure!r} is for full batch: between mini-batches the iterates differ by more than "
            "their alternation, which these branches do not have; leave out the batches and take their mean "
            "as the loss, or leave out the closure"
        )
        raise ValueError(msg)
    check_no_delays(inputs)
    if floor is None:
        return usual_floor(inputs.theta)
    check_finite("floor", floor)
    check_positive("floor", floor)
    return jnp.asarray(floor, inputs.theta.dtype)


def check_closure_ends(steps: int, controller: Any) -> None:
    """A closure takes a step of the solver for each of the optimizer; the solver gives up after `MOST`."""
    if controller is None and steps >= MOST:
        msg = (
            f"a closure over {steps} steps takes more than the {MOST} steps after which the solver gives up; "
            f"save up to {MOST - 1} steps after the start, or give a stepsize_controller"
        )
        raise ValueError(msg)


def usual_floor(theta: Vector) -> Scalar:
    """eps^(3/4): the smallest alternation, relative to theta, since otherwise it would decay to nothing."""
    return jnp.asarray(float(jnp.finfo(theta.dtype).eps) ** 0.75, theta.dtype)
