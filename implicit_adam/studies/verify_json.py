"""The measurements of `implicit-adam verify` as plain numbers for a JSON file."""

import math
from typing import Any

from implicit_adam.files import installed
from implicit_adam.studies.verify import Outcome, VerifyConfig, hyperparameter_values

PACKAGES = ("jax", "numpy", "optax", "diffrax", "equinox")


def as_json(config: VerifyConfig, outcomes: list[Outcome]) -> dict[str, Any]:
    """The settings and all measurements as plain numbers and strings for JSON (NaN as null)."""
    return {
        "versions": installed(PACKAGES),
        "solver": "Tsit5" if config.solver is None else type(config.solver).__name__,
        "dtype": config.dtype,
        "window": config.window,
        "carried": config.carried,
        "step_counts": list(config.counts),
        "schedule": config.schedule,
        "seed": config.seed,
        "cases": [_outcome_as_json(outcome) for outcome in outcomes],
    }


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    case, study = outcome.case, outcome.study
    return {
        "problem": case.problem.name,
        "optimizer": case.optimizer,
        "hyperparameters": hyperparameter_values(case),
        "horizon": case.horizon,
        "h": study.h.tolist(),
        "steps": study.steps.tolist(),
        "rounding_floor": study.rounding_floor.tolist(),
        "travelled": [_number(x) for x in study.travelled],
        "validity": [_number(x) for x in study.validity],
        "remembered": [_number(x) for x in study.remembered],
        "roughness": [_number(x) for x in study.roughness],
        "orders": {str(order): _order_as_json(outcome, order) for order in study.error},
    }


def _order_as_json(outcome: Outcome, order: int) -> dict[str, Any]:
    study = outcome.study
    return {
        "error": [_number(x) for x in study.error[order]],
        "max_norm_error": [_number(x) for x in study.max_norm_error[order]],
        "local_slope": [_number(x) for x in study.local_slope[order]],
        "slope": _number(study.slope[order]),
        "limiting_slope": _number(study.limiting_slope[order]),
        "slope_stderr": _number(study.slope_stderr[order]),
        "constant": _number(study.constant[order]),
        "asymptotic": bool(study.asymptotic[order]),
        "verdict": outcome.verdict[order],
        "why": study.why[order],
    }


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
