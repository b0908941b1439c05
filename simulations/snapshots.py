"""What a client would send: some layers' gradients and updates, as error feedback leaves them, in a small FedAvg."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from flwr_co3 import CO3Config, Codec, ErrorMemory, RateLimit
from simulations.fits import some_layers
from simulations.models import make_model
from simulations.settings import Settings
from simulations.tasks import image_shape, partition_examples
from simulations.training import gradients, train

Update = dict[str, NDArray[Any]]

_CLIENTS = 4
_BITS = 0.5
TIMES = ("start", "middle", "end")


@dataclass(frozen=True)
class Snapshot:
    """One layer of what the first client has in one round.

    Attributes
    ----------
    time : str
        "start", "middle" or "end" of training: its first, middle and last round.
    kind : str
        "gradient": of one batch, at the weights that the client received. "update": of its training in the round.
        "with memory": the update and what the memory adds to it, which is what is compressed.
    values : ndarray
        The entries.
    """

    network: str
    layer: str
    time: str
    kind: str
    values: NDArray[Any]


def take_snapshots(network: str, settings: Settings, partitions: int) -> Iterator[Snapshot]:
    """Train a network with four clients that send CO3 at 0.5 bits a parameter, and look at the first of them.

    Parameters
    ----------
    network : str
        How it is called.
    settings : Settings
        What is trained, and for how many rounds.
    partitions : int
        Into how many parts the data is divided, of which the first four are the clients'.
    """
    model = make_model(settings.model, image_shape(settings.dataset), seed=settings.seed)
    codec = Codec(CO3Config(rate=RateLimit(bits_per_parameter=_BITS)))
    memories = [ErrorMemory() for _ in range(_CLIENTS)]
    times = dict(zip((1, (settings.rounds + 1) // 2, settings.rounds), TIMES, strict=True))
    weights = _weights(model)
    for server_round in range(1, settings.rounds + 1):
        received = weights
        weights = dict(received)
        for client, memory in enumerate(memories):
            examples = partition_examples(settings.dataset, settings.partitioner, settings.seed, client, partitions)
            _load(model, received)
            found = {"gradient": gradients(model, examples, settings)} if client == 0 else {}
            train(model, examples, settings, server_round=server_round, partition=client)
            update = {name: trained - received[name] for name, trained in _weights(model).items()}
            if client == 0 and server_round in times:
                found |= {"update": update, "with memory": memory.compensate(update)}
                yield from _some(found, network, times[server_round])
            sent = codec.compress(update, memory=memory).sent
            weights = {name: value + sent[name] / _CLIENTS for name, value in weights.items()}


def _some(found: dict[str, Update], network: str, time: str) -> Iterator[Snapshot]:
    for kind, tensors in found.items():
        for layer in some_layers(tensors):
            yield Snapshot(network, layer, time, kind, tensors[layer])


def _weights(model: nn.Module) -> Update:
    return {name: value.detach().cpu().numpy().copy() for name, value in model.named_parameters()}


def _load(model: nn.Module, weights: Update) -> None:
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
