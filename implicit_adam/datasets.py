"""CIFAR-10 and CIFAR-100, the paper's data, from the official binary files."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

__all__ = [
    "CIFAR",
    "ImageData",
    "channel_statistics",
    "cifar",
    "normalised",
    "parsed",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)


SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class ImageData(NamedTuple):
    """Images (n, 32, 32, 3) as bytes and labels (n,) from 0 to classes - 1, on the host."""

    train_images: UInt8[np.ndarray, "n height width channels"]
    train_labels: Int32[np.ndarray, " n"]
    test_images: UInt8[np.ndarray, "k height width channels"]
    test_labels: Int32[np.ndarray, " k"]
    classes: int


class Layout(NamedTuple):
    """The files of a data set, the number of records in each, and the label bytes before each image.

    CIFAR-100 has two label bytes, coarse and fine; the last one is the label.
    """

    subfolder: str
    archive: str
    train: dict[str, int]
    test: dict[str, int]
    label_bytes: int
    classes: int


CIFAR = {
    "cifar10": Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        {f"data_batch_{i}.bin": 10000 for i in range(1, 6)},
        {"test_batch.bin": 10000},
        1,
        10,
    ),
    "cifar100": Layout(
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        {"train.bin": 50000},
        {"test.bin": 10000},
        2,
        100,
    ),
}


def cifar(name: str, folder: Any, *, allow_partial: bool = False) -> ImageData:
    """The images and labels of "cifar10" or "cifar100" (fine labels) in their official order.

    - `folder`: the folder with the official binary files, or the one in which their archive was unpacked.
    - `allow_partial`: accept files with any number >= 1 of whole records, such as subsets.

    Raises `ValueError` for an unknown name, missing files, files of the wrong size and labels out of range.
    """
    if name not in CIFAR:
        msg = f"name must be one of {', '.join(CIFAR)}, got {name!r}"
        raise ValueError(msg)
    if not isinstance(folder, str | os.PathLike):
        msg = f"folder must be the one that holds the files of {name}, got {folder!r}"
        raise ValueError(msg)  # noqa: TRY004
    layout = CIFAR[name]
    place = _place(name, layout, Path(folder))
    train, test = (
        [_read(place / file, layout, None if allow_partial else count) for file, count in files.items()]
        for files in (layout.train, layout.test)
    )
    return ImageData(*_joined(train), *_joined(test), layout.classes)


def parsed(
    content: bytes, label_bytes: int, classes: int
) -> tuple[UInt8[np.ndarray, "n height width channels"], Int32[np.ndarray, " n"]]:
    """Images (n, 32, 32, 3) and labels (n,) from n whole records of `label_bytes` + 3072 bytes each.

    An image is stored channel by channel, rows first. Raises `ValueError` for an incomplete record, for no
    record, and for a label >= `classes`.
    """
    size = label_bytes + PIXEL_BYTES
    if len(content) == 0 or len(content) % size:
        msg = f"the size must be a positive multiple of {size} bytes, a record's size, got {len(content)}"
        raise ValueError(msg)
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels = records[:, label_bytes - 1].astype(np.int32)
    if labels.max() >= classes:
        first = int(np.argmax(labels >= classes))
        msg = f"record {first} has the label {labels[first]}; allowed are 0 .. {classes - 1}"
        raise ValueError(msg)
    planes = records[:, label_bytes:].reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def channel_statistics(
    images: UInt8[np.ndarray, "n height width channels"],
) -> tuple[Float32[np.ndarray, " channels"], Float32[np.ndarray, " channels"]]:
    """Mean and standard deviation of each channel over all images, for bytes scaled to [0, 1].

    Raises `ValueError` for a constant channel, which cannot be normalised.
    """
    # By counting byte values: exact, and 50000 images never become floating-point numbers at once.
    values = np.arange(256) / 255
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)])
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    deviation = np.sqrt(np.sum(weights * (values[None] - mean[:, None]) ** 2, axis=1))
    if not deviation.all():
        msg = f"channel {int(np.argmin(deviation))} has the same value in all images; are these photographs?"
        raise ValueError(msg)
    return mean.astype(np.float32), deviation.astype(np.float32)


def normalised(
    images: UInt8[Array | np.ndarray, "n height width channels"],
    mean: Float[Array | np.ndarray, " channels"],
    std: Float[Array | np.ndarray, " channels"],
) -> Float32[Array, "n height width channels"]:
    """(images / 255 - mean) / std in float32, per channel; usually mean and std of the training images."""
    scaled = jnp.asarray(images).astype(jnp.float32) / 255
    mean, std = (jnp.asarray(x, jnp.float32)[None, None, None] for x in (mean, std))
    return jax.lax.div(*jnp.broadcast_arrays(scaled - mean, std))


def _place(name: str, layout: Layout, folder: Path) -> Path:
    files = [*layout.train, *layout.test]
    places = (folder, folder / layout.subfolder)
    missing = {place: [file for file in files if not (place / file).is_file()] for place in places}
    for place in places:
        if not missing[place]:
            return place
    looked = "; ".join(f"{place} lacks {', '.join(names)}" for place, names in missing.items())
    msg = (
        f"the files of {name} are not there: {looked}. Download {layout.archive} (the binary version) from "
        f"Alex Krizhevsky's page {SOURCE}, unpack it, and name its folder"
    )
    raise ValueError(msg)


def _read(path: Path, layout: Layout, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one file, which must have exactly `count` records unless `count` is None."""
    content = path.read_bytes()
    size = layout.label_bytes + PIXEL_BYTES
    if count is not None and len(content) != count * size:
        msg = (
            f"{path} has {len(content)} bytes instead of {count * size} = {count} records of {size} bytes: "
            f"truncated, or another version? Download it again from {SOURCE}, or read a subset of whole "
            "records with allow_partial=True (--allow-partial)"
        )
        raise ValueError(msg)
    try:
        return parsed(content, layout.label_bytes, layout.classes)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from error


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)
