"""`Probe`: records what a training run is doing every so many steps, at four gradients a time."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from implicit_adam.checks.numbers import check_count
from implicit_adam.diagnosis.moment import Moment, moment
from implicit_adam.diagnosis.split import split
from implicit_adam.inputs import Inputs
from implicit_adam.rules.base import AbstractOptimizer
from implicit_adam.rules.opt_state import last_step
from implicit_adam.types import Batches, Loss, Params, Scalar


class Row(NamedTuple):
    """One record of a `Probe`. Sizes are 2-norms, divided by that of the instant part of the velocity.

    - `step`: how many steps the run has taken, by the optimizer's own count; if it has none, how often
      `probe.step` was called. `one_norm`: that of the gradient (of the batch given).
    - `speed`: size of the whole velocity; `memory`, `decay`, `step_correction`: sizes of its parts.
    - `one_norm_bias`: the rate, per unit of time, at which memory and step change the one-norm: below zero
      they penalise it, above zero they hinder its decrease. `one_norm_share`: the relative change per step.
    """

    step: Scalar
    one_norm: Scalar
    speed: Scalar
    memory: Scalar
    decay: Scalar
    step_correction: Scalar
    one_norm_bias: Scalar
    one_norm_share: Scalar


class Probe:
    """Records what a training loop is doing every so many steps; call `probe.step` after each step.

        probe = ia.Probe(tx, loss, every=100, path="run.jsonl")
        for batch in loader:
            params, opt_state = train_step(params, opt_state, batch)
            probe.step(params, opt_state, batch)
        probe.table()                                       # a pandas DataFrame

    - `rule`: the optimizer, or the optax transformation of the loop, as in `diagnose`.
    - `loss`: `loss(params) -> scalar`, or `loss(params, batch) -> scalar` if `step` is given a batch.
    - `every`: record at one call in this many; the others cost nothing.
    - `path`: a file to which every row is appended, one JSON object per line.
    - `writer`: anything with `add_scalar(tag, value, step)`, such as a TensorBoard `SummaryWriter`.

    A record costs 4 gradients of the batch (a split of the velocity and a Hessian-vector product) and some
    0.06 seconds for the checks, which trace the loss. On a transformer of a million parameters, mini-batches
    of 8, two cores, that is the time of 5 to 7 steps; with every=100 the loop took 1 to 5 % longer (three
    runs of `python -m benchmarks probe`). It compiles once. With mini-batches it uses the gradient of the
    batch given in place of the mean gradient. `rows` are the records so far, each a dictionary of floats; see
    `Row`.

    Raises `ValueError` as `diagnose` does.
    """

    def __init__(
        self,
        rule: AbstractOptimizer | optax.GradientTransformation,
        loss: Loss,
        *,
        every: int = 100,
        path: str | Path | None = None,
        writer: Any = None,
    ):
        if writer is not None and not hasattr(writer, "add_scalar"):
            msg = f"writer needs add_scalar(tag, value, step), as TensorBoard's SummaryWriter; got {writer!r}"
            raise ValueError(msg)
        self.rule, self.loss, self.every = rule, loss, check_count("every", every)
        self.path, self.writer = None if path is None else Path(path), writer
        self.calls, self.rows = 0, []

    def step(self, params: Params, opt_state: Any, batch: Batches = None) -> dict[str, float] | None:
        """Call after each step of the loop; returns the new row if it recorded one, else None."""
        self.calls += 1
        if self.calls % self.every:
            return None
        one = None if batch is None else jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
        counted = opt_state is None or bool(jnp.isfinite(jnp.asarray(last_step(opt_state), float)))
        now = moment(self.rule, self.loss, params, opt_state, one, None if counted else self.calls)
        row = {name: float(x) for name, x in _row(now)._asdict().items()}
        self.rows.append(row)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(f"implicit_adam/{name}", value, int(row["step"]))
        return row

    def table(self) -> Any:
        """The rows as a pandas DataFrame; needs pandas."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(Row._fields)).set_index("step")


def _of_the_batch(inputs: Inputs) -> Inputs:
    """The loss of the one mini-batch given as one without mini-batches."""
    if inputs.batches is None:
        return inputs
    batch = jax.tree.map(lambda x: x[0], inputs.batches)
    return inputs._replace(loss=lambda params: inputs.loss(params, batch), batches=None)


@eqx.filter_jit
def _row(now: Moment) -> Row:
    # A mean over one mini-batch costs more than its loss.
    inputs = _of_the_batch(now.inputs)
    gradient = jax.grad(inputs.objective.full_batch().loss)
    g, along = jax.linearize(lambda theta: gradient(theta, None), inputs.theta)
    parts = split(now._replace(inputs=inputs), g)
    one_norm, rate = jnp.sum(jnp.abs(g)), jnp.sign(g) @ along(parts.bias)
    unit = jnp.linalg.norm(parts.instant)

    def size(x: Any) -> Scalar:
        return jnp.linalg.norm(x) / unit

    return Row(
        now.n,
        one_norm,
        size(parts.velocity),
        size(jnp.sum(parts.memory, axis=0)),
        size(parts.decay),
        size(parts.step),
        rate,
        inputs.rule.h * rate / one_norm,
    )
