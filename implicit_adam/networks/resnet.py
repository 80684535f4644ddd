"""ResNet-50 and ResNet-101 (He et al. 2016) for small images, as in the paper's experiments.

It is torchvision's network (stride in the 3x3 convolution of a bottleneck), with a 3x3 stem of stride 1 and
without the max-pool. It is written here because other libraries have only the ImageNet stem (dm-haiku, whose
maintainers recommend others to new projects) or no ResNet (flax, equinox), and none has normalisation as an
explicit choice.
"""

from functools import partial
from typing import Any

import jax
from jaxtyping import DTypeLike

from implicit_adam.networks.base import (
    Activation,
    Activations,
    Images,
    Logits,
    Network,
    Statistics,
    at,
)
from implicit_adam.networks.initial import drawn, stacked
from implicit_adam.networks.layers import STORED, conv, conv_initial, dense, dense_initial, pooled
from implicit_adam.networks.normalisation import Normalise, normalise_initial
from implicit_adam.types import Params

EXPANSION = 4
# Convolutions are stored; normalisations and activations are large, and cheap to compute again.
KEEP = jax.checkpoint_policies.save_only_these_names(STORED)


def resnet(
    blocks: tuple[int, ...],
    classes: int,
    *,
    width: int,
    activation: Activation,
    normalise: Normalise,
    dtype: DTypeLike,
) -> Network:
    """A bottleneck ResNet: `blocks[i]` (at least two) blocks in stage i, `width` channels in the stem."""
    initial: dict[str, Any] = {"stem": {"conv": conv_initial(3, 3, width), "norm": normalise_initial(width)}}
    inputs = width
    for i, count in enumerate(blocks):
        inner = width * 2**i
        first, later = _block(inputs, inner, shortcut=True), _block(EXPANSION * inner, inner)
        initial[f"stage{i + 1}"] = {"first": first, "rest": stacked(count - 1, later)}
        inputs = EXPANSION * inner
    initial["head"] = dense_initial(inputs, classes)

    def block(stride: int, params: Params, x: Activations, statistics: Statistics) -> Any:
        seen = {}

        def norm(i: int, y: Activations) -> Activations:
            y, seen[f"norm{i}"] = normalise(params[f"norm{i}"], y, at(statistics, f"norm{i}"))
            return y

        y = activation(norm(1, conv(params["conv1"], x)))
        y = activation(norm(2, conv(params["conv2"], y, stride)))
        y = norm(3, conv(params["conv3"], y))
        shortcut = norm(0, conv(params["conv0"], x, stride)) if "conv0" in params else x
        return activation(y + shortcut), seen

    first_block = jax.checkpoint(block, policy=KEEP, static_argnums=(0,))
    # The scan keeps forward and backward apart by itself.
    later_block = jax.checkpoint(block, policy=KEEP, static_argnums=(0,), prevent_cse=False)

    def stage(stride: int, params: Params, x: Activations, statistics: Statistics) -> Any:
        x, seen_first = first_block(stride, params["first"], x, at(statistics, "first"))
        # All blocks with the same shapes share one compiled block.
        x, seen_rest = jax.lax.scan(
            lambda x, xs: later_block(1, xs[0], x, xs[1]), x, (params["rest"], at(statistics, "rest"))
        )
        return x, {"first": seen_first, "rest": seen_rest}

    def apply(params: Params, images: Images, statistics: Statistics = None) -> tuple[Logits, Statistics]:
        seen = {}
        x = conv(params["stem"]["conv"], images.astype(dtype))
        x, seen["stem"] = normalise(params["stem"]["norm"], x, at(statistics, "stem"))
        x = activation(x)
        for i in range(len(blocks)):
            name = f"stage{i + 1}"
            x, seen[name] = stage(1 if i == 0 else 2, params[name], x, at(statistics, name))
        return dense(params["head"], pooled(x)), seen

    return Network(partial(drawn, initial), apply)


def _block(inputs: int, inner: int, *, shortcut: bool = False) -> dict[str, Any]:
    outputs = EXPANSION * inner
    shapes = {1: (1, inputs, inner), 2: (3, inner, inner), 3: (1, inner, outputs)}
    if shortcut:
        shapes[0] = (1, inputs, outputs)
    convolutions = {f"conv{i}": conv_initial(*shape) for i, shape in shapes.items()}
    return convolutions | {f"norm{i}": normalise_initial(shape[2]) for i, shape in shapes.items()}
