"""Transformations are tried on few parameters, where that shows the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_adam as ia
from implicit_adam.rules.from_optax.smaller import smaller


def shapes(*lengths):
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in lengths]


def cut(tx, *lengths):
    return [x.shape for x in smaller(tx, shapes(*lengths))]


def test_long_axes_are_cut_and_none_vanishes():
    assert cut(optax.adamw(1.0), (1000, 500), (7,), (3, 3, 1, 64), ()) == [(16, 16), (7,), (3, 3, 1, 16), ()]


def test_axes_stay_long_enough_for_what_is_done_with_long_ones_alone():
    assert cut(optax.adafactor(1.0), (1000, 500), (1000,)) == [(128, 128), (128,)]
    assert cut(optax.adafactor(1.0, min_dim_size_to_factor=300), (1000, 500)) == [(1000, 500)]


def test_a_transformation_that_holds_arrays_like_the_parameters_is_tried_on_all():
    scale = np.linspace(1.0, 2.0, 40, dtype=np.float32)
    tx = optax.chain(optax.adam(1.0), optax.stateless(lambda u, _: [scale * x for x in u]))
    assert cut(tx, (40,)) == [(40,)]


def test_thresholds_on_sizes_keep_the_parameters_as_they_are():
    by_size = optax.masked(optax.add_decayed_weights(0.1), lambda p: jax.tree.map(lambda x: x.size > 1000, p))
    assert cut(by_size, (64, 64)) == [(64, 64)]
    rate = optax.stateless(lambda u, _: [(0.5 if x.size > 1000 else 1.0) * x for x in u])
    assert cut(rate, (64, 64)) == [(64, 64)]


def test_parameters_of_a_class_of_ones_own_are_tried_too():
    @jax.tree_util.register_pytree_node_class
    class Own:
        def __init__(self, w):
            self.w = w

        def tree_flatten(self):
            return (self.w,), None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    field = ia.vector_field(ia.Optax(0.1, optax.adam(1.0)), lambda own: jnp.sum(own.w**2))
    assert field(5, Own(jnp.ones((20, 30)))).w.shape == (20, 30)
