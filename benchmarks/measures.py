"""What is measured, each as a ratio of two things done side by side in one run."""

import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import implicit_adam as ia
from benchmarks.timing import alternate, measure
from implicit_adam.problems import bilinear, digits, network_loss, network_params


class Measure(NamedTuple):
    """One ratio with its target: at least (`>=`) or at most (`<=`) so much."""

    what: str
    ratio: float
    relation: str
    target: float
    seconds: dict[str, float]

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.ratio >= self.target if self.relation == ">=" else self.ratio <= self.target


def _prediction(what: str, problem, rule: ia.Adam, steps: int, target: float, repeats: int) -> Measure:
    arguments = (rule, problem.loss, problem.params, steps)
    kwargs = {"batches": problem.batches, "save_every": steps}
    times = {
        "smooth flow": measure(lambda: ia.flow(*arguments, smooth=True, **kwargs)).median,
        "optax loop": measure(lambda: ia.iterate(*arguments, **kwargs), repeats=repeats).median,
    }
    return Measure(what, times["optax loop"] / times["smooth flow"], ">=", target, times)


def million_steps() -> Measure:
    """The end of 10^6 Adam steps on the bilinear model, T = 1."""
    rule = ia.Adam(1e-6, 0.9, 0.999, 1e-6)
    return _prediction("bilinear, 10^6 steps: optax loop / smooth flow", bilinear(), rule, 10**6, 1000, 3)


def digits_steps() -> Measure:
    """The same on the digits network, h = 1e-5, 10^4 steps."""
    rule = ia.Adam(1e-5, 0.9, 0.999, 1e-6)
    return _prediction("digits, 10^4 steps: optax loop / smooth flow", digits(batches=1), rule, 10**4, 100, 1)


def _dense(m: int, samples: int):
    """A dense network of 10^5 parameters."""
    params = network_params(jax.random.key(0), 256, 384, 10)
    inputs = jax.random.normal(jax.random.key(1), (m, samples, 256))
    targets = jax.nn.one_hot(
        jax.random.randint(jax.random.key(2), (m, samples), 0, 10), 10, dtype=inputs.dtype
    )
    return params, (inputs, targets)


def full_batch_field() -> Measure:
    """Field against gradient, 2048 samples."""
    params, batches = _dense(1, 2048)
    gradient = jax.jit(lambda p, b: jax.vmap(jax.grad(network_loss), (None, 0))(p, b))
    field = jax.jit(lambda p, b: ia.vector_field(ia.Adam(1e-3), network_loss, batches=b)(jnp.asarray(100), p))
    times = alternate(
        {"field": lambda: field(params, batches), "gradient": lambda: gradient(params, batches)}
    )
    seconds = {name: timing.median for name, timing in times.items()}
    return Measure("full-batch field / gradient", seconds["field"] / seconds["gradient"], "<=", 3.0, seconds)


def mini_batch_field(n: int) -> Callable[[], Measure]:
    """Field against all m = 8 batch gradients at step n."""

    def run() -> Measure:
        params, batches = _dense(8, 256)
        gradients = jax.jit(lambda p, b: jax.vmap(jax.grad(network_loss), (None, 0))(p, b))
        field = jax.jit(lambda n, p, b: ia.vector_field(ia.Adam(1e-3), network_loss, batches=b)(n, p))
        times = alternate({
            "field": lambda: field(jnp.asarray(n), params, batches),
            "gradients": lambda: gradients(params, batches),
        })  # fmt: skip
        seconds = {name: timing.median for name, timing in times.items()}
        what = f"mini-batch field (m = 8, n = {n}) / all batch gradients"
        return Measure(what, seconds["field"] / seconds["gradients"], "<=", 5.0, seconds)

    return run


def imports() -> Measure:
    """Seconds that importing us adds to importing what we stand on."""

    def seconds(program: str) -> float:
        return measure(lambda: subprocess.run([sys.executable, "-c", program], check=True), repeats=5).median

    base = seconds("import jax, optax, diffrax")
    ours = seconds("import jax, optax, diffrax, implicit_adam")
    times = {"jax, optax, diffrax": base, "and implicit_adam": ours}
    return Measure("import implicit_adam, seconds more", ours - base, "<=", 0.2, times)


MEASURES: dict[str, Callable[[], Measure]] = {
    "million-steps": million_steps,
    "digits-steps": digits_steps,
    "full-batch-field": full_batch_field,
    "mini-batch-field-10": mini_batch_field(10),
    "mini-batch-field-10000": mini_batch_field(10**4),
    "imports": imports,
}
