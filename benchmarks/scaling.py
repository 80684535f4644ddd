"""Scaling curves: the cost of a field as n, p and m grow, and of a prediction as h shrinks."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import implicit_adam as ia
from benchmarks.fields import field, gradients
from benchmarks.networks import dense_batches, dense_params, size
from benchmarks.timing import alternate
from implicit_adam.losses.problems import bilinear


class Curve(NamedTuple):
    """Median times in seconds of several functions against x."""

    title: str
    x_label: str
    x: list[float]
    seconds: dict[str, list[float]]


def _collect(title: str, x_label: str, points: dict[float, dict[str, float]]) -> Curve:
    names = next(iter(points.values()))
    seconds = {name: [point[name] for point in points.values()] for name in names}
    return Curve(title, x_label, list(points), seconds)


def _field_and_gradients(params, batches, n: int) -> dict[str, float]:
    step = jnp.asarray(n)
    evaluate, compiled = jax.jit(field), jax.jit(gradients)
    timings = alternate({
        "field": lambda: evaluate(step, params, batches),
        "all batch gradients": lambda: compiled(params, batches),
    }, repeats=5)  # fmt: skip
    return {name: timing.median for name, timing in timings.items()}


def in_n() -> Curve:
    """The field against the step number n, with m = 8 and 10^5 parameters."""
    params, batches = dense_params(), dense_batches(8, 256)
    points = {n: _field_and_gradients(params, batches, n) for n in (1, 10, 100, 1000, 10_000, 100_000)}
    return _collect("mini-batch field, m = 8", "step number $n$", points)


def in_p() -> Curve:
    """The field against the number of parameters p, in full batch with 512 samples."""
    points = {}
    for width in (16, 48, 128, 384, 1024):
        widths = (64, width, width, 10)
        params, batches = dense_params(widths), dense_batches(1, 512, widths)
        points[size(params)] = _field_and_gradients(params, batches, 100)
    return _collect("full-batch field, 512 samples", "parameters $p$", points)


def in_m() -> Curve:
    """The field against the number m of mini-batches, for 2048 samples."""
    params = dense_params()
    points = {m: _field_and_gradients(params, dense_batches(m, 2048 // m), 50) for m in (1, 2, 4, 8, 16)}
    return _collect("2048 samples in $m$ mini-batches", "mini-batches $m$", points)


def in_h() -> Curve:
    """Predictions against h, on the bilinear model up to T = 1."""
    points = {}
    for steps in (10**3, 10**4, 10**5, 10**6):
        runs = {
            "optax loop": _end(ia.iterate, steps),
            "piecewise flow": _end(ia.flow, steps),
            "smooth flow": _end(ia.smooth_flow, steps),
        }
        h = jnp.asarray(1 / steps)
        timings = alternate(
            {name: partial(run, h) for name, run in runs.items()},
            repeats=3,
            inner={"smooth flow": 50},
        )
        points[1 / steps] = {name: timing.median for name, timing in timings.items()}
    return _collect("bilinear model to $T = 1$", "step size $h$", points)


def _end(run, steps: int, **kwargs):
    """A compiled function from h to the end point."""
    problem = bilinear()

    def end(h, params):
        rule = ia.Adam(h, 0.9, 0.999, 1e-6, eps_in_sqrt=True)
        return run(rule, problem.loss, params, steps, save_every=steps, **kwargs).params[-1]

    return partial(_call, jax.jit(end), problem.params)


def _call(compiled, params, h):
    return compiled(h, params)


CURVES = {"scaling-n": in_n, "scaling-p": in_p, "scaling-m": in_m, "scaling-h": in_h}


def picture(curves: dict[str, Curve]):
    """A log-log panel for each curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    colours = ["#0072B2", "#D55E00", "#009E73"]
    for axes, curve in zip(figure.subplots(2, 2).flat, curves.values(), strict=False):
        for (name, seconds), colour in zip(curve.seconds.items(), colours, strict=False):
            axes.loglog(curve.x, np.array(seconds) * 1e3, "o-", color=colour, label=name)
        axes.set(title=curve.title, xlabel=curve.x_label, ylabel="milliseconds")
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(frameon=False)
    return figure
