"""An optax transformation at any step number, with its state reduced to its memories.

A state holds memories (of gradients or points), counters, and constants. Counters and constants follow from
the step number and are filled in here. What is left is a list of memories, and `update` can be evaluated at
a step number that is not an integer: counters become floating numbers. Only the counter of a learning-rate
schedule stays an integer, since a schedule may be known for integers alone; the update is then interpolated
between the nearest steps (`between_steps`).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_adam.programs.dependence import dependence, passed_on
from implicit_adam.programs.quickly import compiled_quickly
from implicit_adam.rules.from_optax.probe import Behaviour
from implicit_adam.rules.from_optax.state import initial_state
from implicit_adam.rules.scheduled import between_steps
from implicit_adam.types import Scalar, Vector

# The leaves of a state that are memories.
Memories = list[Any]
SCHEDULED = (optax.ScaleByScheduleState, optax.schedules.InjectStatefulHyperparamsState)


class Counter(NamedTuple):
    """A number that grows by `advance` every step; `scheduled`: a schedule reads it."""

    first: Any
    advance: float
    scheduled: bool


class Constant(NamedTuple):
    """A leaf that is constant from step 1 on; at step 0 its value may differ."""

    first: Any
    then: Any


class AnyTime(NamedTuple):
    """A transformation on flat vectors at any step number; in `leaves` None stands for a memory."""

    tx: optax.GradientTransformation
    structure: Any
    names: tuple[str, ...]
    leaves: tuple[Counter | Constant | None, ...]

    def memories(self, state: Any) -> Memories:
        """The memories in a state."""
        return [x for x, known in zip(jax.tree.leaves(state), self.leaves, strict=True) if known is None]

    @property
    def memory_names(self) -> list[str]:
        """The paths of the memories in the state."""
        return [name for name, known in zip(self.names, self.leaves, strict=True) if known is None]

    def state(self, n: Scalar, memories: Memories, whole: Any = None) -> Any:
        """The state before step n; the counters of schedules are those before the integer step `whole`."""
        rest = iter(memories)
        return self.structure.unflatten(
            next(rest) if known is None else _at(known, n, whole) for known in self.leaves
        )

    def shown(self, memories: Memories) -> Any:
        """A pytree like the state, with None for everything but memories."""
        rest = iter(memories)
        return self.structure.unflatten(next(rest) if known is None else None for known in self.leaves)

    def update(self, n: Scalar, g: Any, memories: Memories, theta: Any) -> tuple[Any, Memories]:
        """The updates of step n, and the memories after it, on vectors or what else `tx` takes."""
        if not self.scheduled:
            return self.update_of(n, None, g, memories, theta)
        # What does not depend on the schedule is the same in each call, and the compiler computes it once.
        return between_steps(lambda whole: self.update_of(n, whole, g, memories, theta), n)

    def update_of(
        self, n: Scalar, whole: Any, g: Any, memories: Memories, theta: Any
    ) -> tuple[Any, Memories]:
        """As `update`, with the counters of schedules at the integer step `whole`."""
        updates, state = self.tx.update(g, self.state(n, memories, whole), theta)
        new = [x.astype(old.dtype) for x, old in zip(self.memories(state), memories, strict=True)]
        return jax.tree.map(jnp.asarray, updates), new

    @property
    def scheduled(self) -> bool:
        """Whether a schedule reads a counter."""
        return any(isinstance(known, Counter) and known.scheduled for known in self.leaves)


def _at(known: Counter | Constant, n: Scalar, whole: Any) -> Any:
    if isinstance(known, Constant):
        return known.first if known.then is known.first else jnp.where(n <= 0, known.first, known.then)
    if known.scheduled:
        return known.first + jnp.asarray(known.advance).astype(known.first.dtype) * whole.astype(
            known.first.dtype
        )
    return jnp.asarray(known.first).astype(n.dtype) + known.advance * n


def at_any_time(tx: optax.GradientTransformation, theta: Any, found: Behaviour) -> AnyTime:
    """`tx` at any time, on vectors like theta, with the counters `found` by the probe, all of period 1.

    Raises `ValueError` if a flag or an integer is set by counting: the runs of the probe are too short to say
    what it will be.
    """
    ones = np.ones(theta.shape, theta.dtype)
    first, then = compiled_quickly(lambda ones: _begun(tx, ones), ones)(ones)
    paths = jax.tree_util.tree_leaves_with_path(first)
    of_points = dependence(lambda theta: initial_state(tx, theta), ones)[:, 0]
    kept = np.diagonal(passed_on(lambda state, ones: tx.update(ones, state, ones)[1], first, ones))
    scheduled = _scheduled(first)

    def kind(i: int) -> Counter | Constant | None:
        x, advance = paths[i][1], found.clock.advance[i]
        if advance:
            return Counter(np.asarray(x), advance, scheduled[i] and not eqx.is_inexact_array(x))
        if not eqx.is_inexact_array(x) or (kept[i] and not of_points[i]):
            later = jax.tree.leaves(then)[i]
            return Constant(x, x if _same(x, later) else later)
        return None

    names, leaves = (
        tuple(jax.tree_util.keystr(path) for path, _ in paths),
        tuple(map(kind, range(len(paths)))),
    )
    counters = [isinstance(known, Counter) for known in leaves]
    set_by = dependence(lambda state, ones: tx.update(ones, state, ones)[1], first, ones)[:, :-1]
    for i, known in enumerate(leaves):
        if isinstance(known, Constant) and not kept[i] and set_by[i, counters].any():
            msg = (
                f"what this transformation keeps in {names[i]} is set by counting steps, and was the same in "
                "each trial: when it changes is unknown, so that it has no equation here"
            )
            raise ValueError(msg)
    return AnyTime(tx, jax.tree.structure(first), names, leaves)


def _begun(tx: optax.GradientTransformation, ones: Vector) -> tuple[Any, Any]:
    """The state before the first step and after it."""
    first = initial_state(tx, ones)
    return first, tx.update(ones, first, ones)[1]


def _same(x: Any, y: Any) -> bool:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return not is_key and np.array_equal(np.asarray(x), np.asarray(y))


def _scheduled(state: Any) -> list[bool]:
    """Whether each leaf belongs to the state of a schedule."""

    def yes(tree: Any) -> Any:
        return jax.tree.map(lambda _: True, tree)

    def marked(node: Any) -> Any:
        if isinstance(node, optax.ScaleByScheduleState):
            return yes(node)
        if isinstance(node, optax.schedules.InjectStatefulHyperparamsState):
            return type(node)(*map(yes, node[:-1]), inner_state=within(node.inner_state))
        return False

    def within(tree: Any) -> Any:
        return jax.tree.map(marked, tree, is_leaf=lambda x: isinstance(x, SCHEDULED))

    return jax.tree.leaves(within(state))
