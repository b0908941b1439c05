"""The data: which sets there are, how they become arrays, and each client's part of them."""

import functools
import warnings
from typing import Any, NamedTuple

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as PILImage

from simulations.own import is_own, own_task
from simulations.partitioners import make_partitioner
from simulations.subset import Subset

_TEST_SPLITS = ("test", "validation", "valid", "val")
_DIGITS_TEST_SHARE = 0.25
_VALIDATION_SHARE = 0.1


class Examples(NamedTuple):
    """Images (count, channels, height, width) as bytes 0 .. 255, or inputs of a user's own, and classes (count,)."""

    images: NDArray[Any]
    labels: NDArray[np.int64]


class Shape(NamedTuple):
    """What a model must fit: the images' channels, height and width, and the number of classes."""

    channels: int
    height: int
    width: int
    classes: int


_WHOLE = Subset()


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
def evaluation_examples(dataset: str, subset: Subset = _WHOLE) -> Examples:
    """Return the examples on which the server evaluates: the test split, or what is held out for validation."""
    if subset.validation:
        return _training_examples(dataset, subset)[1]
    if is_own(dataset):
        return _some_rows(_own_examples(dataset)[1], subset.test)
    return _read(_some(_splits(dataset).test, subset.test), dataset)


def partition_examples(
    dataset: str, partitioner: str, seed: int, partition: int, partitions: int, subset: Subset = _WHOLE
) -> Examples:
    """Return one client's examples. The data set stays in memory, as simulated clients come back every round.

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
    subset : Subset (default: everything)
        Which examples are divided.

    Raises
    ------
    ValueError
        If the data set can't be found, read or divided so.
    """
    examples, _ = _training_examples(dataset, subset)
    try:
        rows = _divided(dataset, partitioner, seed, partitions, subset)[partition]
    except ValueError as error:
        raise ValueError(
            f"{dataset!r} cannot be divided among {partitions} clients by {partitioner!r}: {error}"
        ) from error
    return Examples(examples.images[rows], examples.labels[rows])


@functools.lru_cache(maxsize=4)
def image_shape(dataset: str) -> Shape:
    """Return the images' shape and the number of classes, read from the test split."""
    if is_own(dataset):
        images, labels = _own_examples(dataset)[0]
        channels, height, width = (1, 1, 1, *images.shape[1:])[-3:]
        return Shape(channels, height, width, int(labels.max()) + 1)
    split = _splits(dataset).test
    columns = find_columns(split.features, dataset)
    first = _read(split.select([0]), dataset)
    label = split.features[columns.label]
    classes = label.num_classes if isinstance(label, datasets.ClassLabel) else max(split.unique(columns.label)) + 1
    channels, height, width = first.images.shape[1:]
    return Shape(channels, height, width, int(classes))


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


class _Splits(NamedTuple):
    train: datasets.Dataset
    test: datasets.Dataset


@functools.lru_cache(maxsize=2)
def _training_examples(dataset: str, subset: Subset) -> tuple[Examples, Examples]:
    """Return what clients train on, and what is held out (nothing, unless it is wanted for validation)."""
    if is_own(dataset):
        examples = _some_rows(_own_examples(dataset)[0], subset.train)
    else:
        examples = _read(_some(_splits(dataset).train, subset.train), dataset)
    count = len(examples.labels)
    held_out = np.zeros(count, bool)
    if subset.validation:
        held_out[np.random.default_rng(1).permutation(count)[: round(_VALIDATION_SHARE * count)]] = True
    return (
        Examples(examples.images[~held_out], examples.labels[~held_out]),
        Examples(examples.images[held_out], examples.labels[held_out]),
    )


@functools.lru_cache(maxsize=8)
def _divided(dataset: str, partitioner: str, seed: int, partitions: int, subset: Subset) -> list[NDArray[np.int64]]:
    """Return the rows of each client."""
    labels = _training_examples(dataset, subset)[0].labels
    divided = make_partitioner(partitioner, partitions=partitions, label="label", seed=seed)
    rows = datasets.Dataset.from_dict({"row": np.arange(len(labels)), "label": labels})
    if dataset != "digits":  # these are in no order
        rows = rows.shuffle(seed=seed)
    divided.dataset = rows.with_format("numpy")
    with warnings.catch_warnings():  # the partitioners warn of every draw that they repeat
        warnings.simplefilter("ignore")
        return [np.asarray(divided.load_partition(partition)["row"][:]) for partition in range(partitions)]


def _some(split: datasets.Dataset, count: int) -> datasets.Dataset:
    """Return so many of the examples, the same ones each time; all for 0."""
    return split.select(_drawn(len(split), count)) if count else split


def _some_rows(examples: Examples, count: int) -> Examples:
    rows = _drawn(len(examples.labels), count)
    return Examples(examples.images[rows], examples.labels[rows]) if count else examples


def _drawn(there: int, count: int) -> NDArray[np.int64]:
    if count > there:
        raise ValueError(f"The data set has {there} examples in a split of which {count} are to be used.")
    return np.random.default_rng(0).permutation(there)[:count]


@functools.lru_cache(maxsize=2)
def _own_examples(path: str) -> tuple[Examples, Examples]:
    """Return what a file of the user's own has for training and for test."""
    train, test = (Examples(np.asarray(x), np.asarray(y, np.int64)) for x, y in own_task(path).make_data())
    for examples in (train, test):
        if len(examples.images) != len(examples.labels) or not len(examples.labels):
            raise ValueError(
                f"The data of {path!r} have {len(examples.images)} inputs and {len(examples.labels)} labels in a part: "
                "make_data() must return as many of both, for training and for test."
            )
    return train, test


@functools.lru_cache(maxsize=4)
def _splits(dataset: str) -> _Splits:
    if dataset == "digits":
        return _Splits(**_load_digits())
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
    return _Splits(splits["train"], splits[name])


def _read(split: datasets.Dataset, dataset: str) -> Examples:
    columns = find_columns(split.features, dataset)
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
