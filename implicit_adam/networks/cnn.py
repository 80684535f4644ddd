"""A small convolutional network; with GELU its loss is smooth, as the theorem requires."""

from functools import partial
from typing import Any

from jaxtyping import DTypeLike

from implicit_adam.networks.base import Activation, Images, Logits, Network, Statistics, at
from implicit_adam.networks.initial import drawn
from implicit_adam.networks.layers import conv, conv_initial, dense, dense_initial, pooled
from implicit_adam.networks.normalisation import Normalise, normalise_initial
from implicit_adam.types import Params

STRIDES = (1, 2, 2)


def cnn(
    classes: int, *, width: int, activation: Activation, normalise: Normalise, dtype: DTypeLike
) -> Network:
    """Three 3x3 convolutions with `width` times 1, 2 and 4 channels, two of stride 2, then a mean pool."""
    channels = (3, width, 2 * width, 4 * width)

    initial: dict[str, Any] = {
        f"layer{i}": {
            "conv": conv_initial(3, channels[i], channels[i + 1]),
            "norm": normalise_initial(channels[i + 1]),
        }
        for i in range(len(STRIDES))
    }
    initial["head"] = dense_initial(channels[-1], classes)

    def apply(params: Params, images: Images, statistics: Statistics = None) -> tuple[Logits, Statistics]:
        x, seen = images.astype(dtype), {}
        for i, stride in enumerate(STRIDES):
            name = f"layer{i}"
            x = conv(params[name]["conv"], x, stride)
            x, seen[name] = normalise(params[name]["norm"], x, at(statistics, name))
            x = activation(x)
        return dense(params["head"], pooled(x)), seen

    return Network(partial(drawn, initial), apply)
