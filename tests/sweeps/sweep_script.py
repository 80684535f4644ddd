"""A sweep in a process of its own, to be killed, resumed and run twice: FOLDER OUT [PAUSE [PART]]."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

GRID = {"beta": np.linspace(0, 0.9, 6), "rho": np.linspace(0.1, 0.95, 8)}


def fn(beta, rho):
    def step(_, x):
        return x - 0.1 * jnp.sin(beta * x + rho)

    return {"x": jax.lax.fori_loop(0, 1000, step, beta + rho), "y": jnp.stack([beta * rho, beta / rho])}


def main(folder, out, pause=0.0, part=None):
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", 2)
    import implicit_adam as ia
    from implicit_adam.sweeps.lanes import Chunk

    compute = Chunk.__call__

    def slowly(self, points):
        print("computes", flush=True)
        time.sleep(float(pause))
        return compute(self, points)

    Chunk.__call__ = slowly
    part = part and tuple(map(int, part.split("/")))
    ia.sweep(fn, GRID, chunk_size=4, checkpoint=folder or None, part=part, progress=False).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
