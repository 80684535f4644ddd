"""CIFAR is read as it is officially written; what is wrong with a file is said."""

import re

import numpy as np
import pytest

from implicit_adam.datasets import channel_statistics, cifar, normalised, parsed
from tests.paper import cifar_files


def test_pixels_and_labels_are_those_written(tmp_path):
    *train, test = cifar_files.write(tmp_path, cifar_files.CIFAR10, records=2)
    data = cifar("cifar10", tmp_path, allow_partial=True)
    np.testing.assert_array_equal(data.train_images, np.concatenate([images for images, _ in train]))
    np.testing.assert_array_equal(data.train_labels, np.concatenate([labels for _, labels in train]))
    np.testing.assert_array_equal(data.test_images, test[0])
    np.testing.assert_array_equal(data.test_labels, test[1])
    assert data.classes == 10
    assert data.train_images.dtype == np.uint8


def test_the_files_may_lie_in_their_archives_folder(tmp_path):
    cifar_files.write(tmp_path / "cifar-10-batches-bin", cifar_files.CIFAR10)
    inside = cifar("cifar10", tmp_path / "cifar-10-batches-bin", allow_partial=True)
    np.testing.assert_array_equal(
        cifar("cifar10", str(tmp_path), allow_partial=True).train_images, inside.train_images
    )


def test_cifar100_has_fine_labels(tmp_path):
    cifar_files.write(tmp_path / "cifar-100-binary", cifar_files.CIFAR100, records=3, coarse=(19,))
    data = cifar("cifar100", tmp_path, allow_partial=True)
    np.testing.assert_array_equal(data.train_labels, [0, 1, 2])
    np.testing.assert_array_equal(data.train_images, cifar_files.images(3)[0])
    assert data.classes == 100


def test_files_of_the_official_sizes_are_accepted(tmp_path):
    for name, records in (("train.bin", 50000), ("test.bin", 10000)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(records * 3074)
    data = cifar("cifar100", tmp_path)
    assert data.train_images.shape == (50000, 32, 32, 3)
    assert data.test_labels.shape == (10000,)


def test_missing_files_are_named_with_their_places_and_source(tmp_path):
    cifar_files.write(tmp_path, cifar_files.CIFAR10[:-2])
    with pytest.raises(ValueError, match=r"cs\.toronto\.edu/~kriz") as caught:
        cifar("cifar10", tmp_path)
    assert f"{tmp_path} lacks data_batch_5.bin, test_batch.bin;" in str(caught.value)
    assert f"{tmp_path / 'cifar-10-batches-bin'} lacks data_batch_1.bin" in str(caught.value)
    assert "cifar-10-binary.tar.gz" in str(caught.value)


def test_other_sizes_than_the_official_are_refused_unless_asked_for(tmp_path):
    cifar_files.write(tmp_path, cifar_files.CIFAR10)
    with pytest.raises(
        ValueError, match=r"data_batch_1.bin has 3073 bytes instead of 30730000.*allow_partial"
    ):
        cifar("cifar10", tmp_path)


def test_a_part_of_a_record_is_refused(tmp_path):
    cifar_files.write(tmp_path, cifar_files.CIFAR10)
    with (tmp_path / "data_batch_3.bin").open("ab") as file:
        file.write(b"0123")
    with pytest.raises(ValueError, match=r"data_batch_3.bin: .* multiple of 3073 bytes.*, got 3077"):
        cifar("cifar10", tmp_path, allow_partial=True)


def test_an_empty_file_is_refused():
    with pytest.raises(ValueError, match=r"positive multiple of 3073 bytes.*, got 0"):
        parsed(b"", 1, 10)


def test_labels_out_of_range_are_refused(tmp_path):
    cifar_files.write(tmp_path, cifar_files.CIFAR10, records=2)
    path = tmp_path / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape("record 1 has the label 10; allowed are 0 .. 9")):
        cifar("cifar10", tmp_path, allow_partial=True)


def test_other_data_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cifar10, cifar100, got 'mnist'"):
        cifar("mnist", tmp_path)


def test_normalised_training_images_have_mean_zero_and_deviation_one():
    images, _ = cifar_files.images(20)
    images[..., 1] //= 2
    x = np.asarray(normalised(images, *channel_statistics(images)))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean((0, 1, 2), np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(x.std((0, 1, 2), np.float64), 1, rtol=1e-6)


def test_channel_statistics_are_those_of_bytes_over_255():
    images, _ = cifar_files.images(20)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-6)


def test_a_constant_channel_is_refused():
    images, _ = cifar_files.images(3)
    images[..., 2] = 7
    with pytest.raises(ValueError, match="channel 2 has the same value"):
        channel_statistics(images)
