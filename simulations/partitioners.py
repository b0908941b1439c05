"""How the training data is divided among the clients, by name."""

from collections.abc import Callable
from typing import Any

from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, ShardPartitioner

from simulations.choices import look_up, only_options, parse_choice

_SMALLEST_PARTITION = 10  # examples; a client needs something to learn from

_Maker = Callable[..., Any]


def _iid(partitions: int, label: str, seed: int) -> Any:
    return IidPartitioner(num_partitions=partitions)


def _dirichlet(partitions: int, label: str, seed: int, alpha: float = 0.5) -> Any:
    return DirichletPartitioner(partitions, label, alpha, min_partition_size=_SMALLEST_PARTITION, seed=seed)


def _shards(partitions: int, label: str, seed: int, per_client: int = 2) -> Any:
    return ShardPartitioner(partitions, label, num_shards_per_partition=per_client, seed=seed)


_PARTITIONERS: dict[str, tuple[_Maker, dict[str, type]]] = {
    "iid": (_iid, {}),
    "dirichlet": (_dirichlet, {"alpha": float}),
    "shards": (_shards, {"per_client": int}),
}


def make_partitioner(text: str, *, partitions: int, label: str, seed: int) -> Any:
    """Make one of flwr-datasets' partitioners.

    Parameters
    ----------
    text : str
        ``iid``; ``dirichlet:alpha=0.5`` (label shares drawn from a Dirichlet distribution: the smaller alpha, the
        more the clients differ); or ``shards:per_client=2`` (sorted by label and cut into shards, so many for each
        client, which then has examples of few classes only; the "pathological" division of the FedAvg paper).
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
