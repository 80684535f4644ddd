"""Checks of optimizers: a rule of this library, or an optax transformation."""

import inspect
from typing import Any


def check_transformation(name: str, tx: Any) -> None:
    """An optax transformation, told by its functions `init` and `update`."""
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        fix = "; ia.Adam(..) and its like need no wrapping" if hasattr(tx, "transformation") else ""
        msg = f"{name} must be an optax transformation such as optax.adam(1.0), got {_shown(tx)}{fix}"
        raise ValueError(msg)  # noqa: TRY004


def check_rule(rule: Any, kind: type) -> None:
    """An optimizer of this library."""
    if not isinstance(rule, kind):
        msg = f"rule must be an optimizer such as ia.Adam(1e-3), got {_shown(rule)}"
        raise ValueError(msg)  # noqa: TRY004


def check_kind(owner: str, rule: Any, *kinds: type) -> None:
    """One of the optimizers for which a formula holds."""
    if not isinstance(rule, kinds):
        names = " or ".join(f"ia.{kind.__name__}" for kind in kinds)
        msg = f"{owner}: rule must be {names}, got {_shown(rule)}; each optimizer has its own formula"
        raise ValueError(msg)  # noqa: TRY004


def _shown(rule: Any) -> str:
    """A description of what was passed in place of an optimizer."""
    if isinstance(rule, type) or (inspect.isfunction(rule) and rule.__module__.startswith("optax")):
        return f"{rule.__name__} itself; call it with its step size, {rule.__name__}(1e-3)"
    return f"a {type(rule).__name__}" if isinstance(rule, tuple) else repr(rule)
