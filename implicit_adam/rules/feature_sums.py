"""The memory of a rule as a recursion: one discounted sum of features for each exponential.

    A_e <- decay_e A_e + psi_i(g),        s_i = sum_e scale_e(n) A_e

for the exponentials e of the kernel of feature i, starting from A_e = 0.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from implicit_adam.rules.kernels import Kernel
from implicit_adam.types import Vector

# For each kernel, one vector for each of its exponentials.
FeatureSums = tuple[tuple[Vector, ...], ...]


def no_sums(kernels: Sequence[Kernel], like: Vector) -> FeatureSums:
    """The sums before the first step: zeros, for vectors like this one."""
    return tuple((jnp.zeros_like(like),) * kernel.decay.size for kernel in kernels)


def next_sums(kernels: Sequence[Kernel], sums: FeatureSums, psi: tuple[Vector, ...]) -> FeatureSums:
    """The sums after one more gradient, whose features are psi."""
    return tuple(
        tuple(kernel.decay[e] * A + psi_i for e, A in enumerate(row))
        for kernel, row, psi_i in zip(kernels, sums, psi, strict=True)
    )


def read(kernels: Sequence[Kernel], sums: FeatureSums) -> tuple[Vector, ...]:
    """The memories s_i, with the kernels of the step that reads them."""
    return tuple(
        sum((kernel.scale[e] * A for e, A in enumerate(row)), start=jnp.zeros_like(row[0]))
        for kernel, row in zip(kernels, sums, strict=True)
    )
