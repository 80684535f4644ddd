"""How a transformation forgets: what has faded may be cut, and what never fades is said to be outside."""

import jax.numpy as jnp
import optax
import optax.contrib
import pytest

from tests import examples
from tests.rules.test_optax_probe import check


def test_a_window_shorter_than_the_memory_is_refused_with_the_length_it_needs():
    with pytest.raises(ValueError, match=r"decay 0.99 a step where 61%.*take 230 or more"):
        check(optax.adam(1.0, b2=0.99), window=50)
    check(optax.adam(1.0, b2=0.99), window=230)


def root_mean_square_of_all():
    """Divides by the root mean square of all gradients so far: a sum, however it is written."""

    def init(params):
        return jnp.zeros((), jnp.int32), jnp.full_like(params, 0.1)

    def update(g, state, _=None):
        n = state[0] + 1
        mean = state[1] + (g**2 - state[1]) / n.astype(g.dtype)
        return -g / jnp.sqrt(mean), (n, mean)

    return optax.GradientTransformation(init, update)


OUTSIDE = {
    "a sum": (optax.adagrad(1.0), "does not fade.*sum_of_squares"),
    "a maximum": (optax.amsgrad(1.0), "does not fade.*nu_max"),
    "a cover": (optax.sm3(1.0), "does not fade"),
    "a sign inside": (optax.yogi(1.0), "does not fade.*nu"),
    "an average over a power of n": (optax.adafactor(1.0), r"grows with the step number.*v"),
    "an average over all": (root_mean_square_of_all(), "grows with the step number"),
    "a step size from gradients": (optax.contrib.dadapt_adamw(), "does not fade.*estim_lr"),
}


@pytest.mark.parametrize(("tx", "words"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_memory_that_does_not_fade_is_said_to_be_outside_the_theorem(tx, words):
    with pytest.warns(UserWarning, match=words):
        check(tx)
    with pytest.raises(ValueError, match="a window cuts a memory that fades"):
        check(tx, window=1000)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_memory_that_fades_as_slowly_as_a_millionth_a_step_fades(dtype):
    check(optax.rmsprop(1.0, 1 - 1e-6), params=examples.START.astype(dtype))
