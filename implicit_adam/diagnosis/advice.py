"""`Advice`: the result of `advise`, in numbers and in words."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from implicit_adam.diagnosis.levers import BATCH_SIZE, STEP_SIZE
from implicit_adam.reprs import table
from implicit_adam.types import Scalar

# Where the curvature, told to a few per cent at two moments alone, may be over its threshold at others.
NEAR = 0.9
WORDS = {STEP_SIZE: "h", BATCH_SIZE: "the batch size"}


class Effect(NamedTuple):
    """Relative changes of the full-batch loss and of the one-norm of its gradient, after the steps.

    -0.03 is three per cent less than without the change.
    """

    loss: Scalar
    one_norm: Scalar


class Turn(NamedTuple):
    """An effect, and `edge`: the curvature over the stability threshold, the larger of now and at the end.

    With `edge` above 1 the run is past the edge of stability, and the effect cannot be trusted. NaN if the
    threshold is not known.
    """

    loss: Scalar
    one_norm: Scalar
    edge: Scalar


class Change(NamedTuple):
    """The predicted effect of changing one hyperparameter or the batch size.

    - `value`: its value now; for the batch size 1, the size of the batches given.
    - `slope`: the derivative, per factor of two: a change of 7 % (a tenth of an octave) has about a tenth.
    - `halved`, `doubled`: the effect of halving and doubling h, the batch size or, for a decay d, the number
      of steps remembered, 1/(1-d). NaN where there is no such value (half the memory of a decay below 1/2),
      or the equation cannot be solved.
    """

    value: float
    slope: Effect
    halved: Turn
    doubled: Turn


class Advice(NamedTuple):
    """The result of `advise`. Print it, or read `verdict`; `numbers()` are its scalars by name, for a log.

    - `step`: how many steps the run has taken; `steps`: how many more were predicted.
    - `loss`, `one_norm`: the full-batch loss and the one-norm of its gradient after these without any change,
      predicted by the equation with carried memory; in mini-batches, at the mean run.
    - `edge`: that of the run without any change, as in `Turn`. Above 1 none of these numbers can be trusted.
    - `changes`: the effect of each change, by name ("h", the rule's decays, "batch_size").
    - `error`: the largest relative error of the prediction without any change, at four moments of the way,
      compared with the optimizer itself (in mini-batches, with the mean of its runs).
    - `sampling_error`: the standard error of that mean, relative to it.
    """

    step: int
    steps: int
    loss: Scalar
    one_norm: Scalar
    edge: Scalar
    changes: dict[str, Change]
    error: Effect
    sampling_error: Effect

    def error_bar(self, turn: Turn) -> Effect:
        """The error bar of the effect of a change,

            2 |1 + effect| (error + sampling_error)

        It assumes that the changed run is predicted no worse than the unchanged one, which is not measured.
        Infinite if one of the two is past the edge of stability.
        """
        past = is_past(turn) or is_past(self)
        rows = zip(turn[:2], self.error, self.sampling_error, strict=True)
        bars = (2 * jnp.abs(1 + x) * (error + sampling) for x, error, sampling in rows)
        return Effect(*(jnp.full_like(bar, jnp.inf) if past else bar for bar in bars))

    @property
    def verdict(self) -> str:
        """The advice in words."""
        return " ".join(sentences(self))

    def numbers(self) -> dict[str, float]:
        """The scalars by name, such as "rho/doubled/loss" and its error bar, "rho/doubled/loss_bar"."""
        found: dict[str, Any] = {"loss": self.loss, "one_norm": self.one_norm, "edge": self.edge}
        for name in ("error", "sampling_error"):
            found |= {f"{name}/{of}": x for of, x in getattr(self, name)._asdict().items()}
        for name, change in self.changes.items():
            found[f"{name}/value"] = change.value
            found |= {f"{name}/slope/{of}": x for of, x in change.slope._asdict().items()}
            for way, turn in (("halved", change.halved), ("doubled", change.doubled)):
                found |= {f"{name}/{way}/{of}": x for of, x in turn._asdict().items()}
                found |= {f"{name}/{way}/{of}_bar": x for of, x in self.error_bar(turn)._asdict().items()}
        return {name: float(x) for name, x in found.items()}

    def __repr__(self) -> str:
        shown = {name: f"{x:.4g}" for name, x in self.numbers().items() if np.isfinite(x)}
        return "\n".join((*sentences(self), table("Advice", shown)))


def is_past(found: Advice | Turn) -> bool:
    """Whether that run is past the edge of stability, as far as its threshold is known."""
    return bool(float(found.edge) > 1)


def sentences(found: Advice) -> list[str]:
    """The advice in sentences: the predicted loss, then the effect of each change."""
    said = [
        f"Without a change the loss is predicted to be {float(found.loss):.4g} after {found.steps} more "
        "steps (compared with the optimizer itself, off by up to "
        f"{100 * float(found.error.loss):.2g} % on the way)."
    ]
    if is_past(found):
        said.append(
            f"That run is past the edge of stability ({_of_threshold(found)}), where no smooth equation "
            "follows it: neither that nor any effect of a change is to be believed."
        )
    elif float(found.edge) > NEAR:
        said.append(f"That run comes near the edge of stability ({_of_threshold(found)}).")
    for name, change in found.changes.items():
        lever = WORDS.get(name, f"the memory of {name}")
        turns = {f"Doubling {lever}": change.doubled, f"Halving {lever}": change.halved}
        said += [_would(found, what, turn) for what, turn in turns.items()]
    if not np.isfinite(float(found.edge)):
        said.append("The edge of stability of this optimizer is not known; past it none of this holds.")
    return said


def _would(found: Advice, what: str, turn: Turn) -> str:
    effect, bar = float(turn.loss), float(found.error_bar(turn).loss)
    if is_past(turn):
        return f"{what} {'leaves' if is_past(found) else 'takes'} it past the edge ({_of_threshold(turn)})."
    if is_past(found):
        return f"{what} brings it back below the edge ({_of_threshold(turn)})."
    if not np.isfinite(effect):
        return f"The effect of {what[0].lower()}{what[1:]} cannot be predicted."
    size = f"{100 * abs(effect):.2g} % +- {100 * bar:.2g} %"
    near = f", near the edge of stability ({_of_threshold(turn)})" * bool(float(turn.edge) > NEAR)
    if not abs(effect) > bar:
        return f"{what} would change it by less than can be told ({size}){near}."
    return f"{what} would {'lower' if effect < 0 else 'raise'} it by {size}{near}."


def _of_threshold(found: Advice | Turn) -> str:
    return f"curvature {float(found.edge):.2f} of the threshold"
