"""How the training data is divided among the clients, by name."""

from collections.abc import Callable
from typing import Any

from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, PathologicalPartitioner

from simulations.choices import look_up, only_options, parse_choice

_SMALLEST_PARTITION = 10  # examples; a client needs something to learn from

_Maker = Callable[..., Any]


def _iid(partitions: int, label: str, seed: int) -> Any:
    return IidPartitioner(num_partitions=partitions)


def _dirichlet(partitions: int, label: str, seed: int, alpha: float = 0.5) -> Any:
    return DirichletPartitioner(partitions, label, alpha, min_partition_size=_SMALLEST_PARTITION, seed=seed)


def _shards(partitions: int, label: str, seed: int, classes: int = 2) -> Any:
    return PathologicalPartitioner(partitions, label, classes, class_assignment_mode="first-deterministic", seed=seed)


_PARTITIONERS: dict[str, tuple[_Maker, dict[str, type]]] = {
    "iid": (_iid, {}),
    "dirichlet": (_dirichlet, {"alpha": float}),
    "shards": (_shards, {"classes": int}),
}


def make_partitioner(text: str, *, partitions: int, label: str, seed: int) -> Any:
    """Make one of flwr-datasets' partitioners.

    Parameters
    ----------
    text : str
        ``iid``; ``dirichlet:alpha=0.5`` (label shares drawn from a Dirichlet distribution: the smaller alpha,
        the more the clients differ); or ``shards:classes=2`` (each client has examples of so many classes
        only).
    partitions : int
        Number of clients.
    label : str
        Name of the label column.
    seed : int
        Seed of the draw.

    Raises
    ------
    ValueError
        If there is no such partitioner or setting, or its value makes no sense.
    """
    choice = parse_choice(text, "partitioner")
    make, allowed = look_up(_PARTITIONERS, choice.name, "partitioner")
    options = only_options(choice, allowed, "partitioner")
    for key, value in options.items():
        if not float(value) > 0:
            raise ValueError(f"The setting {key!r} of the partitioner {choice.name!r} is {value}; it must be above 0.")
    return make(partitions, label, seed, **options)
