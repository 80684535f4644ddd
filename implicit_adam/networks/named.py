"""The networks by name, with the choices that each offers."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax

from implicit_adam.checks.numbers import check_count
from implicit_adam.networks.base import Activation, Network
from implicit_adam.networks.cnn import cnn
from implicit_adam.networks.normalisation import NORMALISATIONS
from implicit_adam.networks.resnet import resnet
from implicit_adam.networks.vit import vit

ACTIVATIONS: dict[str, Activation] = {"relu": jax.nn.relu, "gelu": partial(jax.nn.gelu, approximate=False)}
DTYPES = ("float32", "bfloat16")


class Model(NamedTuple):
    """A function that builds the network, its choices (the first is the default) and its default width."""

    build: Callable[..., Network]
    normalisations: tuple[str, ...]
    activations: tuple[str, ...]
    width: int


# ReLU as in the paper; GELU is smooth, as the theorem requires.
MODELS: dict[str, Model] = {
    "resnet50": Model(
        partial(resnet, (3, 4, 6, 3)), ("ghost", "exact", "frozen", "group"), ("relu", "gelu"), 64
    ),
    "resnet101": Model(
        partial(resnet, (3, 4, 23, 3)), ("ghost", "exact", "frozen", "group"), ("relu", "gelu"), 64
    ),
    "cnn": Model(cnn, ("group", "exact", "ghost", "frozen"), ("gelu", "relu"), 32),
    "vit": Model(vit, ("layer",), ("gelu", "relu"), 192),
}


class Choices(NamedTuple):
    """Everything that defines a network except the number of classes, by name."""

    model: str
    normalisation: str
    activation: str
    dtype: str
    width: int


def choices(
    model: str,
    *,
    normalisation: str | None = None,
    activation: str | None = None,
    dtype: str = "float32",
    width: int | None = None,
) -> Choices:
    """The `Choices` of a model, with its defaults in place of None.

    Raises `ValueError` for an unknown model, and for choices that it does not offer.
    """
    chosen = MODELS[_one_of("model", model, tuple(MODELS))]
    return Choices(
        model,
        _one_of(f"normalisation of {model}", normalisation, chosen.normalisations),
        _one_of(f"activation of {model}", activation, chosen.activations),
        _one_of("dtype", dtype, DTYPES),
        chosen.width if width is None else check_count("width", width),
    )


@cache
def network(chosen: Choices, classes: int) -> Network:
    """Build the network; equal choices return the same object, so that jit does not compile it again."""
    return MODELS[chosen.model].build(
        classes,
        width=chosen.width,
        activation=ACTIVATIONS[chosen.activation],
        normalise=NORMALISATIONS[chosen.normalisation].layer,
        dtype=chosen.dtype,
    )


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> str:
    if value is None:
        return allowed[0]
    if value not in allowed:
        msg = f"{name} must be one of {', '.join(allowed)}; got {value!r}"
        raise ValueError(msg)
    return value
