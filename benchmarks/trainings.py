"""What clients send while a model is trained with CO3: updates to which their memories were added."""

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.pipeline import Update
from flwr_co3 import Codec, ErrorMemory
from flwr_co3.encoded import Encoded
from simulations.client_app import app
from simulations.federation import federate
from simulations.inline import InlineGrid, outside_a_run
from simulations.presets import preset
from simulations.schemes import make_scheme
from simulations.settings import Settings

CLIENTS = 10


def train(task: str, dataset: str, scheme: str, **others: Any) -> None:
    """Train a preset of the simulations, with another data set unless that is empty, and other settings."""
    chosen = preset(task) | ({"dataset": dataset} if dataset else {}) | others
    with outside_a_run():
        federate(InlineGrid(app, CLIENTS), Settings(**chosen), make_scheme(scheme))


def updates_of_training(task: str, dataset: str, bits: float) -> list[Update]:
    """Train at so many bits a parameter, and return every eleventh of what ten clients sent.

    Parameters
    ----------
    task : str
        Name of a preset: model, rounds and all else.
    dataset : str
        A data set in place of the preset's; empty to leave it.
    bits : float
        Budget of the training, in bits for each parameter.

    Returns
    -------
    list of dict
        One or none of a round, from all rounds.
    """
    seen: list[Update] = []
    compress = Codec.compress

    def recording(
        self: Codec, update: Mapping[str, npt.NDArray[Any]], *, memory: ErrorMemory | None = None, **options: Any
    ) -> Encoded:
        sent = {name: np.array(tensor) for name, tensor in update.items()}
        seen.append(sent if memory is None else memory.compensate(sent))
        return compress(self, update, memory=memory, **options)

    with patch.object(Codec, "compress", recording):
        train(task, dataset, f"co3:bits_per_parameter={bits}")
    return seen[:: CLIENTS + 1]
