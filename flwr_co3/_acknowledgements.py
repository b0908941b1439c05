"""Lost replies: the server names the update that it aggregated last, and a client takes back what is not named.

Every train message has a number, its turn. An update is named by its turn and its frame, so that neither two frames
of one turn nor two turns with the same frame are taken for each other.
"""

import json
import time
from collections.abc import Mapping
from hashlib import blake2b
from logging import getLogger
from typing import Any

from numpy.typing import NDArray

from flwr_co3._course import Course
from flwr_co3._protocol import Order
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.correct import ErrorMemory, LastUpdate
from flwr_co3.frame import TensorSpec
from flwr_co3.subspace import Subspace, SubspaceReader
from flwr_co3.update import is_exact

logger = getLogger("flwr.co3")


_NAMING = 1024  # the last bytes of a frame: the very last of them are a checksum of all


def update_id(turn: int, frame: bytes) -> bytes:
    """Return the name of an update: 8 bytes that server and client compute alike, from the end of its frame."""
    return blake2b(frame[-_NAMING:], digest_size=8, salt=turn.to_bytes(8, "little")).digest()


class Ledger:
    """What the server knows of a run: the update of each node that it aggregated last, and how far it has come.

    Parameters
    ----------
    run : str
        The run's token.
    turn : int (default: 0)
        The largest number that was given so far.
    aggregated : Mapping[str, bytes] (default: {})
        Names of updates by node.
    course : Course (default: a new one)
        The run's rounds and losses.
    """

    def __init__(
        self,
        run: str,
        turn: int = 0,
        aggregated: Mapping[str, bytes] | None = None,
        course: Course | None = None,
    ) -> None:
        self.run = run
        self.course = Course() if course is None else course
        self._turn = turn
        self._aggregated = dict(aggregated or {})

    def address(self, order: Order, node: str) -> Order:
        """Return the order for one node's next train message."""
        # Microseconds, so that a server that goes on from a saved state gives no number a second time.
        self._turn = max(self._turn + 1, time.time_ns() // 1000)
        return order._replace(turn=self._turn, seen=self._aggregated.get(node))

    def record(self, aggregated: Mapping[str, bytes]) -> None:
        """Note the updates, by node, that were aggregated."""
        self._aggregated |= aggregated

    def write(self) -> str:
        """Write all of it as one line of JSON."""
        names = {node: name.hex() for node, name in self._aggregated.items()}
        fields = {"run": self.run, "turn": self._turn, "aggregated": names, **self.course.to_dict()}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> "Ledger":
        """Read what `write` wrote.

        Raises
        ------
        ValueError
            If it is no such text.
        """
        try:
            fields = json.loads(text)
            names = {node: bytes.fromhex(name) for node, name in fields["aggregated"].items()}
            return cls(str(fields["run"]), int(fields["turn"]), names, Course.of(fields))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"What to resume must be the `progress` of an earlier strategy, and {text!r:.100} is not: {error!r}."
            ) from error


def settle(memory: ErrorMemory, last: LastUpdate | None, order: Order, like: Mapping[str, TensorSpec]) -> ErrorMemory:
    """Bring a client's memory to what holds now that the server has said what it aggregated.

    Parameters
    ----------
    memory : ErrorMemory
        The memory as it was when the last update was sent. It may change.
    last : LastUpdate or None
        That update.
    order : Order
        What the server says now.
    like : Mapping[str, TensorSpec]
        The model's tensors as they travel.

    Returns
    -------
    ErrorMemory
        The memory to go on with: as it was if the update was aggregated, with the update put back if it was not. An
        empty one if the server aggregated a later update than this client remembers, because what it remembers may
        have been aggregated with that one.

    Raises
    ------
    ValueError
        If the order is older than the last update: the server does not wait for an answer to it any more.
    """
    if last is None or order.turn is None:
        return memory
    if order.turn <= last.turn:
        raise ValueError(
            "The train message was answered already, or is older than one that was. A second answer could be "
            "counted twice, so there is none."
        )
    if order.seen == update_id(last.turn, last.frame):
        return memory
    if order.seen == last.base:
        _put_back(memory, last, order.config, like)
        return memory
    logger.warning(
        "CO3's error memory is not of the update that the server aggregated last, and starts empty. It was restored "
        "from an earlier state, or the server was."
    )
    return ErrorMemory(memory.decay, memory.dtype)


def _put_back(memory: ErrorMemory, last: LastUpdate, config: CO3Config, like: Mapping[str, TensorSpec]) -> None:
    try:
        memory.put_back(decoded(last, config, like))
    except Exception as error:  # perhaps kept by another version; training goes on
        logger.warning("CO3 cannot put the last update, which was lost, back into its error memory: %s", error)
    else:
        logger.info("CO3 put the last update back into its error memory: the server did not aggregate it.")


def decoded(last: LastUpdate, config: CO3Config, like: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return what the server reads of an update."""
    if last.directions is None:
        return Codec().decode(last.frame, like=like)
    exact = {name for name, spec in like.items() if is_exact(name, spec, config)}
    return SubspaceReader(last.frame, Subspace.read(last.directions, like, exact)).read_all()
