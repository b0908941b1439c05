"""The server's side of the downlink: which version of the model a node has, and what brings it to the current one."""

from collections.abc import Iterable
from logging import getLogger
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from flwr_co3._acknowledgements import Ledger
from flwr_co3._protocol import (
    BASE_KEY,
    CONFIG_KEY,
    FRAME_STYPE,
    MODEL_KEY,
    RUN_KEY,
    STATS_KEY,
    UNKNOWN_MODEL,
    held_version,
)
from flwr_co3._replies import Loaders
from flwr_co3._round import payload_bytes
from flwr_co3._versions import Tensors, Version, advanced, difference, step
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config

logger = getLogger("flwr.co3")


class Downlink:
    """Brings the strategy's model to the nodes in frames.

    Clients hold a version of their own, near the strategy's model: each frame is made of the difference between the
    two, so that what one frame loses, the next ones bring.

    Parameters
    ----------
    config : CO3Config
        How the server compresses.
    ledger : Ledger
        The run.

    Raises
    ------
    ValueError
        If the config is something else, or has a decay, or a rate that differs from node to node.
    """

    def __init__(self, config: CO3Config, ledger: Ledger) -> None:
        if not isinstance(config, CO3Config):
            raise ValueError(f"The downlink of a CO3Strategy must be a CO3Config or None, not {config!r}.")
        if config.memory_decay != 1:
            raise ValueError(
                f"The downlink's memory_decay must be 1, not {config.memory_decay}: the server remembers what the "
                "clients' model lacks by that model itself."
            )
        if callable(config.rate):
            raise ValueError(
                "The downlink's rate must be a RateLimit, not a function of round and node: all nodes are sent the "
                "same frames. (Its numbers may be schedules.)"
            )
        self._config = config
        self._ledger = ledger
        self._source: ArrayRecord | None = None  # of which the current version was made
        self._whole = ArrayRecord()
        self._version = Version(0, 0)
        self._names: dict[int, Version] = {}  # of the versions that frames start from
        self._frames: dict[int, bytes] = {}  # by the number of the version that they start from
        self._held: dict[int, int] = {}  # by node: the version that it has for certain
        self.tensors: Tensors = {}  # the current version

    def advance(self, record: ArrayRecord, server_round: int) -> None:
        """Make the next version, near this model."""
        if record is self._source:
            return
        new = {name: array.numpy() for name, array in record.items()}
        number = self._version.number + 1
        frame = self._step(new, self._ledger.course.config(self._config, server_round))
        if frame is None:
            self.tensors = new
            self._names, self._frames = {}, {}
        else:
            self._names[self._version.number] = self._version
            self._frames[self._version.number] = frame
            self.tensors = advanced(self.tensors, frame)
        self._version = Version.of(number, self.tensors)
        self._source = record
        self._whole = record if frame is None else ArrayRecord({n: Array(t) for n, t in self.tensors.items()})
        self._forget_frames()

    def bring(self, message: Message) -> None:
        """Put into a message what brings its node to the current version."""
        ((key, _),) = message.content.array_records.items()
        content = message.content.copy()
        config_key, config = next(iter(content.config_records.items()), (CONFIG_KEY, ConfigRecord()))
        entries: dict[str, str | bytes] = {RUN_KEY: self._ledger.run, MODEL_KEY: self._version.write()}
        base = self._held.get(message.metadata.dst_node_id)
        content[key] = self._whole
        if base is not None and (base == self._version.number or base in self._frames):
            frames = [self._frames[number] for number in range(base, self._version.number)]
            entries[BASE_KEY] = self._names.get(base, self._version).write()
            content[key] = ArrayRecord({str(i): _array(frame) for i, frame in enumerate(frames)})
        content[config_key] = ConfigRecord({**config, **entries})
        message.content = content

    def hear(self, replies: Iterable[Message]) -> None:
        """Learn from replies what their nodes hold: what they say, or what they were sent and did not complain of."""
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                if UNKNOWN_MODEL in (reply.error.reason or ""):
                    self._held.pop(node, None)
            elif reply.metadata.message_type.partition(".")[0] == "train":
                self._held.update((node, number) for number in _numbers(reply.content))
            elif node in self._held:
                self._held[node] = self._version.number

    def _step(self, new: Tensors, config: CO3Config) -> bytes | None:
        """Return a frame from the current version to a model; None where only the whole model will do."""
        if not self._version.number:
            return None
        try:
            return step(Codec(config), self.tensors, new)
        except ValueError as error:
            logger.warning("CO3 sends clients the whole model, because there is no frame for it: %s", error)
            return None

    def _forget_frames(self) -> None:
        """Let go of frames that no node will be sent: with those after them they are larger than the whole model."""
        room = payload_bytes([self._whole])
        for number in sorted(self._frames, reverse=True):
            room -= len(self._frames[number])
            if room < 0:
                del self._frames[number], self._names[number]


def _numbers(content: RecordDict) -> Iterable[int]:
    for record in content.metric_records.values():
        number = held_version(record.get(STATS_KEY))
        if number is not None:
            yield number


def _array(frame: bytes) -> Array:
    return Array(dtype="uint8", shape=(len(frame),), stype=FRAME_STYPE, data=frame)


def shifted(record: ArrayRecord, start: Tensors, model: Loaders) -> ArrayRecord:
    """Return what a client trained from its version of the model as if it had started from the strategy's."""
    new = {name: array.numpy() for name, array in record.items()}
    return ArrayRecord({name: Array(_shifted(new[name], start[name], load())) for name, load in model.items()})


def _shifted(new: NDArray[Any], start: NDArray[Any], model: NDArray[Any]) -> NDArray[Any]:
    if model.dtype.kind != "f":
        return new
    return np.asarray(model + difference(new, start), model.dtype)
