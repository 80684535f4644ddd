"""Networks are those of the papers, and every normalisation is what it says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_adam.datasets import channel_statistics
from implicit_adam.networks import MODELS, choices, network
from implicit_adam.networks.layers import _as_a_product, _as_it_is
from implicit_adam.networks.normalisation import NORMALISATIONS, batch_norm, group_norm, layer_norm
from implicit_adam.networks.passes import (
    Examples,
    accuracy,
    cross_entropy,
    full_batch,
    measured_statistics,
)
from implicit_adam.networks.resnet import resnet
from tests.paper import cifar_files

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def examples(n=8):
    images, labels = cifar_files.images(n)
    return Examples(jnp.asarray(images), jnp.asarray(labels), *map(jnp.asarray, channel_statistics(images)))


def small(normalisation, dtype="float32"):
    built = network(choices("cnn", normalisation=normalisation, width=4, dtype=dtype), 10)
    return built, built.init(KEY)


def logits(net, params, images):
    return jax.jit(net.apply)(params, images)[0]


@partial(jax.jit, static_argnums=0)
def measured(net, params, data, order, statistics=None):
    return full_batch(net, params, data, order, statistics)


def rows(n, m):
    return jnp.arange(n).reshape(m, -1)


def close(first, second, rtol=2e-5):
    """To float32 rounding of sums, relative to the largest entry of each leaf."""
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize(("name", "blocks"), [("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3))])
@pytest.mark.parametrize("classes", [10, 100])
def test_parameters_are_counted_as_torchvisions_with_a_3x3_stem(name, blocks, classes):
    count, inputs = 27 * 64 + 2 * 64, 64
    for inner, repeats in zip((64, 128, 256, 512), blocks, strict=True):
        outer = 4 * inner
        count += inputs * outer + 2 * outer
        for _ in range(repeats):
            count += inputs * inner + 9 * inner**2 + inner * outer + 2 * (2 * inner + outer)
            inputs = outer
    count += 2048 * classes + classes
    params = jax.eval_shape(network(choices(name), classes).init, KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    if classes == 10:
        assert count == {"resnet50": 23_520_842, "resnet101": 42_512_970}[name]


def test_a_resnet_is_the_plain_loop_over_its_blocks():
    """Stride in the 3x3 convolution, projection where shapes change, ReLU after the sum."""
    net = resnet(
        (2, 3), 10, width=4, activation=jax.nn.relu, normalise=NORMALISATIONS["ghost"].layer, dtype="float32"
    )
    params, images = net.init(KEY), normal(3, 9, 9, 3)

    def conv(w, x, stride=1):
        pad = w.shape[0] // 2
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        height = (x.shape[1] - w.shape[0]) // stride + 1
        patches = jnp.stack(
            [
                x[:, i : i + stride * height : stride, j : j + stride * height : stride][:, :height, :height]
                for i in range(w.shape[0])
                for j in range(w.shape[1])
            ],
            axis=3,
        )
        return jnp.einsum("nhwkc,kco->nhwo", patches, w.reshape(-1, *w.shape[2:]))

    def norm(x):
        mean, variance = jnp.mean(x, (0, 1, 2), keepdims=True), jnp.var(x, (0, 1, 2), keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-5)

    def plain(params):
        x = jax.nn.relu(norm(conv(params["stem"]["conv"], images)))
        for name, stride in (("stage1", 1), ("stage2", 2)):
            rest = params[name]["rest"]
            others = [jax.tree.map(lambda leaf: leaf[i], rest) for i in range(len(rest["conv1"]))]  # noqa: B023
            for p, step in [(params[name]["first"], stride), *((p, 1) for p in others)]:
                y = jax.nn.relu(norm(conv(p["conv1"], x)))
                y = norm(conv(p["conv3"], jax.nn.relu(norm(conv(p["conv2"], y, step)))))
                x = jax.nn.relu(y + (norm(conv(p["conv0"], x, step)) if "conv0" in p else x))
        assert x.shape == (3, 5, 5, 32)
        return jnp.mean(x, (1, 2)) @ params["head"]["weight"] + params["head"]["bias"][None]

    close(logits(net, params, images), jax.jit(plain)(params))


def test_batch_norm_is_the_plain_formula():
    x, params = 3 + 2 * normal(4, 5, 5, 6), {"scale": normal(6, seed=1), "shift": normal(6, seed=2)}
    y, seen = batch_norm(params, x, None)
    plain = np.asarray(x, np.float64)
    mean, variance = plain.mean((0, 1, 2)), plain.var((0, 1, 2))
    expected = (plain - mean) / np.sqrt(variance + 1e-5) * np.asarray(params["scale"]) + np.asarray(
        params["shift"]
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    close(seen, {"mean": mean, "variance": variance})


def test_given_statistics_are_constants():
    x, params = normal(4, 5, 5, 2), {"scale": jnp.ones(2), "shift": jnp.zeros(2)}
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    given = {"mean": jnp.asarray([1, 2], jnp.float32), "variance": jnp.asarray([4, 9], jnp.float32)}
    y, seen = batch_norm(params, x, given)
    close(y, (np.asarray(x) - [1, 2]) / np.sqrt([4 + 1e-5, 9 + 1e-5]))
    assert seen is given
    slope = jax.grad(lambda x: jnp.sum(batch_norm(params, x, given)[0][..., 0]))(x)
    close(slope[..., 0], np.full((4, 5, 5), 0.5))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (6, 2), (3, 1)])
def test_group_norm_looks_at_one_image_and_group(channels, groups):
    x = 3 + 2 * normal(4, 5, 5, channels)
    params = {"scale": normal(channels, seed=1), "shift": normal(channels, seed=2)}
    parts = np.split(np.asarray(x, np.float64), groups, axis=3)
    each = [
        (part - part.mean((1, 2, 3), keepdims=True)) / np.sqrt(part.var((1, 2, 3), keepdims=True) + 1e-5)
        for part in parts
    ]
    expected = np.concatenate(each, axis=3) * np.asarray(params["scale"]) + np.asarray(params["shift"])
    y, seen = group_norm(params, x, None)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert seen is None


def test_layer_norm_looks_at_one_token():
    x, params = 3 + 2 * normal(4, 7, 6), {"scale": normal(6, seed=1), "shift": normal(6, seed=2)}
    plain = np.asarray(x, np.float64)
    standard = (plain - plain.mean(2, keepdims=True)) / np.sqrt(plain.var(2, keepdims=True) + 1e-5)
    expected = standard * np.asarray(params["scale"]) + np.asarray(params["shift"])
    np.testing.assert_allclose(layer_norm(params, x, None)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["group", "frozen"])
def test_without_own_statistics_micro_batches_add_up_to_the_whole(normalisation):
    net, params = small(normalisation)
    data, statistics = examples(), None
    if normalisation == "frozen":
        statistics = measured_statistics(net, params, data, rows(8, 4))
    pieces, whole = (measured(net, params, data, rows(8, m), statistics) for m in (4, 1))
    close(pieces.loss, whole.loss)
    close(pieces.gradient, whole.gradient)


def test_ghost_statistics_are_each_micro_batchs_own():
    net, params = small("ghost")
    data = examples()
    ghost, exact = (measured(net, params, data, rows(8, m)) for m in (2, 1))

    def loss(params):
        halves = [data.at(indices) for indices in rows(8, 2)]
        return sum(cross_entropy(net.apply(params, x)[0], y) for x, y in halves) / 2

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    close(ghost.loss, value)
    close(ghost.gradient, gradient)
    assert abs(float(ghost.loss - exact.loss)) > 1e-3


def test_measured_statistics_are_means_over_the_micro_batches():
    net, params = small("frozen")
    data = examples()
    found = measured_statistics(net, params, data, rows(8, 2))
    close(found, measured(net, params, data, rows(8, 2)).statistics)
    first = [net.apply(params, data.at(indices)[0])[1]["layer0"] for indices in rows(8, 2)]
    for name, value in found["layer0"].items():
        np.testing.assert_allclose(value, (first[0][name] + first[1][name]) / 2, rtol=1e-5, atol=1e-6)


def test_accuracy_counts_every_image_once_whatever_the_pieces():
    net, params = small("group")
    data = examples(7)
    right = jnp.argmax(logits(net, params, data.at(jnp.arange(7))[0]), axis=1).astype(jnp.int32)
    data = data._replace(labels=jnp.where(jnp.arange(7) < 5, right, (right + 1) % 10))
    for size in (1, 3, 7):
        assert float(accuracy(net, params, data, size)) == pytest.approx(5 / 7)


def test_bfloat16_is_close_and_leaves_parameters_in_float32():
    data = examples()
    wide, narrow = (
        measured(net, net.init(KEY), data, rows(8, 2))
        for net in (network(choices("cnn", width=4, dtype=d), 10) for d in ("float32", "bfloat16"))
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.gradient)} == {np.dtype("float32")}
    assert float(narrow.loss) == pytest.approx(float(wide.loss), rel=0.02)
    assert float(narrow.loss) != float(wide.loss)
    norm = lambda tree: float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))))
    difference = jax.tree.map(jnp.subtract, narrow.gradient, wide.gradient)
    assert norm(difference) < 0.1 * norm(wide.gradient)


def test_the_transformer_tells_positions_apart():
    """Without positions a mean pool could not see where a patch is."""
    net = network(choices("vit", width=12), 10)
    params, images = net.init(KEY), normal(2, 32, 32, 3)
    swapped = jnp.concatenate([images[:, 4:8], images[:, :4], images[:, 8:]], axis=1)
    without = params | {"positions": jnp.zeros_like(params["positions"])}
    close(logits(net, without, images), logits(net, without, swapped), rtol=1e-4)
    assert not np.allclose(logits(net, params, images), logits(net, params, swapped), atol=1e-4)


def test_every_choice_changes_the_network():
    images = normal(4, 32, 32, 3)
    results = []
    for options in ({}, {"activation": "relu"}, {"normalisation": "ghost"}, {"dtype": "bfloat16"}):
        net = network(choices("cnn", width=4, **options), 10)
        results.append(np.asarray(logits(net, net.init(KEY), images)))
    for i, result in enumerate(results):
        assert all(np.abs(result - other).max() > 1e-4 for other in results[:i])


def test_defaults_are_the_papers_for_resnets_and_smooth_for_the_others():
    assert choices("resnet50")[1:] == ("ghost", "relu", "float32", 64)
    assert choices("resnet101")[1:] == ("ghost", "relu", "float32", 64)
    assert {choices(name).activation for name in ("cnn", "vit")} == {"gelu"}


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("alexnet", {}, "model must be one of resnet50, resnet101, cnn, vit; got 'alexnet'"),
        ("resnet50", {"normalisation": "layer"}, "normalisation of resnet50 must be one of ghost, exact"),
        ("vit", {"normalisation": "ghost"}, "normalisation of vit must be one of layer; got 'ghost'"),
        ("cnn", {"activation": "tanh"}, "activation of cnn must be one of gelu, relu"),
        ("cnn", {"dtype": "float16"}, "dtype must be one of float32, bfloat16"),
        ("cnn", {"width": 0}, "width must be a Python integer >= 1, got 0"),
    ],
)
def test_choices_that_are_not_there_are_refused(model, options, words):
    with pytest.raises(ValueError, match=words):
        choices(model, **options)


def test_sizes_that_the_transformer_cannot_take_are_refused():
    with pytest.raises(ValueError, match="multiple of the 3 heads"):
        network(choices("vit", width=16), 10)
    net = network(choices("vit", width=12), 10)
    with pytest.raises(ValueError, match="32x32 pixels, got 16x16"):
        net.apply(net.init(KEY), normal(2, 16, 16, 3))


def test_one_choice_is_one_network():
    for name in MODELS:
        assert network(choices(name), 10) is network(choices(name), 10)


@pytest.mark.parametrize(("size", "side", "stride"), [(3, 8, 1), (3, 8, 2), (3, 7, 2), (1, 8, 2), (5, 9, 1)])
def test_a_convolution_as_a_product_of_patches_is_a_convolution(size, side, stride):
    weight = jax.random.normal(jax.random.key(0), (size, size, 3, 4))
    x = jax.random.normal(jax.random.key(1), (2, side, side, 3))
    expected = _as_it_is(weight, x, stride)
    np.testing.assert_allclose(_as_a_product(weight, x, stride), expected, rtol=1e-12, atol=1e-12)
