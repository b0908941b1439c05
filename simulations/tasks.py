"""The data: which sets there are, how they become arrays, and each client's part of them."""

import functools
import warnings
from typing import Any, NamedTuple

import datasets
import numpy as np
from flwr_datasets import FederatedDataset
from numpy.typing import NDArray
from PIL.Image import Image as PILImage

from simulations.partitioners import make_partitioner

_TEST_SPLITS = ("test", "validation", "valid", "val")
_DIGITS_TEST_SHARE = 0.25
_CACHED_PARTITIONS = 128


class Examples(NamedTuple):
    """Images (count, channels, height, width) as bytes 0 .. 255, and their classes (count,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Shape(NamedTuple):
    """What a model must fit: the images' channels, height and width, and the number of classes."""

    channels: int
    height: int
    width: int
    classes: int


class Columns(NamedTuple):
    """Where the images and labels stand in a data set."""

    image: str
    label: str


def find_columns(features: datasets.Features, dataset: str) -> Columns:
    """Find the image and the label column by the types of the features.

    Raises
    ------
    ValueError
        If there is no image column or no column of class labels.
    """
    images = [
        name
        for name, kind in features.items()
        if isinstance(kind, datasets.Image | datasets.Array2D | datasets.Array3D)
    ]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name in ("label", "labels", "target", "class") if name in features]
    if not images or not labels:
        missing = "images" if not images else "class labels"
        raise ValueError(
            f"The data set {dataset!r} has no column of {missing} (its columns: {', '.join(features)}). "
            "Choose an image classification data set."
        )
    return Columns(images[0], labels[0])


@functools.lru_cache(maxsize=1)
def evaluation_examples(dataset: str) -> Examples:
    """Return the test split, on which the server evaluates."""
    split = _test_split(dataset)
    return _to_examples(split, find_columns(split.features, dataset), dataset)


@functools.lru_cache(maxsize=_CACHED_PARTITIONS)
def partition_examples(dataset: str, partitioner: str, seed: int, partition: int, partitions: int) -> Examples:
    """Return one client's examples; kept in memory, as a simulated client comes back every round.

    Parameters
    ----------
    dataset : str
        "digits", or the name or folder of an image data set.
    partitioner : str
        How the training split is divided, see :func:`simulations.partitioners.make_partitioner`.
    seed : int
        The same seed gives the same partitions, on every machine.
    partition, partitions : int
        Which part, of how many.

    Raises
    ------
    ValueError
        If the data set can't be found, read or divided so.
    """
    federated = _federated(dataset, partitioner, seed, partitions)
    try:
        with warnings.catch_warnings():  # the partitioners warn of every draw that they repeat
            warnings.simplefilter("ignore")
            part = federated.load_partition(partition, "train")
    except ValueError as error:
        raise ValueError(
            f"{dataset!r} cannot be divided among {partitions} clients by {partitioner!r}: {error}"
        ) from error
    return _to_examples(part, find_columns(part.features, dataset), dataset)


@functools.lru_cache(maxsize=4)
def image_shape(dataset: str) -> Shape:
    """Return the images' shape and the number of classes, read from the test split."""
    split = _test_split(dataset)
    columns = find_columns(split.features, dataset)
    first = _to_examples(split.select([0]), columns, dataset)
    label = split.features[columns.label]
    classes = label.num_classes if isinstance(label, datasets.ClassLabel) else max(split.unique(columns.label)) + 1
    channels, height, width = first.images.shape[1:]
    return Shape(channels, height, width, int(classes))


class _Digits(FederatedDataset):  # type: ignore[misc]  # flwr_datasets ships no types
    """scikit-learn's 8 x 8 digits behind the interface of a data set from the Hub, without a network."""

    def _prepare_dataset(self) -> None:
        self._dataset = _load_digits()
        self._dataset_prepared = True


@functools.lru_cache(maxsize=1)
def _load_digits() -> datasets.DatasetDict:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    rows = np.arange(len(images))
    train, test = train_test_split(rows, test_size=_DIGITS_TEST_SHARE, stratify=digits.target, random_state=0)
    features = datasets.Features(
        image=datasets.Array2D(images.shape[1:], "uint8"),
        label=datasets.ClassLabel(names=[str(k) for k in range(10)]),
    )
    return datasets.DatasetDict({
        name: datasets.Dataset.from_dict(
            {"image": images[part], "label": digits.target[part]}, features=features
        )
        for name, part in (("train", train), ("test", test))
    })  # fmt: skip


@functools.lru_cache(maxsize=4)
def _federated(dataset: str, partitioner: str, seed: int, partitions: int) -> FederatedDataset:
    kind = _Digits if dataset == "digits" else FederatedDataset
    columns = find_columns(_test_split(dataset).features, dataset)
    divided = make_partitioner(partitioner, partitions=partitions, label=columns.label, seed=seed)
    return kind(dataset=dataset, partitioners={"train": divided}, shuffle=True, seed=seed)


@functools.lru_cache(maxsize=4)
def _test_split(dataset: str) -> datasets.Dataset:
    if dataset == "digits":
        return _load_digits()["test"]
    try:
        splits = datasets.load_dataset(dataset)
    except Exception as error:  # the loader raises many kinds; all mean that the data can't be had
        raise ValueError(
            f"The data set {dataset!r} could not be loaded ({error}). Give digits, a local folder, or "
            "the name of an image data set on the Hugging Face Hub; the last needs a network the first time."
        ) from error
    name = next((name for name in _TEST_SPLITS if name in splits), None)
    if name is None or "train" not in splits:
        raise ValueError(
            f'The data set {dataset!r} has the splits {", ".join(splits)}, but a split "train" and one of '
            f"{', '.join(_TEST_SPLITS)} are needed."
        )
    return splits[name]


def _to_examples(split: datasets.Dataset, columns: Columns, dataset: str) -> Examples:
    labels = np.asarray(split.with_format("numpy")[columns.label][:], dtype=np.int64)
    if isinstance(split.features[columns.image], datasets.Image):
        images = [_pixels(image) for image in split[columns.image]]
    else:
        images = list(np.asarray(split.with_format("numpy")[columns.image][:], dtype=np.uint8))
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise ValueError(f"The images of {dataset!r} differ in size ({sorted(sizes)[:3]} ...): resize them first.")
    stacked = np.stack(images)
    if stacked.ndim == 3:
        return Examples(stacked[:, None], labels)
    return Examples(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)), labels)


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Pixels (height, width) of a grey image, (height, width, 3) of any other."""
    picture: PILImage = image
    return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"), dtype=np.uint8)
