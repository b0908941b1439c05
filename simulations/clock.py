"""A virtual clock: what a round would have lasted on the clients' devices and links, and what would have been lost."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from flwr_co3 import RateLimit
from flwr_co3._round import message_bytes, payload_bytes
from simulations.choices import only_options, parse_choice
from simulations.clients import OrderedGrid, WrappedGrid
from simulations.links import Links, make_links
from simulations.settings import Settings

MEASURED = "measured"
TRAIN_SECONDS = "train-seconds"  # what clients report then
_EXAMPLES_PER_SECOND = 1000.0


@dataclass
class RoundTime:
    """What the clock says of a round.

    Attributes
    ----------
    seconds : float
        From the first message that left until the last update was there, or until the deadline.
    lost : int
        Updates that were sent and not received in time, or at all.
    lost_bytes, lost_payload_bytes : int
        Their messages, and the arrays in them.
    """

    seconds: float = 0.0
    lost: int = 0
    lost_bytes: int = 0
    lost_payload_bytes: int = 0


class TimedGrid(WrappedGrid):
    """A grid whose clients have links and devices, and whose rounds have a deadline; no one really waits.

    A client's update arrives after: half a round trip and the message's bytes at the downlink's rate; training; half a
    round trip and the reply's bytes at the uplink's rate. Each client has its link for itself. A round lasts until the
    last update is there. With a deadline, an update that isn't there by then, or that the link loses, is never handed
    on, and the round lasts until the deadline; its client has trained and renewed its memory, as a real one would
    have. Without a deadline, the server learns of a lost update when it would have arrived.

    Parameters
    ----------
    grid : OrderedGrid
        The clients.
    links : Links
        Their links, by partition.
    computation : Callable
        Seconds of a client's training, from its reply's metrics.
    deadline : float
        Seconds; 0 for none.
    seed : int
        Of the losses, which are the same for all schemes.
    """

    def __init__(
        self,
        grid: OrderedGrid,
        links: Links,
        computation: Callable[[MetricRecord], float],
        deadline: float,
        seed: int,
    ) -> None:
        super().__init__(grid)
        self._ordered = grid
        self._links, self._computation, self._deadline, self._seed = links, computation, deadline, seed
        self._round = 0
        self.time = RoundTime()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies that would have come in time; each call that trains is a round."""
        messages = list(messages)
        replies = list(self._grid.send_and_receive(messages, timeout=timeout))
        if not any(message.metadata.message_type == MessageType.TRAIN for message in messages):
            return replies
        self._round += 1
        self.time = RoundTime()
        asked = {message.metadata.dst_node_id: message_bytes(message.content) for message in messages}
        return [reply for reply in replies if self._arrives(reply, asked[reply.metadata.src_node_id])]

    def rate(self, seconds: float) -> Callable[[int, int], RateLimit]:
        """Return budgets that differ from client to client: what each one's uplink carries in so many seconds."""

        def rate(server_round: int, node: int) -> RateLimit:
            link = self._links.link(self._ordered.partition_of(node), server_round)
            return RateLimit(bits_per_second=link.uplink, seconds=seconds)

        return rate

    def _arrives(self, reply: Message, bytes_down: int) -> bool:
        """Let the clock run until a reply is there; return whether it is there in time."""
        if reply.has_error():
            return True
        partition = self._ordered.partition_of(reply.metadata.src_node_id)
        link = self._links.link(partition, self._round)
        bytes_up = message_bytes(reply.content)
        (metrics,) = reply.content.metric_records.values()
        seconds = (
            link.latency + 8 * bytes_down / link.downlink + self._computation(metrics) + 8 * bytes_up / link.uplink
        )
        lost = np.random.default_rng((self._seed, self._round, partition)).random() < link.loss
        if self._deadline and (lost or seconds > self._deadline):
            lost, seconds = True, self._deadline
        self.time.seconds = max(self.time.seconds, seconds)
        if lost:
            self.time.lost += 1
            self.time.lost_bytes += bytes_up
            self.time.lost_payload_bytes += payload_bytes(reply.content.array_records.values())
        return not lost


def timed(grid: Grid, settings: Settings) -> TimedGrid | None:
    """Give the clients the links, the device and the deadline of the settings; None where there are no links."""
    if not settings.links:
        return None
    if not isinstance(grid, OrderedGrid):
        raise ValueError("Links belong to partitions of the data: hand an OrderedGrid to clients with links.")
    return TimedGrid(
        grid, make_links(settings.links, settings.seed), computation(settings), settings.deadline, settings.seed
    )


def computation(settings: Settings) -> Callable[[MetricRecord], float]:
    """Return what tells a client's seconds of training from its metrics, as the settings' device says.

    Raises
    ------
    ValueError
        If there is no such device or setting.
    """
    choice = parse_choice(settings.device, "device")
    if choice.name == MEASURED:
        factor = float(only_options(choice, {"factor": float}, "device").get("factor", 1.0))
        return lambda metrics: factor * float(str(metrics[TRAIN_SECONDS]))
    if choice.name == "profile":
        speed = float(
            only_options(choice, {"examples_per_second": float}, "device").get(
                "examples_per_second", _EXAMPLES_PER_SECOND
            )
        )
        if not speed > 0:
            raise ValueError(f"The device's examples_per_second is {speed}, but must be above 0.")
        return lambda metrics: settings.local_epochs * float(str(metrics["num-examples"])) / speed
    raise ValueError(f"There is no device {choice.name!r}. Choose one of: profile, measured.")
