"""Counting what travels: a wrapper that measures the messages of any strategy and changes none."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flwr_co3._round import message_bytes, payload_bytes


class NoReplyError(RuntimeError):
    """No client answered a round with a model."""


@dataclass
class Traffic:
    """What one round sent and received.

    Attributes
    ----------
    replies, failures : int
        Clients that answered with a model, and those that answered with an error.
    uplink_bytes, downlink_bytes : int
        Whole messages, as Flower counts them: the sum of the records' ``count_bytes()``.
    uplink_payload_bytes : int
        The arrays' data alone: weights, or CO3's frames.
    metrics : Mapping
        What the strategy aggregated; with CO3 it includes ``co3-nmse`` and others.
    """

    replies: int = 0
    failures: int = 0
    uplink_bytes: int = 0
    uplink_payload_bytes: int = 0
    downlink_bytes: int = 0
    metrics: Mapping[str, object] = field(default_factory=dict)


Watch = Callable[[int, ArrayRecord, list[Message]], None]


class MeteredStrategy(Strategy):
    """Measure the traffic of ``strategy``, CO3 or not, in the same way.

    Parameters
    ----------
    strategy : Strategy
        What configures and aggregates.
    seed : int
        Seed of the sampling of clients, so that compared schemes train the same ones in a round.
    watch : Callable, optional
        Called with the round, the weights sent and the replies, before these are aggregated.
    lossy : bool (default: False)
        Whether a round may end without any reply, as on links that lose updates.
    """

    def __init__(self, strategy: Strategy, seed: int, watch: Watch | None = None, *, lossy: bool = False) -> None:
        self._lossy = lossy
        self._strategy = strategy
        self._seed = seed
        self._watch = watch
        self._sent = ArrayRecord()
        self.traffic = Traffic()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Seed Flower's sampling, delegate, and count what goes out."""
        random.seed(f"{self._seed}/{server_round}")
        messages = list(self._strategy.configure_train(server_round, arrays, config, grid))
        self._sent = arrays
        self.traffic = Traffic(downlink_bytes=sum(message_bytes(message.content) for message in messages))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Count what came, and delegate.

        Raises
        ------
        NoReplyError
            If all clients failed: going on would only repeat it.
        """
        replies = list(replies)
        answers = [reply for reply in replies if reply.has_content()]
        if not answers and (replies or not self._lossy):
            reason = _last_line(replies[0].error.reason or "") if replies else "none answered in time"
            raise NoReplyError(f"All clients failed in round {server_round}; the first one: {reason}")
        self.traffic.replies, self.traffic.failures = len(answers), len(replies) - len(answers)
        self.traffic.uplink_bytes = sum(message_bytes(answer.content) for answer in answers)
        self.traffic.uplink_payload_bytes = sum(
            payload_bytes(answer.content.array_records.values()) for answer in answers
        )
        if self._watch is not None and answers:
            self._watch(server_round, self._sent, answers)
        arrays, metrics = self._strategy.aggregate_train(server_round, replies)
        self.traffic.metrics = dict(metrics or {})
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate."""
        return self._strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Delegate."""
        return self._strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Delegate."""
        self._strategy.summary()


def _last_line(reason: str) -> str:
    """Return what a traceback ends in."""
    return ([line.strip() for line in reason.splitlines() if line.strip(" '>")] or ["no reason given"])[-1]
