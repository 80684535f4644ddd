"""`convergence`: to which power of h does the flow follow the optimizer? Theorem 3.1 as a measurement.

sup_n ||theta(nh) - theta^(n)|| is computed during the run (`lockstep`); the order is then fitted to the
errors at several h.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.checks.numbers import check_switch
from implicit_adam.checks.optimizers import check_rule
from implicit_adam.checks.runs import check_orders, check_shifted_order
from implicit_adam.checks.studies import check_horizon, check_step_counts, check_wide_dtype
from implicit_adam.fields.carried.carried_field import HIGHEST_CARRIED_ORDER
from implicit_adam.fields.vector_field import HIGHEST_ORDER
from implicit_adam.inputs import checked_inputs, identified
from implicit_adam.measures.asymptotics import NOT_YET, Setting, judged
from implicit_adam.measures.lockstep import Supremum, carried_supremum, supremum
from implicit_adam.measures.slopes import local_slopes
from implicit_adam.measures.watched import share
from implicit_adam.reprs import study
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.from_optax.rule import as_optimizer
from implicit_adam.runs.carried_options import START
from implicit_adam.runs.interval import check_solver
from implicit_adam.types import Batches, Loss, Params


class Convergence(NamedTuple):
    """The errors of the flows against the optimizer at K step sizes; dictionaries are keyed by the order.

    - `h`, `steps`: (K,) the step sizes horizon / steps and numbers of steps.
    - `error`: (K,) sup over n of the 2-norm of the difference; `max_norm_error`: of its max-norm.
    - `local_slope`: (K-1,) slopes between neighbouring step sizes, d log(error) / d log(h).
    - `slope`, `slope_stderr`: the power of h fitted to the settled tail, with its standard error.
    - `limiting_slope`: the limit of the local slopes as h goes to zero, extrapolated from the last two.
    - `constant`: C of error = C h^(order+1), on the same tail.
    - `asymptotic`: whether the slope has settled where h is small; if not, nothing is decided.
    - `verdict`: "holds" (the error is O(h^(order+1)), which includes larger slopes), "contradicted" (the
      slope has settled at a smaller whole power, as a wrong term would leave), or "not yet asymptotic".
    - `why`: the reason for the last two in words; empty where it holds.
    - `rounding_floor`: (K,) eps sqrt(steps) sup ||theta||, an upper estimate of the error due to rounding
      alone, plus the tolerance of an adaptive solver; errors below ten times this are left out of the fit.
    - `travelled`: (K,) the distance travelled; errors above a tenth of it are left out of the fit.
    - `validity`: (K,) the relative change that memory and step make to the update, the size of the first
      correction; above 0.1, h times memory is not small, and the errors are left out of the fit.
    - `remembered`: (K,) the share of the last update that the first half of the run decides; above 0.1 the
      memory is as long as the run, and the errors are left out of the fit.
    - `roughness`: (K,) the share of the gradient's change along the run that Hessian-vector products do not
      explain.
    - `carried`: whether the flows are those with carried memory. `validity` is then the relative change of
      the update from one step to the next, after the optimizer's own steps, and `remembered` is 0.
    """

    h: np.ndarray
    steps: np.ndarray
    error: dict[int, np.ndarray]
    max_norm_error: dict[int, np.ndarray]
    local_slope: dict[int, np.ndarray]
    slope: dict[int, float]
    slope_stderr: dict[int, float]
    limiting_slope: dict[int, float]
    constant: dict[int, float]
    asymptotic: dict[int, bool]
    verdict: dict[int, str]
    why: dict[int, str]
    rounding_floor: np.ndarray
    travelled: np.ndarray
    validity: np.ndarray
    remembered: np.ndarray
    roughness: np.ndarray
    carried: bool = False

    def __repr__(self) -> str:
        return study(self)


def check_solver_order(
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
    order: int,
) -> bool:
    """Whether the solver adapts to a tolerance; raises `ValueError` if its own error hides the theorem's."""
    check_solver(solver)
    if controller is not None or isinstance(solver, diffrax.AbstractImplicitSolver):
        return True
    own = None if solver is None else solver.order(diffrax.ODETerm(lambda t, y, args: y))
    if own is not None and own <= order:
        msg = (
            f"solver: {type(solver).__name__} is of order {own}, so that one step an interval is off by "
            f"O(h^{own}), no less than what the flow of order {order} corrects; take a solver of order "
            f"{order + 1} or more, such as diffrax.Tsit5(), or a stepsize_controller"
        )
        raise ValueError(msg)
    return False


_compiled_supremum, _compiled_carried = eqx.filter_jit(supremum), eqx.filter_jit(carried_supremum)


def convergence(
    rule: AbstractOptimizer | optax.GradientTransformation | Callable[[Any], AbstractOptimizer],
    loss: Loss,
    params: Params,
    *,
    horizon: float,
    step_counts: Sequence[int],
    orders: Sequence[int] = (0, 1),
    batches: Batches = None,
    schedule: Any = None,
    shifted: bool = False,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    carried: bool = False,
    callback: Callable[[int, int], None] | None = None,
) -> Convergence:
    """Measure the order of Theorem 3.1: sup_{n <= T/h} ||theta(nh) - theta^(n)|| against h.

    - `rule`: the optimizer; its own h is replaced by horizon / steps (so a bare optax transformation should
      have learning rate 1). Or a function of h that returns the optimizer, for a memory that lasts equally
      long in time at every h: `lambda h: ia.Adam(h, 1 - h / 0.01, 1 - h)`.
    - `loss`, `params`, `batches`, `schedule`: as in `iterate`; the schedule covers the largest step count.
    - `horizon`: the time T > 0.
    - `step_counts`: at least three increasing numbers of steps, e.g. `(50, 100, 200, 400)`.
    - `orders`: the orders of the flows; keep 0, the uncorrected flow, for contrast.
    - `shifted`, `solver`, `stepsize_controller`: as in `flow`. With one step per interval, a solver of order
      s has an error of O(h^s), so s must exceed every order asked for.
    - `carried`: measure `carried_flow` (orders 0 and 1, full batch) in place of `flow`. The equation starts
      after an eighth of the run (at least 10 steps), which the optimizer takes itself. h need then only be
      small compared with the time in which the update changes; give `rule` as a function of h to keep
      h / (1 - beta) and h / (1 - rho) fixed.
    - `callback`: called as `callback(done, total)` after each step count, in units of steps.

    Needs float64 parameters: in float32 the flow and the optimizer round alike for small h, and their
    difference vanishes where the true one does not. Raises `ValueError` for that and for bad arguments.
    Compiles once. It runs on the host, not under jit or vmap; `supremum` can be used there.
    """
    counts = check_step_counts(step_counts)
    check_horizon(horizon)
    carried = check_switch("carried", carried)
    orders = check_orders(orders, HIGHEST_CARRIED_ORDER if carried else HIGHEST_ORDER)
    check_shifted_order(max(orders), shifted=shifted)
    taking_products = max(orders) > 0 and not carried
    if carried:
        _check_carried(
            batches=batches, schedule=schedule, stepsize_controller=stepsize_controller, shifted=shifted
        )
        if counts[0] <= START:
            msg = (
                f"step_counts begins with {counts[0]}, but the optimizer takes the first {START} steps of "
                "every run itself, which leaves the equation nothing to do; take larger ones"
            )
            raise ValueError(msg)
    build = _for_step_size(rule)
    inputs = checked_inputs(
        build(jnp.asarray(horizon / counts[0])),
        loss,
        params,
        batches,
        schedule,
        counts[-1],
        shifted=shifted,
        products=taking_products,
        equation=not carried,
    )
    inputs = identified(inputs)
    check_wide_dtype(inputs.theta.dtype)
    adaptive = check_solver_order(solver, stepsize_controller, max(orders))

    suprema = []
    for count in counts:
        optimizer = build(jnp.asarray(horizon / count, inputs.theta.dtype))
        run = inputs._replace(rule=optimizer.astype(inputs.theta.dtype))
        steps = jnp.asarray(count)
        if carried:
            result = _compiled_carried(run, steps, orders, jnp.asarray(max(START, count // 8)), solver)
        else:
            result = _compiled_supremum(run, steps, orders, solver, stepsize_controller)
        suprema.append(jax.device_get(result))
        if callback is not None:
            callback(sum(counts[: len(suprema)]), sum(counts))
    h, steps = horizon / np.asarray(counts), np.asarray(counts)
    return _study(h, steps, orders, suprema, adaptive=adaptive)._replace(carried=carried)


def _for_step_size(rule: Any) -> Callable[[Any], Any]:
    """The optimizer as a function of h; its step size is set to h even if a given function sets another."""
    made: Any = rule if callable(rule) and not isinstance(rule, type | AbstractOptimizer) else None

    def at(h: Any) -> Any:
        optimizer = as_optimizer(rule) if made is None else made(h)
        check_rule(optimizer, AbstractOptimizer)
        return optimizer.with_step_size(h)

    return at


def _check_carried(**given: Any) -> None:
    """Raise `ValueError` for options that do not go with carried memory, such as mini-batches.

    With mini-batches the equation describes the mean run, which a single run is not.
    """
    for name, value in given.items():
        if value is not None and value is not False:
            msg = f"carried=True measures full-batch runs, one solver step an interval; leave out {name}"
            raise ValueError(msg)


def _study(
    h: np.ndarray, steps: np.ndarray, orders: tuple[int, ...], suprema: list[Supremum], *, adaptive: bool
) -> Convergence:
    def seen(read: Callable[[Supremum], Any]) -> np.ndarray:
        return np.array([float(read(sup)) for sup in suprema])

    floor = np.finfo(h.dtype).eps * np.sqrt(steps) * seen(lambda sup: sup.size)
    if adaptive:
        floor = floor + seen(lambda sup: sup.solver_error)
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = floor / (h * seen(lambda sup: sup.watched.update))
    setting = Setting(
        h=h,
        floor=floor,
        travelled=seen(lambda sup: sup.travelled),
        validity=seen(lambda sup: sup.watched.validity),
        remembered=seen(lambda sup: sup.remembered),
        roughness=seen(lambda sup: sup.watched.roughness),
        noise=noise,
        first=seen(lambda sup: share(sup.watched.first, sup.watched.update)),
    )
    error = {q: seen(lambda sup, i=i: sup.two_norm[i]) for i, q in enumerate(orders)}
    judgement = {q: judged(setting, error[q], q) for q in orders}
    laws = {q: judgement[q].law for q in orders}
    return Convergence(
        h=h,
        steps=steps,
        error=error,
        max_norm_error={q: seen(lambda sup, i=i: sup.max_norm[i]) for i, q in enumerate(orders)},
        local_slope={q: local_slopes(h, error[q]) for q in orders},
        slope={q: law.slope for q, law in laws.items()},
        slope_stderr={q: law.stderr for q, law in laws.items()},
        limiting_slope={q: law.limit for q, law in laws.items()},
        constant={q: law.constant for q, law in laws.items()},
        asymptotic={q: judgement[q].verdict != NOT_YET for q in orders},
        verdict={q: judgement[q].verdict for q in orders},
        why={q: judgement[q].why for q in orders},
        rounding_floor=floor,
        travelled=setting.travelled,
        validity=setting.validity,
        remembered=setting.remembered,
        roughness=setting.roughness,
    )
