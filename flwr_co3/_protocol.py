"""What CO3's server and clients say to each other: the keys, and the order that a server gives."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flwr_co3.config import CO3Config

CONFIG_KEY = "co3"  # in a train message's config: CO3Config.to_json()
RUN_KEY = "co3-run"  # beside it: a random token, the same for all of a run
TURN_KEY = "co3-turn"  # beside it: the train message's number, rising within a run
SEEN_KEY = "co3-seen"  # beside it: the node's update that was aggregated last; not there if none was
KNOWN_KEY = "co3-known"  # beside it: whether the server knows the tensors, so that frames need not name them
DIRECTIONS_KEY = "co3-directions"  # beside it: the directions of CO3Config.subspace, as `flwr_co3.subspace` writes them
MODEL_KEY = "co3-model"  # in a train or evaluation message's config: the version of the model that it brings
BASE_KEY = "co3-base"  # beside it: the version that its frames start from; not there if it brings the whole model
FRAME_KEY = "co3"  # the one entry of a compressed reply's ArrayRecord
FRAME_STYPE = "flwr_co3"  # its Array's serialisation type
STATS_KEY = "co3"  # in a compressed reply's MetricRecord: ClientStats as a list, and the version of the model it holds
SCALAR_STATS_KEYS = (
    "co3-nmse",
    "co3-encode-seconds",
    "co3-memory-norm",
)  # the same in a NumPyClient's metrics
HELD_KEY = "co3-held"  # beside them: the number of the version of the model that the client holds
UNKNOWN_MODEL = "does not hold the model that the frames start from"  # in the reason of a client's error
UNREADABLE = "cannot read the frames that bring the model"  # likewise
ERROR_CODE = 6  # Flower's ErrorCode.MOD_FAILED_PRECONDITION, which it does not export


class Order(NamedTuple):
    """What a server asks of a client in one train message."""

    config: CO3Config
    run: str  # an error memory of another run is not used
    turn: int | None = None  # None where the server does not say what it aggregated
    seen: bytes | None = None  # the node's update that was aggregated last; None if none was
    known: bool = False  # whether the server knows the tensors; older ones don't say so
    directions: bytes | None = None  # by which updates are to be sent

    @classmethod
    def draw(cls, config: CO3Config | None) -> "Order":
        """Make the order of a new run; None stands for the default settings.

        Raises
        ------
        ValueError
            If the config is something else.
        """
        config = CO3Config() if config is None else config
        if not isinstance(config, CO3Config):
            raise ValueError(f"The config of a CO3 strategy must be a CO3Config, not {config!r}.")
        return cls(config, secrets.token_hex(8), known=True)

    @classmethod
    def read(cls, config: Mapping[str, object]) -> "Order":
        """Read the order from a message's config.

        Raises
        ------
        ValueError
            If this version cannot do what is asked.
        """
        settings, run = CO3Config.from_json(_text(config, CONFIG_KEY)), run_of(config)
        turn, seen = config.get(TURN_KEY), config.get(SEEN_KEY)
        if not (turn is None or (isinstance(turn, int) and turn > 0)):
            raise ValueError(_unexpected(TURN_KEY, turn, "a number above 0"))
        if not isinstance(seen, (bytes, type(None))):
            raise ValueError(_unexpected(SEEN_KEY, seen, "bytes"))
        directions = config.get(DIRECTIONS_KEY)
        if not isinstance(directions, (bytes, type(None))):
            raise ValueError(_unexpected(DIRECTIONS_KEY, directions, "bytes"))
        return cls(settings, run, turn, seen, config.get(KNOWN_KEY) is True, directions)

    def write(self) -> dict[str, str | int | bytes]:
        """Write the order as entries of a message's config."""
        entries: dict[str, str | int | bytes] = {CONFIG_KEY: self.config.to_json(), RUN_KEY: self.run}
        if self.turn is not None:
            entries[TURN_KEY] = self.turn
        if self.seen is not None:
            entries[SEEN_KEY] = self.seen
        if self.known:
            entries[KNOWN_KEY] = True
        if self.directions is not None:
            entries[DIRECTIONS_KEY] = self.directions
        return entries


class ClientStats(NamedTuple):
    """What a client reports of its compression."""

    nmse: float  # ||v - sent||^2 / ||v||^2 over the lossy tensors
    encode_seconds: float
    memory_norm: float  # of what is left in the error memory

    def scalars(self) -> dict[str, float]:
        """Return the statistics as entries of a NumPyClient's metrics."""
        return {key: float(value) for key, value in zip(SCALAR_STATS_KEYS, self, strict=True)}

    @classmethod
    def read(cls, values: object) -> "ClientStats | None":
        """Read the statistics from a reply, or None if that is not what stands there."""
        if not isinstance(values, (list, tuple)) or len(values) not in (len(cls._fields), len(cls._fields) + 1):
            return None
        values = values[: len(cls._fields)]
        if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in values):
            return None
        return cls(*map(float, values))


def held_version(values: object) -> int | None:
    """Read the number of the version that a client holds, or None if it does not say."""
    if not isinstance(values, (list, tuple)) or len(values) != len(ClientStats._fields) + 1:
        return None
    number = values[-1]
    return int(number) if isinstance(number, (int, float)) and np.isfinite(number) else None


def may_be_known(dtypes: "Iterable[np.dtype[Any]]") -> bool:
    """Whether frames of tensors of these types may leave their table to the receiver.

    FedAvg makes fractions of whole numbers. What is put back then would refer to a table that nobody has any more.
    """
    return all(dtype.kind == "f" for dtype in dtypes)


def run_of(config: Mapping[str, object]) -> str:
    """Read the run's token from a message's config.

    Raises
    ------
    ValueError
        If there is none.
    """
    return _text(config, RUN_KEY)


def _text(config: Mapping[str, object], key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str):
        raise ValueError(_unexpected(key, value, "text"))
    return value


def _unexpected(key: str, value: object, kind: str) -> str:
    return (
        f"The train message's config should have {kind} at '{key}', but has {value!r} there. "
        "Do server and client run the same flwr-co3?"
    )
