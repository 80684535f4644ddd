"""A convolutional network in a loop, in which XLA's gradients of convolutions are slow on a CPU.

See https://github.com/jax-ml/jax/issues/12868
"""

import jax
import jax.numpy as jnp

from benchmarks.measure import Measure, Measures, ratio
from benchmarks.timing import alternate
from implicit_adam.networks.named import choices, network

STEPS = 5


def in_a_loop() -> Measure:
    """Gradient steps of the library's small CNN inside one scan, compared with gradients outside."""
    net = network(choices("cnn", width=16), 10)
    params = net.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (128, 16, 16, 3))
    labels = jax.nn.one_hot(jax.random.randint(jax.random.key(2), (128,), 0, 10), 10)

    def gradient(params, images):
        def loss(params):
            return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(net.apply(params, images)[0]), axis=-1))

        return jax.grad(loss)(params)

    @jax.jit
    def loop(params, images):
        def step(params, _):
            return jax.tree.map(lambda x, g: x - 1e-3 * g, params, gradient(params, images)), None

        return jax.lax.scan(step, params, None, length=STEPS)[0]

    compiled = jax.jit(gradient)
    timings = alternate({
        "steps in a loop": lambda: loop(params, images),
        "gradients": lambda: [compiled(params, images) for _ in range(STEPS)],
    }, repeats=3)  # fmt: skip
    return ratio(f"cnn, 128 images, {STEPS} steps", timings, "steps in a loop", "gradients", "<=", 1.3)


MEASURES: Measures = {"cnn-loop": in_a_loop}
