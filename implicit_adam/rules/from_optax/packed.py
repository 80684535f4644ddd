"""The memories of an optax transformation packed into few vectors, one for each kind of memory."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from implicit_adam.rules.from_optax.any_time import Memories
from implicit_adam.rules.from_optax.recursion import Kind, Recursions, recursions
from implicit_adam.types import Scalar, Vector
from implicit_adam.vectors import joined

# One vector for each kind of memory.
Memory = list[Vector]


class Packed(NamedTuple):
    """The `known` recursions of a transformation, and the kinds of its memories."""

    known: Recursions
    kinds: tuple[Kind, ...]

    @property
    def decays(self) -> list[Scalar]:
        """The decay d of each kind."""
        return [jnp.asarray(kind.decay, kind.dtype) for kind in self.kinds]

    @property
    def weights(self) -> list[Scalar]:
        """The weight of the newest psi in each kind: 1-d, or 1 in a sum."""
        return [jnp.where(d < 1, 1 - d, jnp.ones_like(d)) for d in self.decays]

    @property
    def levels(self) -> range:
        """The levels of memories, from the lowest to the highest."""
        return range(1 + max((kind.level for kind in self.kinds), default=-1))

    @property
    def delays(self) -> list[str]:
        """The names of memories that are the past gradient, or computed from it alone."""
        named = zip(self.known.at.memory_names, self.known.kinds, strict=True)
        return [name for name, kind in named if kind.decay == 0 and kind.of_gradient]

    def packed(self, memories: Memories) -> Memory:
        """One vector for each kind."""
        return [
            joined([jnp.ravel(y) for y, own in zip(memories, self.known.kinds, strict=True) if own == kind])
            for kind in self.kinds
        ]

    def unpacked(self, memory: Memory) -> Memories:
        """The memories in their shapes."""
        used, found = dict.fromkeys(self.kinds, 0), []
        for kind, shape in zip(self.known.kinds, self.known.shapes, strict=True):
            vector, begin = memory[self.kinds.index(kind)], used[kind]
            used[kind] = begin + math.prod(shape)
            found.append(vector[begin : used[kind]].reshape(shape))
        return found

    def update(self, n: Scalar, g: Vector, memory: Memory, theta: Vector) -> tuple[Vector, Memory]:
        """The updates of step n, and the memory after it."""
        updates, memories = self.known.at.update(n, g, self.unpacked(memory), theta)
        return updates, self.packed(memories)

    def memory(self, state: Any) -> Memory:
        """The packed memory in a state of the transformation."""
        return self.packed(self.known.at.memories(state))

    def shown(self, memory: Memory) -> Any:
        """A pytree like the state, with None for counters, constants and memories of d = 0."""
        memories = zip(self.known.kinds, self.unpacked(memory), strict=True)
        return self.known.at.shown([None if kind.decay == 0 else y for kind, y in memories])

    def hidden(self, shown: Any) -> Memory:
        """The inverse of `shown`; memories of d = 0 become zeros, which nothing reads."""
        leaves = zip(self.known.at.structure.flatten_up_to(shown), self.known.at.leaves, strict=True)
        found = [y for y, leaf in leaves if leaf is None]
        memories = zip(found, self.known.kinds, self.known.shapes, strict=True)
        return self.packed([jnp.zeros(shape, kind.dtype) if y is None else y for y, kind, shape in memories])


def packed_memories(tx: optax.GradientTransformation, params: Any) -> Packed:
    """The memories of `tx` on parameters of these shapes and dtypes; `ValueError` if it has none."""
    known = recursions(tx, params)
    return Packed(known, tuple(dict.fromkeys(known.kinds)))
