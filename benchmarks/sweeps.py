"""Sweeps, compared with a Python loop over the same compiled run; the costs of checkpoints and of lanes."""

import subprocess
import sys
import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import implicit_adam as ia
from benchmarks.measure import Measure, Measures, Missing, ratio
from benchmarks.timing import alternate
from implicit_adam.inputs import checked_inputs
from implicit_adam.losses.problems import bilinear
from implicit_adam.measures.convergence import supremum

GRID = {"beta": np.linspace(0, 0.9, 64), "rho": np.linspace(0, 0.95, 64)}


def study(beta, rho, steps: int = 100):
    """The distances of both flows from Adam up to T = .1."""
    problem = bilinear()
    inputs = checked_inputs(
        ia.Adam(0.1 / steps, beta, rho, 1e-3, eps_in_sqrt=True), problem.loss, problem.params
    )
    return supremum(inputs, jnp.asarray(steps), (0, 1)).two_norm


def _loop():
    single = jax.jit(study)
    points = [(beta, rho) for beta in GRID["beta"] for rho in GRID["rho"]]

    def run():
        # One after the other, with every result fetched, as in a script.
        return [jax.device_get(single(beta, rho)) for beta, rho in points]

    return run


def lanes() -> Measure:
    """4096 convergence studies of the bilinear model, with one CPU device per core."""
    timings = alternate({"loop over the jitted run": _loop(), "sweep": lambda: _swept(study)}, repeats=3)
    return ratio("4096 runs", timings, "loop over the jitted run", "sweep", ">=", 50)


def _swept(fn, **kwargs):
    return ia.sweep(fn, GRID, progress=False, **kwargs).values


def checkpoints() -> Measure:
    """The cost of checkpoints: 16 chunks of runs of 4000 steps, with and without a folder."""
    long = partial(study, steps=4000)

    def with_folder():
        with tempfile.TemporaryDirectory() as folder:
            return _swept(long, chunk_size=256, checkpoint=folder)

    timings = alternate(
        {"with checkpoints": with_folder, "without": lambda: _swept(long, chunk_size=256)}, repeats=3
    )
    return ratio("sweep in 16 chunks", timings, "with checkpoints", "without", "<=", 1.03)


PROGRAM = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from benchmarks.sweeps import study
import implicit_adam as ia
grid = {{"beta": np.linspace(0, .9, {lanes} // 64), "rho": np.linspace(0, .95, 64)}}
ia.sweep(study, grid, chunk_size=4096, progress=False)
# Not ru_maxrss, which a child inherits from the process that started it.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def memory() -> Measure:
    """The peak memory of whole processes, with chunks of 4096 lanes."""

    def megabytes(lanes: int) -> float:
        command = [sys.executable, "-c", PROGRAM.format(lanes=lanes)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024

    few, many = megabytes(4096), megabytes(4096 * 16)
    facts = {"megabytes with 4096 lanes": few, "with 65536": many}
    what = "peak memory of a sweep of 65536 lanes / of 4096, chunks of 4096"
    return Measure(what, many / few, "<=", 1.1, {}, facts)


def waste() -> Measure:
    """Runs of 10 .. 10^4 steps in random order, in chunks of 64 lanes, with and without `cost`."""
    steps = np.unique(np.geomspace(10, 10_000, 1024).astype(int))
    steps = np.random.default_rng(0).permutation(steps)
    points = [{"n": int(n)} for n in steps]

    def lane(n):
        problem = bilinear()
        rule = ia.Adam(0.1 / n.astype(float), 0.5, 0.7, 1e-3, eps_in_sqrt=True)
        inputs = checked_inputs(rule, problem.loss, problem.params)
        return supremum(inputs, n, (0, 1)).two_norm

    def run(cost):
        return ia.sweep(lane, points, chunk_size=64, progress=False, cost=cost).values

    timings = alternate({"unordered": lambda: run(None), "with costs": lambda: run(lambda n: n)}, repeats=3)

    def iterations(order):
        return sum(order[i : i + 64].max() * 64 for i in range(0, len(order), 64)) / steps.sum()

    facts = {
        "iterations run / needed, unordered": float(iterations(steps)),
        "with costs": float(iterations(np.sort(steps))),
    }
    return ratio("lanes of 10 .. 10^4 steps", timings, "unordered", "with costs", ">=", 1.5, facts)


def accelerator_lanes() -> Measure | Missing:
    """Lanes per second on an accelerator as their number grows."""
    if jax.default_backend() == "cpu":
        return Missing("an accelerator")
    facts = {}
    for count in (64, 1024, 16_384, 131_072):
        grid = {"beta": np.linspace(0, 0.9, count // 64), "rho": GRID["rho"]}
        timing = alternate(
            {"sweep": lambda grid=grid: ia.sweep(study, grid, progress=False).values}, repeats=3
        )
        facts[f"lanes a second with {count}"] = count / timing["sweep"].median
    first, *_, last = facts.values()
    return Measure("lanes a second, 131072 lanes / 64", last / first, ">=", 1, {}, facts)


MEASURES: Measures = {
    "sweep-lanes": lanes,
    "sweep-checkpoints": checkpoints,
    "sweep-memory": memory,
    "sweep-waste": waste,
    "accelerator-lanes": accelerator_lanes,
}
