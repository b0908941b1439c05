from pathlib import Path

import datasets
import numpy as np
import pytest
from numpy.typing import NDArray

from simulations import tasks
from simulations.subset import Subset
from simulations.tasks import evaluation_examples, find_columns, image_shape, partition_examples


def test_digits_need_no_network_and_always_split_the_same_way() -> None:
    test = evaluation_examples("digits")

    assert image_shape("digits") == (1, 8, 8, 10)
    assert test.images.shape == (450, 1, 8, 8)
    assert test.images.dtype == np.uint8 and test.images.max() == 255
    counts = np.bincount(test.labels)
    assert counts.min() >= 43 and counts.max() <= 47  # stratified


@pytest.mark.parametrize("partitioner", ["iid", "dirichlet:alpha=0.5", "shards:per_client=2"])
def test_partitions_divide_the_training_data(partitioner: str) -> None:
    parts = [partition_examples("digits", partitioner, 0, part, 5) for part in range(5)]

    together = np.concatenate([part.images.reshape(len(part.labels), -1) for part in parts])
    assert 1340 <= len(together) <= 1347  # shards are of equal size
    assert len(np.unique(together, axis=0)) == len(together)


def test_partitions_depend_on_the_seed_alone() -> None:
    first = partition_examples("digits", "dirichlet:alpha=0.5", 3, 1, 4)
    tasks._divided.cache_clear()
    again = partition_examples("digits", "dirichlet:alpha=0.5", 3, 1, 4)
    other = partition_examples("digits", "dirichlet:alpha=0.5", 4, 1, 4)

    np.testing.assert_array_equal(first.images, again.images)
    assert first.images.shape != other.images.shape or (first.images != other.images).any()


def test_a_subset_is_the_same_each_time_and_validation_takes_no_test_example() -> None:
    subset = Subset(train=200, test=50)
    parts = [partition_examples("digits", "iid", 0, part, 4, subset) for part in range(4)]
    tuned = [partition_examples("digits", "iid", 0, part, 4, subset._replace(validation=True)) for part in range(4)]
    held_out = evaluation_examples("digits", subset._replace(validation=True))

    assert [len(part.labels) for part in parts] == [50] * 4 and [len(part.labels) for part in tuned] == [45] * 4
    assert evaluation_examples("digits", subset).images.shape == (50, 1, 8, 8) and len(held_out.labels) == 20
    together = [set(rows(np.concatenate([part.images for part in each]))) for each in (parts, tuned)]
    assert together[1] | set(rows(held_out.images)) == together[0]
    assert not together[1] & set(rows(held_out.images))


def rows(images: NDArray[np.uint8]) -> list[bytes]:
    return [image.tobytes() for image in images]


def test_a_subset_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="has 450 examples in a split of which 451 are to be used"):
        evaluation_examples("digits", Subset(test=451))


def test_shards_have_few_classes_and_dirichlet_skews_them() -> None:
    for part in range(5):
        assert len(np.unique(partition_examples("digits", "shards:per_client=2", 0, part, 10).labels)) <= 4
    shares = [np.bincount(partition_examples("digits", "dirichlet:alpha=0.1", 0, part, 5).labels, minlength=10)
              for part in range(5)]  # fmt: skip
    assert max(share.max() / share.sum() for share in shares) > 0.3


@pytest.mark.parametrize(
    ("partitioner", "message"),
    [
        ("random", "no partitioner 'random'. Choose one of: iid, dirichlet, shards"),
        ("dirichlet:alpha=0", "must be above 0"),
        ("dirichlet:alpha=0.01", "'digits' cannot be divided among 10 clients by 'dirichlet:alpha=0.01'"),
    ],
)
def test_a_division_that_cannot_be_is_refused(partitioner: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition_examples("digits", partitioner, 0, 0, 10)


def test_a_local_folder_of_pictures_is_read_whatever_its_columns_are_called(picture_folder: Path) -> None:
    dataset = str(picture_folder)

    assert image_shape(dataset) == (3, 12, 10, 3)
    assert evaluation_examples(dataset).images.shape == (30, 3, 12, 10)
    sizes = [len(partition_examples(dataset, "iid", 0, part, 3).labels) for part in range(3)]
    assert sizes == [40, 40, 40]


def test_columns_are_found_by_type() -> None:
    features = datasets.Features(number=datasets.Value("int64"), x=datasets.Image(), y=datasets.ClassLabel(2))

    assert find_columns(features, "pets") == ("x", "y")
    with pytest.raises(ValueError, match="'poems' has no column of images"):
        find_columns(datasets.Features(text=datasets.Value("string")), "poems")


def test_what_is_no_data_set_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"could not be loaded .* Give digits, a local folder"):
        evaluation_examples(str(tmp_path))
