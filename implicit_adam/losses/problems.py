"""Test problems, each with a starting point: the paper's model, a solvable one, and real data."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.checks.numbers import check_count
from implicit_adam.objective import mean_loss
from implicit_adam.reprs import line
from implicit_adam.types import Batches, Loss, Params

__all__ = [
    "PROBLEMS",
    "Problem",
    "bilinear",
    "digits",
    "quadratic",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)


class Problem(NamedTuple):
    """A loss with a starting point, its mini-batches, and the scales that a study of it uses.

    - `batches`: None if the loss depends on the parameters alone.
    - `start`: `start(seed)` draws other starting parameters (the seed may be traced); None if there are none.
    - `horizon`: a time in which an optimizer that moves about one unit per unit of time, such as Adam,
      changes the gradient considerably. `short_horizon` is used where every step is expensive (orders beyond
      1 with mini-batches), `gradient_horizon` for an optimizer that moves by gradients. None: as `horizon`.
    - `gradient`: the typical size of a gradient component along the way.
    """

    name: str
    loss: Loss
    params: Params
    batches: Batches = None
    start: Callable[[Any], Params] | None = None
    horizon: float = 1.0
    short_horizon: float | None = None
    gradient_horizon: float | None = None
    gradient: float = 1.0

    def __repr__(self) -> str:
        return line(self)

    @property
    def mean_loss(self) -> Loss:
        """The full-batch loss."""
        return mean_loss(self.loss, self.batches)


def bilinear_loss(theta):
    """E(theta) = (3/2 - 2 theta_1 theta_2)^2 / 2, section 4; minimal on the curve theta_1 theta_2 = 3/4."""
    return (3 / 2 - 2 * theta[0] * theta[1]) ** 2 / 2


def bilinear() -> Problem:
    """The paper's bilinear model, starting at (2.8, 3.5)."""
    start = jnp.asarray([2.8, 3.5])
    return Problem("bilinear", bilinear_loss, start, horizon=0.5, gradient_horizon=0.02, gradient=30.0)


def quadratic(eigenvalues=(0.5, 1.0, 2.0)) -> Problem:
    """E(theta) = sum_i lambda_i theta_i^2 / 2, starting at (1, .., 1).

    Gradient descent gives theta_i = (1 - h lambda_i)^n, exactly the gradient flow of the quadratic with
    eigenvalues -log(1 - h lambda_i)/h.
    """
    spectrum = tuple(float(x) for x in eigenvalues)

    def loss(theta):
        return jnp.sum(jnp.asarray(spectrum, theta.dtype) * theta**2) / 2

    return Problem("quadratic", loss, jnp.ones(len(spectrum)))


def network_loss(params, batch):
    """Mean cross-entropy of a two-layer tanh network with one-hot targets: smooth, as the theorem asks."""
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["w1"] + params["b1"][None])
    logits = hidden @ params["w2"] + params["b2"][None]
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))


def network_params(key, inputs: int, hidden: int, classes: int):
    """Gaussian weights of variance 1 / fan-in, zero biases, in the default dtype."""
    key1, key2 = jax.random.split(key)
    return {
        "w1": jax.random.normal(key1, (inputs, hidden)) / inputs**0.5,
        "b1": jnp.zeros(hidden),
        "w2": jax.random.normal(key2, (hidden, classes)) / hidden**0.5,
        "b2": jnp.zeros(classes),
    }


def digits(*, batches: int = 4, hidden: int = 8, samples: int = 1796, seed: int = 0) -> Problem:
    """A smooth two-layer network on scikit-learn's real handwritten digits (1797 images of 8 x 8).

    `samples` images are split into `batches` mini-batches of equal size; `batches=1` is full-batch training.
    `seed` selects and orders the images and draws the initial weights. Raises `ValueError` unless `samples`
    is at most 1797 and a multiple of `batches`.
    """
    images, labels = load_digits()
    if not 0 < check_count("samples", samples) <= len(images):
        msg = f"samples must lie in 1 .. {len(images)}, got {samples}"
        raise ValueError(msg)
    m = check_count("batches", batches)
    if samples % m:
        msg = f"samples = {samples} must be a multiple of batches = {m}, so that all have the same size"
        raise ValueError(msg)
    order = np.random.default_rng(seed).permutation(len(images))[:samples]
    inputs = jnp.asarray(images[order] / 16.0, float)
    targets = jax.nn.one_hot(labels[order], 10, dtype=inputs.dtype)
    split = jax.tree.map(lambda x: x.reshape(m, samples // m, -1), (inputs, targets))

    def start(seed: Any) -> Params:
        return digits_start(seed, hidden)

    return Problem(
        "digits",
        network_loss,
        start(seed),
        split,
        start,
        horizon=0.1,
        short_horizon=0.02,
        gradient_horizon=1.0,
        gradient=0.03,
    )


def digits_start(seed, hidden: int = 8) -> Params:
    """The initial weights of `digits`; the seed may be traced."""
    return network_params(jax.random.key(seed), 64, hidden, 10)


def load_digits() -> Any:
    """Scikit-learn's 1797 handwritten digits: images (1797, 64) with values 0 .. 16, and labels."""
    try:
        from sklearn import datasets
    except ImportError as error:
        msg = "the digits data come with scikit-learn: pip install scikit-learn"
        raise ImportError(msg) from error
    return datasets.load_digits(return_X_y=True)


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "bilinear": bilinear,
    "quadratic": quadratic,
    "digits": digits,
}


def build_problem(name: str, **wanted: Any) -> Problem:
    """The problem `name` of `PROBLEMS`, with those of the `wanted` options that its builder takes."""
    options = problem_options(name)
    return PROBLEMS[name](**{key: value for key, value in wanted.items() if key in options})


def problem_options(name: str) -> tuple[str, ...]:
    """The names of the options that a problem's builder takes, such as `seed` or `samples`."""
    return tuple(inspect.signature(PROBLEMS[name]).parameters)
