"""The cost of importing the library and of first calls, compared with its dependencies."""

import statistics
import subprocess
import sys
import time

from benchmarks.measure import Measure, Measures
from benchmarks.timing import Timing

BASE = "import jax, optax, diffrax"


def _seconds(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def imports() -> Measure:
    """The import time beyond that of the dependencies: the median difference over pairs of processes."""
    programs = {BASE: BASE, "with implicit_adam": f"{BASE}, implicit_adam"}
    for program in programs.values():
        _seconds(program)
    pairs = [{name: _seconds(program) for name, program in programs.items()} for _ in range(7)]
    more = statistics.median(pair["with implicit_adam"] - pair[BASE] for pair in pairs)
    medians = {name: statistics.median(pair[name] for pair in pairs) for name in programs}
    timings = {name: Timing(seconds, seconds) for name, seconds in medians.items()}
    return Measure("import implicit_adam, seconds more than its dependencies", more, "<=", 0.2, timings, {})


FIRST = """
import logging, os, jax, jax.numpy as jnp
import implicit_adam as ia

class Counter(logging.Handler):
    programs = 0

    def emit(self, record):
        self.programs += record.getMessage().startswith("Finished XLA compilation of")

jax.config.update("jax_log_compiles", True)
counter = Counter()
jax_log = logging.getLogger("jax")
jax_log.addHandler(counter)
jax_log.propagate = False
x, y = jnp.ones((64, 8)), jnp.ones((64, 3)) / 3
params = {{"w": jnp.ones((8, 3)), "b": jnp.zeros(3)}}

def loss(params):
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(jnp.tanh(x @ params["w"]) + params["b"]), axis=-1))

rule = ia.Adam(1e-3)
gradient = jax.block_until_ready(jax.grad(loss)(params))

def biased():
    tx = ia.with_bias(rule, loss, -1.0)
    return tx.update(gradient, tx.init(params), params)

def carried():
    field = ia.carried_field(rule, loss)
    return field(0.1, field.start(params, 3))

call = {call}
counter.programs = 0
begun = sum(os.times()[:2])
jax.block_until_ready(call())
print(counter.programs, sum(os.times()[:2]) - begun)
"""
CALLS = {
    "vector_field": "lambda: ia.vector_field(rule, loss)(50, params)",
    "regimes": "lambda: ia.regimes(rule, loss, params)",
    "decompose": "lambda: ia.decompose(rule, loss, params, 50)",
    "bias": "lambda: ia.bias(rule, loss, params)",
    "modified_losses": "lambda: ia.modified_losses.adam_small_eps(rule, loss)(params)",
    "with_bias": "biased",
    "carried_field": "carried",
    "preconditioned_sharpness": "lambda: ia.preconditioned_sharpness(rule, loss, params)",
    "observe": 'lambda: ia.observe(rule, loss, params, 20, ("loss", "distance"))',
}


def first_calls() -> Measure:
    """The time of first calls, each in a new process that compiles everything it needs."""
    seconds, facts = {}, {}
    for name, call in CALLS.items():
        command = [sys.executable, "-c", FIRST.format(call=call)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        facts[f"programs compiled by {name}"] = float(told[0])
        facts[f"processor seconds of {name}"] = seconds[name] = float(told[1])
    what = "longest first call outside jit, seconds of the processor"
    return Measure(what, max(seconds.values()), "<=", 2.0, {}, facts)


MEASURES: Measures = {"imports": imports, "first-calls": first_calls}
