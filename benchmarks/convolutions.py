"""A convolutional network in a loop, in which XLA's gradients of convolutions are slow on a CPU.

See https://github.com/jax-ml/jax/issues/12868
"""

import jax

from benchmarks.measure import Measure, Measures, ratio
from benchmarks.networks import on_images
from benchmarks.timing import alternate

STEPS = 5


def in_a_loop() -> Measure:
    """Gradient steps of the library's small CNN inside one scan, compared with gradients outside."""
    loss, params, batch = on_images("cnn", 16, 128, 16)
    gradient = jax.grad(loss)

    @jax.jit
    def loop(params, batch):
        def step(params, _):
            return jax.tree.map(lambda x, g: x - 1e-3 * g, params, gradient(params, batch)), None

        return jax.lax.scan(step, params, None, length=STEPS)[0]

    compiled = jax.jit(gradient)
    timings = alternate({
        "steps in a loop": lambda: loop(params, batch),
        "gradients": lambda: [compiled(params, batch) for _ in range(STEPS)],
    }, repeats=3)  # fmt: skip
    return ratio(f"cnn, 128 images, {STEPS} steps", timings, "steps in a loop", "gradients", "<=", 1.3)


MEASURES: Measures = {"cnn-loop": in_a_loop}
