"""The server's side of the downlink: which version of the model a node has, and what brings it to the current one."""

import secrets
from collections.abc import Iterable
from logging import getLogger
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from flwr_co3._acknowledgements import Ledger
from flwr_co3._merging import adds_exactly, in_fewer
from flwr_co3._planes import packed
from flwr_co3._protocol import (
    BASE_KEY,
    CONFIG_KEY,
    FRAME_STYPE,
    MODEL_KEY,
    RUN_KEY,
    STATS_KEY,
    UNKNOWN_MODEL,
    UNREADABLE,
    held_version,
)
from flwr_co3._replies import Loaders
from flwr_co3._round import payload_bytes
from flwr_co3._versions import Tensors, Version, advanced, difference, step
from flwr_co3.budget import Steady
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.frame import EMPTY
from flwr_co3.schemes.scheme import CLIENT

logger = getLogger("flwr.co3")


class Parcel(NamedTuple):
    """What brings a node to the current version."""

    arrays: ArrayRecord
    entries: dict[str, str | bytes]  # of the message's config


class Downlink:
    """Brings the strategy's model to the nodes in frames.

    Clients hold a version of their own, near the strategy's model: each frame is made of the difference between the
    two, so that what one frame loses, the next ones bring.

    Parameters
    ----------
    config : CO3Config
        How the server compresses what changed.
    ledger : Ledger
        The run.
    whole : CO3Config or None (default: None)
        How it compresses the whole model for nodes that hold none. With None that is without loss, and only for nodes
        that are known to have CO3Mod.
    packs : bool (default: True)
        Whether it may: clients of Flower's older API get nothing but plain arrays.

    Raises
    ------
    ValueError
        If a config is something else, or has a decay, or a rate that differs from node to node.
    """

    def __init__(self, config: CO3Config, ledger: Ledger, whole: CO3Config | None = None, packs: bool = True) -> None:
        if not isinstance(config, CO3Config):
            raise ValueError(f"The downlink of a CO3 strategy must be a CO3Config or None, not {config!r}.")
        if whole is not None and not isinstance(whole, CO3Config):
            raise ValueError(f"What whole models are compressed with must be a CO3Config or None, not {whole!r}.")
        for each in filter(None, (config, whole)):
            if each.memory_decay != 1:
                raise ValueError(
                    f"The downlink's memory_decay must be 1, not {each.memory_decay}: the server remembers what the "
                    "clients' model lacks by that model itself."
                )
            scheme = each.other_scheme
            if scheme is not None and (scheme.memory != CLIENT or scheme.server() is not None):
                raise ValueError(
                    f"The scheme {scheme.name} can't be the downlink's: it needs more than an update and its memory."
                )
        if callable(config.rate):
            raise ValueError(
                "The downlink's rate must be a RateLimit, not a function of round and node: all nodes are sent the "
                "same frames. (Its numbers may be schedules.)"
            )
        self._config = config
        self._whole_codec = None if whole is None else Codec(whole)
        self._ledger = ledger
        self._packs = packs
        self._source: object = None  # of which the current version was made
        self._whole = ArrayRecord()
        self._packed: ArrayRecord | None = None  # the same in fewer bytes, once a node was sent it
        # Versions are numbered from anywhere, so that those of a resumed run are not taken for those before it.
        self._version = Version.of(secrets.randbelow(2**31), {})
        self._names: dict[int, Version] = {}  # of the versions that frames start from
        self._frames: dict[int, bytes] = {}  # by the number of the version that they start from
        self._held: dict[str, int] = {}  # by node: the version that it has for certain
        self._capable: set[str] = set()  # nodes that have named a version
        self._trying: set[str] = set()  # nodes that were sent the whole model compressed, and have not answered
        self._plain: set[str] = set()  # nodes that answered that with an error
        self._frameless: set[str] = set()  # nodes that cannot read the frames
        self._asked: set[str] = set()  # nodes that were sent something and have not answered: they may have more by now
        self._steady = Steady()
        self._exact: set[int] = set()  # numbers of the versions to which the frame adds without rounding
        self._fewer: dict[int, list[bytes]] = {}  # frames to the current version, several merged, by where they start
        self.tensors: Tensors = {}  # the current version

    def advance(self, source: object, record: ArrayRecord, server_round: int) -> None:
        """Make the next version, near this model; nothing if it was made of this source already."""
        if source is self._source:
            return
        new = {name: array.numpy() for name, array in record.items()}
        base, old = self._version, self.tensors
        frame = self._step(new, Codec(self._ledger.course.config(self._config, server_round), steady=self._steady))
        if frame is None:  # a line of versions begins
            base, old = Version.of(base.number, {}), {}
            self._names, self._frames, self._exact = {}, {}, set()
            frame = self._first(new)
        if frame is None:
            self.tensors = new
        else:
            self._names[base.number], self._frames[base.number] = base, frame
            self.tensors = advanced(old, frame)
            if old and self._steady.wanted and adds_exactly(frame, old, self.tensors):
                self._exact.add(base.number)
        self._version = Version.of(base.number + 1, self.tensors)
        self._source = source
        self._whole = record if frame is None else ArrayRecord({n: Array(t) for n, t in self.tensors.items()})
        self._packed, self._fewer = None, {}
        self._forget_frames()

    def parcel(self, node: str) -> Parcel:
        """Return what brings a node to the current version: frames, or the whole model."""
        entries: dict[str, str | bytes] = {RUN_KEY: self._ledger.run, MODEL_KEY: self._version.write()}
        base = self._base_of(node)
        if base is None and not (self._packs and node in self._capable - self._plain):
            return Parcel(self._whole, entries)
        if base is None or base.is_nothing:
            self._trying.add(node)
        if base is None:
            if self._packed is None:
                self._packed = packed(self._whole)
            return Parcel(self._packed, entries)
        frames = self._frames_from(base.number, surely=node not in self._asked)
        self._asked.add(node)
        entries[BASE_KEY] = base.write()
        return Parcel(ArrayRecord({str(i): _array(frame) for i, frame in enumerate(frames)}), entries)

    def _frames_from(self, number: int, surely: bool) -> list[bytes]:
        """Return the frames from a version to the current one, in fewer where the node surely has just that version."""
        each = {n: self._frames[n] for n in range(number, self._version.number)}
        if len(each) > 1:
            self._steady.wanted = True
        if not surely or not self._exact.issuperset(each):
            return list(each.values())
        if number not in self._fewer:
            self._fewer[number] = in_fewer(self._config, list(each.values()), self.tensors)
        return self._fewer[number]

    def bring(self, message: Message) -> None:
        """Put into a message what brings its node to the current version."""
        ((key, _),) = message.content.array_records.items()
        content = message.content.copy()
        config_key, config = next(iter(content.config_records.items()), (CONFIG_KEY, ConfigRecord()))
        content[key], entries = self.parcel(str(message.metadata.dst_node_id))
        content[config_key] = ConfigRecord({**config, **entries})
        message.content = content

    def hear(self, replies: Iterable[Message]) -> None:
        """Learn from replies what their nodes hold: what they say, or what they were sent and did not complain of."""
        for reply in replies:
            node = str(reply.metadata.src_node_id)
            if reply.has_error():
                reason = reply.error.reason or ""
                self.complains(node, UNKNOWN_MODEL in reason, UNREADABLE in reason)
            elif reply.metadata.message_type.partition(".")[0] == "train":
                for number in _numbers(reply.content):
                    self.holds(node, number)
            else:
                self.was_brought(node)

    def holds(self, node: str, number: int) -> None:
        """Note that a node has a version."""
        self._held[node] = number
        self._capable.add(node)
        self._trying.discard(node)
        self._asked.discard(node)

    def was_brought(self, node: str) -> None:
        """Note that a node did not complain of what it was sent, which does not say that it kept it."""
        if node in self._held:
            self.holds(node, self._version.number)

    def complains(self, node: str, of_the_model: bool, of_the_frames: bool = False) -> None:
        """Note that a node answered with an error: it may be unable to read what it was sent."""
        if of_the_model or of_the_frames:
            self._held.pop(node, None)
        if of_the_frames:
            self._frameless.add(node)
        if node in self._trying:
            self._trying.remove(node)
            self._plain.add(node)

    def _base_of(self, node: str) -> Version | None:
        """Return the version from which frames bring a node to the current one; None where they don't."""
        if node in self._frameless:
            return None
        held = self._held.get(node)
        if held == self._version.number:
            return self._version
        if held in self._frames:
            return self._names[held]
        if node in self._plain:
            return None
        return next((version for version in self._names.values() if version.is_nothing), None)

    def _step(self, new: Tensors, codec: Codec) -> bytes | None:
        """Return a frame from the current version to a model; None where only the whole model will do."""
        if not self.tensors:
            return None
        try:
            return step(codec, self.tensors, new)
        except ValueError as error:
            logger.warning("CO3 sends clients the whole model, because there is no frame for it: %s", error)
            return None

    def _first(self, new: Tensors) -> bytes | None:
        """Return a frame of the whole model; None where it goes as it is."""
        if self._whole_codec is None:
            return None
        try:
            frame = self._whole_codec.encode(new)
        except ValueError as error:
            logger.warning("CO3 sends clients the whole model as it is: %s", error)
            return None
        return frame if frame != EMPTY else None  # too small a budget for anything

    def _forget_frames(self) -> None:
        """Let go of frames that no node will be sent: with those after them they are larger than the whole model."""
        room = payload_bytes([self._whole])
        for number in sorted(self._frames, reverse=True):
            room -= len(self._frames[number])
            if room < 0:
                del self._frames[number], self._names[number]
        self._exact &= self._frames.keys()


def downlink_of(
    config: CO3Config | None, whole: CO3Config | None, ledger: Ledger, packs: bool = True
) -> Downlink | None:
    """Make a strategy's downlink of its options; None without one.

    Raises
    ------
    ValueError
        If the options are something else, or only the whole model is to be compressed.
    """
    if config is not None:
        return Downlink(config, ledger, whole, packs)
    if whole is not None:
        raise ValueError("Whole models are compressed as part of a downlink: give `downlink` as well as `whole`.")
    return None


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
