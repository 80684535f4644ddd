"""A training loop of one's own with a probe in it, against the same loop without."""

import jax
import optax

import implicit_adam as ia
from benchmarks.measure import Measure, Measures, ratio
from benchmarks.networks import on_images, size
from benchmarks.timing import alternate

EVERY = 100


def overhead() -> Measure:
    """Adam on a small vision transformer in mini-batches; the probe looks once in every hundred steps."""
    loss, params, batch = on_images("vit", 117, 8, 32)
    tx = optax.adam(1e-4)

    @jax.jit
    def train_step(params, opt_state, batch):
        updates, opt_state = tx.update(jax.grad(loss)(params, batch), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def train(every: int | None, steps: int = EVERY):
        probe = None if every is None else probes[every]
        now, opt_state = params, begun
        for _ in range(steps):
            now, opt_state = train_step(now, opt_state, batch)
            if probe is not None:
                probe.step(now, opt_state, batch)
        return now

    begun = tx.init(params)
    probes = {every: ia.Probe(ia.Adam(1e-4), loss, every=every) for every in (1, EVERY)}
    timings = alternate({
        "with a probe": lambda: train(EVERY),
        "steps": lambda: train(None),
        "ten steps, a look at each": lambda: train(1, 10),
    }, repeats=3)  # fmt: skip
    step = timings["steps"].median / EVERY
    look = timings["ten steps, a look at each"].median / 10 - step
    facts = {"parameters": float(size(params)), "a look in steps of the loop": look / step}
    what = f"transformer, {EVERY} steps of Adam, a look every {EVERY}"
    return ratio(what, timings, "with a probe", "steps", "<=", 1.05, facts)


MEASURES: Measures = {"probe": overhead}
