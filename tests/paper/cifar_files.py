"""Small files in CIFAR's official binary format, and images that can be learnt."""

import numpy as np

from implicit_adam.datasets import ImageData

CIFAR10 = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
CIFAR100 = ["train.bin", "test.bin"]


def images(n, classes=10, seed=0):
    """Noise with a brightness that tells the class: bytes (n, 32, 32, 3) and labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    noise = rng.integers(0, 100, (n, 32, 32, 3))
    return (noise + (155 * labels // classes)[:, None, None, None]).astype(np.uint8), labels.astype(np.int32)


def record(image, *labels):
    """One record: the label bytes, then the red, green and blue planes, row after row."""
    planes = [image[row, column, c] for c in range(3) for row in range(32) for column in range(32)]
    return bytes([*labels, *planes])


def write(folder, names, records=1, coarse=()):
    """The files of a data set with so many records each; the images and labels written, file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for i, name in enumerate(names):
        pixels, labels = images(records, seed=i)
        content = b"".join(record(x, *coarse, y) for x, y in zip(pixels, labels, strict=True))
        (folder / name).write_bytes(content)
        written.append((pixels, labels))
    return written


def data(n=8, tests=4, seed=0):
    """The same without files."""
    return ImageData(*images(n, seed=seed), *images(tests, seed=seed + 1), 10)
