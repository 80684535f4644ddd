"""The optax transformation of a rule, from its features, kernels and readout alone.

Its state holds the sums of features (`feature_sums`), each as large as the parameters. A rule that optax has,
too, returns optax's own transformation instead, so that its states are those of a run with optax.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int

from implicit_adam.rules.contract import reads_the_point
from implicit_adam.rules.feature_sums import FeatureSums, next_sums, read
from implicit_adam.types import Params, working_dtype


class TwinState(NamedTuple):
    """The number of steps taken, and A_e for each exponential of each kernel, pytrees like the parameters."""

    # The name of the counter in optax's own states.
    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    feature_sums: tuple[tuple[Params, ...], ...]


def twin(rule: Any) -> optax.GradientTransformation:
    """The transformation; its `update` needs params only if the readout depends on them."""

    def init(params: Params) -> TwinState:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, working_dtype(x.dtype)), params)
        sums = tuple((zeros,) * kernel.decay.size for kernel in rule.kernels(0))
        return TwinState(jnp.zeros((), jnp.int32), sums)

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, TwinState]:
        if params is None and reads_the_point(rule):
            msg = f"the update of {type(rule).__name__} depends on the parameters: pass params to update"
            raise ValueError(msg)
        points = updates if params is None else params
        leaves, structure = jax.tree.flatten(updates)
        moved = [
            _of_leaf(rule, state.count, g, theta, sums)
            for g, theta, sums in zip(leaves, jax.tree.leaves(points), _by_leaf(state), strict=True)
        ]
        sums = jax.tree.map(lambda *leaves: structure.unflatten(leaves), *(sums for _, sums in moved))
        count = jnp.asarray(optax.safe_increment(state.count))
        return structure.unflatten([update for update, _ in moved]), TwinState(count, sums)

    return optax.GradientTransformation(init, update)


def _by_leaf(state: TwinState) -> list[Any]:
    """For each leaf of the parameters, the A_e of every kernel."""
    columns = [[jax.tree.leaves(A) for A in row] for row in state.feature_sums]
    count = len(columns[0][0])
    return [tuple(tuple(A[i] for A in row) for row in columns) for i in range(count)]


def _of_leaf(rule: Any, n: Any, g: Array, theta: Array, sums: Any) -> tuple[Array, Any]:
    """-h F^(n) and the next sums for one leaf, flattened for features and readout."""
    dtype = working_dtype(g.dtype)
    rule, shape = rule.astype(dtype), g.shape
    kernels, psi = rule.kernels(n), rule.features(g.ravel().astype(dtype))

    sums = next_sums(kernels, jax.tree.map(jnp.ravel, sums), psi)
    update = -rule.h * rule.readout(read(kernels, sums), theta.ravel().astype(dtype), n)
    return update.reshape(shape).astype(g.dtype), jax.tree.map(lambda A: A.reshape(shape), sums)


def sums_in(rule: Any, opt_state: Any) -> FeatureSums:
    """The flat A_e in a state of `twin`, wherever it is inside a larger state."""
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "feature_sums")
    if len(found) != 1:
        msg = (
            f"opt_state holds {len(found)} states of {type(rule).__name__}'s transformation, one is needed; "
            "a rule with a transformation() of its own says what its state holds in a method sums(opt_state)"
        )
        raise ValueError(msg)
    return tuple(tuple(ravel_pytree(A)[0] for A in row) for row in found[0][1])
