"""Predicting the end of a long run: the optax loop itself, compared with the smooth flow, both under jit."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp

import implicit_adam as ia
from benchmarks.measure import Measure, Measures, ratio
from benchmarks.timing import alternate
from implicit_adam.losses.problems import Problem, bilinear, digits
from implicit_adam.paper.edge.networks import dense_layers, on_digits
from implicit_adam.vectors import ravel


def _end(run, problem: Problem, steps: int, **kwargs):
    """A compiled function from h to the last point of a run of `steps` steps."""

    def end(h, params, batches):
        rule = ia.Adam(h, 0.9, 0.999, 1e-6, eps_in_sqrt=True)
        saved = run(rule, problem.loss, params, steps, batches=batches, save_every=steps, **kwargs).params
        return jax.tree.map(lambda x: x[-1], saved)

    compiled = jax.jit(end)
    return lambda h: compiled(h, problem.params, problem.batches)


def _distance(x, y) -> float:
    return float(jnp.linalg.norm(ravel(x) - ravel(y)))


def million_steps() -> Measure:
    """A million steps on the bilinear model: beta .9, rho .999, eps 1e-6, h 1e-6, T 1."""
    problem, steps, h = bilinear(), 10**6, jnp.asarray(1e-6)
    loop = _end(ia.iterate, problem, steps)
    smooth = _end(ia.smooth_flow, problem, steps)
    piecewise = _end(ia.flow, problem, steps)
    timings = alternate(
        {"optax loop": lambda: loop(h), "smooth flow": lambda: smooth(h)}, inner={"smooth flow": 200}
    )
    facts = {
        "end-point error of the smooth flow": _distance(smooth(h), loop(h)),
        "of the piecewise flow": _distance(piecewise(h), loop(h)),
    }
    return ratio("bilinear, 10^6 steps", timings, "optax loop", "smooth flow", ">=", 1000, facts)


def digits_steps() -> Measure:
    """The digits network in full batch, h 1e-5, T 1, with a solver of order three.

    With these hyperparameters h times memory is not small compared with the sign layers of width sqrt(eps);
    the facts show how far both flows end from Adam.
    """
    problem, steps, h = digits(batches=1), 10**5, jnp.asarray(1e-5)
    loop = _end(ia.iterate, problem, steps)
    loose = {"solver": diffrax.Bosh3(), "stepsize_controller": diffrax.PIDController(rtol=1e-4, atol=1e-4)}
    smooth = _end(ia.smooth_flow, problem, steps, shifted=True, **loose)
    tight = _end(ia.smooth_flow, problem, steps)
    plain = _end(ia.smooth_flow, problem, steps, order=0)
    timings = alternate(
        {"optax loop": lambda: loop(h), "smooth flow": lambda: smooth(h)},
        repeats=1,
        inner={"smooth flow": 20},
    )
    facts = {
        "end-point error of the smooth flow (Bosh3, 1e-4, shifted)": _distance(smooth(h), loop(h)),
        "of the smooth flow (Tsit5, 1e-9)": _distance(tight(h), loop(h)),
        "of the same without the correction": _distance(plain(h), loop(h)),
        "distance travelled": _distance(problem.params, loop(h)),
    }
    return ratio("digits network, 10^5 steps", timings, "optax loop", "smooth flow", ">=", 100, facts)


def _python_loop(steps: int):
    """A training script's loop: one jitted step, called from Python."""
    problem = bilinear()
    optimizer = ia.Adam(1e-6, 0.9, 0.999, 1e-6, eps_in_sqrt=True).transformation()

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(problem.loss)(params), state, params)
        return params + updates, state

    def run():
        params, state = problem.params, optimizer.init(problem.params)
        for _ in range(steps):
            params, state = step(params, state)
        return params

    return run


def python_loop() -> Measure:
    """The smooth flow compared with steps called one by one, as in a training script."""
    steps = 10**5
    h = jnp.asarray(1e-6)
    smooth = _end(ia.smooth_flow, bilinear(), steps)
    timings = alternate(
        {"loop in Python over a jitted step": _python_loop(steps), "smooth flow": lambda: smooth(h)},
        repeats=1,
        inner={"smooth flow": 200},
    )
    return ratio(
        "bilinear, 10^5 steps", timings, "loop in Python over a jitted step", "smooth flow", ">=", 1000
    )


def carried(finer: int, target: float, repeats: int) -> Measure:
    """The carried flow for the digits network in full batch, T 2, at usual settings (`finer` 1: h 1e-3,
    beta .9, rho .999), or with steps `finer` times as fine and the same memories in time, h/(1 - beta) and
    h/(1 - rho).
    """
    problem, steps, h = digits(batches=1), 2000 * finer, 1e-3 / finer
    loss, rule = problem.mean_loss, ia.Adam(h, 1 - 0.1 / finer, 1 - 0.001 / finer)

    def end(run):
        def ends(params):
            return jax.tree.map(lambda x: x[-1], run(rule, loss, params, steps, save_every=steps).params)

        compiled = jax.jit(ends)
        return lambda: compiled(problem.params)

    loop, flow = end(ia.iterate), end(ia.carried_flow)
    timings = alternate({"optax loop": loop, "carried flow": flow}, repeats=repeats)
    facts = {
        "end-point error of the carried flow": _distance(flow(), loop()),
        "distance travelled": _distance(problem.params, loop()),
    }
    what = f"digits network, full batch, {steps} steps of {h:g}"
    return ratio(what, timings, "optax loop", "carried flow", ">=", target, facts)


def closure() -> Measure:
    """The closure of the carried flow at the edge of stability: one evaluation of it, over one gradient."""
    loss, params = on_digits(dense_layers(jnp.tanh, 24, 4), 100)
    steps, rule = 300, ia.Adam(2e-3, 0.5, 0.99)

    @jax.jit
    def flow(params):
        return ia.carried_flow(rule, loss, params, steps, save_every=steps, closure="two-branch")

    @jax.jit
    def gradients(params):
        return jax.lax.fori_loop(
            0, steps, lambda _, x: jax.tree.map(lambda x, g: x - 1e-9 * g, x, jax.grad(loss)(x)), params
        )

    timings = alternate({"closure": lambda: flow(params), "gradients": lambda: gradients(params)}, repeats=3)
    # Bosh3 evaluates three times a step: it takes the last of a step as the first of the next.
    evaluations = 3 * int(flow(params).solver_steps)
    here = timings["closure"].median / evaluations / (timings["gradients"].median / steps)
    what = f"closure at the edge of stability, 4-layer tanh network, {steps} steps: evaluation / gradient"
    return Measure(what, here, "<=", 6, timings, {"evaluations a step": evaluations / steps})


MEASURES: Measures = {
    "closure": closure,
    "carried-flow": partial(carried, 1, 1.5, 3),
    "carried-flow-1e-4": partial(carried, 10, 15, 3),
    "carried-flow-1e-5": partial(carried, 100, 150, 1),
    "million-steps": million_steps,
    "digits-steps": digits_steps,
    "python-loop": python_loop,
}
