"""Transformations are tried on few parameters, where that shows the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
