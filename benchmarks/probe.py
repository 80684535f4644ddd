"""A training loop of one's own with a probe in it, against the same loop without."""

import jax
import jax.numpy as jnp
import optax

import implicit_adam as ia
from benchmarks.measure import Measure, Measures, ratio
from benchmarks.networks import size
from benchmarks.timing import alternate
from implicit_adam.networks.named import choices, network

EVERY = 100


def overhead() -> Measure:
    """Adam on a small vision transformer in mini-batches; the probe looks once in every hundred steps."""
    net = network(choices("vit", width=117), 10)
    params = net.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
    labels = jax.nn.one_hot(jax.random.randint(jax.random.key(2), (8,), 0, 10), 10)

    def loss(params, batch):
        images, labels = batch
        return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(net.apply(params, images)[0]), axis=-1))

    tx = optax.adam(1e-4)

    @jax.jit
    def train_step(params, opt_state, batch):
        updates, opt_state = tx.update(jax.grad(loss)(params, batch), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def train(every: int | None, steps: int = EVERY):
        probe = None if every is None else probes[every]
        now, opt_state, batch = params, begun, (images, labels)
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
