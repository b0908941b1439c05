"""What both ends know of an update before it is sent, as a context of which of its levels are not 0.

A training is recorded. Whether each entry's level is 0 is then coded tensor by tensor, as an adaptive coder would
(Krichevsky and Trofimov's estimator, so that what it takes to learn each class counts), in classes by what the server
and the client both have: the model that was sent, how it differs from the one before, the client's last update.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import typer
from scipy.special import betaln

from benchmarks import options
from benchmarks.output import Form, Row, Table, show
from benchmarks.trainings import CLIENTS, train
from flwr_co3 import Codec, _uplink
from flwr_co3.encoded import Encoded

Array = npt.NDArray[Any]
Classes = npt.NDArray[np.int64]

_SHARES = (0.5, 0.75, 0.9, 0.97)  # where classes of magnitudes that are not 0 end


class Sent(NamedTuple):
    """One tensor of one client's update."""

    received: Array  # of the model
    levels: Array  # what was sent of it


def main(
    bits: Annotated[str, typer.Option(help="Budgets of the trainings, in bits per parameter.")] = "0.02,0.1",
    task: Annotated[str, typer.Option(help="What is trained: a preset of the simulations.")] = "cifar10-small",
    dataset: Annotated[str, typer.Option(help="Its data set: a local folder, or another name.")] = "",
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Measure what contexts would save."""
    rows = [row for rate in bits.split(",") for row in measured(float(rate), task, dataset)]
    show([Table("Bits of where levels are not 0, over those without a context", rows)], form)


def measured(bits: float, task: str, dataset: str) -> list[Row]:
    """Train at a budget, and measure each context over the second half of the rounds."""
    updates = record(bits, task, dataset)
    found, levels = Counter[str](), 0  # bits by context
    for now in range(len(updates) // 2, len(updates), 7):  # of each client in turn
        for name, tensor in updates[now].items():
            before, earlier = updates[now - CLIENTS][name], updates[now - 2 * CLIENTS][name]
            change, older = tensor.received - before.received, before.received - earlier.received
            nonzero = (tensor.levels != 0).reshape(-1)
            contexts = {
                "none": np.zeros(nonzero.size, np.int64),
                "the model": by_magnitude(tensor.received),
                "the client's last update": by_magnitude(before.levels),
                "how the model changed": by_magnitude(change),
                "its last two changes": by_magnitude(change) * (len(_SHARES) + 2) + by_magnitude(older),
            }
            found.update({context: length(nonzero, classes) for context, classes in contexts.items()})
            levels += int(nonzero.sum())
    rows: list[Row] = []
    for context, taken in found.items():
        of_all = {"of the bits": taken / found["none"], "bits a level": taken / levels}
        rows.append({"budget, bits": bits, "context": context, **of_all})
    return rows


def record(bits: float, task: str, dataset: str) -> list[dict[str, Sent]]:
    """Train, and return what each client received and sent, client by client and round by round."""
    received: list[Array] = []
    updates: list[dict[str, Sent]] = []
    difference: Callable[[Array, Array], Array] = vars(_uplink)["difference"]
    compress = Codec.compress

    def noting(new: Array, old: Array) -> Array:
        received.append(old.copy())
        return difference(new, old)

    def recording(self: Codec, update: Mapping[str, Array], **rest: Any) -> Encoded:
        encoded = compress(self, update, **rest)
        sent = encoded.sent
        updates.append({name: Sent(old, sent[name]) for name, old in zip(update, received, strict=True)})
        received.clear()
        return encoded

    with patch.object(_uplink, "difference", noting), patch.object(Codec, "compress", recording):
        train(task, dataset, f"co3:bits_per_parameter={bits},step_ahead=0.2", learning_rate=0.05)
    return updates


def by_magnitude(values: Array) -> Classes:
    """Class 0 for what is 0, and more by quantiles of the magnitudes of all else."""
    magnitudes = np.abs(values).reshape(-1)
    ends = np.quantile(magnitudes[magnitudes > 0], _SHARES) if magnitudes.any() else np.zeros(len(_SHARES))
    return np.where(magnitudes > 0, 1 + np.searchsorted(ends, magnitudes), 0)


def length(marks: npt.NDArray[np.bool_], classes: Classes) -> float:
    """Bits that an adaptive code takes for marks whose chances are learned class by class."""
    entries = np.bincount(classes)
    ones = np.bincount(classes, weights=marks, minlength=entries.size)
    return float(np.sum(betaln(0.5, 0.5) - betaln(ones + 0.5, entries - ones + 0.5)) / np.log(2))


if __name__ == "__main__":
    options.run(main)
