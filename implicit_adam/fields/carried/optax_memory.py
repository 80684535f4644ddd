"""The memories of an optax transformation as few vectors: one for all those of one kind."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from implicit_adam.fields.carried.carrier import Memory
from implicit_adam.objective import Objective
from implicit_adam.rules.from_optax.any_time import Memories
from implicit_adam.rules.from_optax.recursion import Kind, Recursions, recursions
from implicit_adam.rules.from_optax.rule import Optax
from implicit_adam.types import Scalar, Vector


class Packed(NamedTuple):
    """What is `known` of the memories, and the kinds that there are."""

    known: Recursions
    kinds: tuple[Kind, ...]

    @property
    def decays(self) -> list[Scalar]:
        """d of each kind."""
        return [jnp.asarray(kind.decay, kind.dtype) for kind in self.kinds]

    @property
    def levels(self) -> range:
        """From the lowest to the highest."""
        return range(1 + max((kind.level for kind in self.kinds), default=-1))

    @property
    def delays(self) -> list[str]:
        """The names of memories that are the past gradient, or made of it alone."""
        named = zip(self.known.at.memory_names, self.known.kinds, strict=True)
        return [name for name, kind in named if kind.decay == 0 and kind.of_gradient]

    def packed(self, memories: Memories) -> Memory:
        """A vector a kind."""
        return [
            jnp.concatenate(
                [jnp.ravel(y) for y, own in zip(memories, self.known.kinds, strict=True) if own == kind]
            )
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
        """That of a state of the transformation."""
        return self.packed(self.known.at.memories(state))

    def shown(self, memory: Memory) -> Any:
        """A pytree like the state, with None for counters, constants and memories of d = 0."""
        memories = zip(self.known.kinds, self.unpacked(memory), strict=True)
        return self.known.at.shown([None if kind.decay == 0 else y for kind, y in memories])

    def hidden(self, shown: Any) -> Memory:
        """The memory that is shown so; those of d = 0 are zeros, which nothing reads."""
        leaves = zip(self.known.at.structure.flatten_up_to(shown), self.known.at.leaves, strict=True)
        found = [y for y, leaf in leaves if leaf is None]
        memories = zip(found, self.known.kinds, self.known.shapes, strict=True)
        return self.packed([jnp.zeros(shape, kind.dtype) if y is None else y for y, kind, shape in memories])


def packed_memories(rule: Optax, objective: Objective, theta: Vector) -> Packed:
    """Of a transformation on parameters like theta; `ValueError` where it has no carried memory."""
    known = recursions(rule.tx, jax.eval_shape(objective.unravel, theta))
    return Packed(known, tuple(dict.fromkeys(known.kinds)))
