"""The server's view of the clients: always in the order of their partitions, so that runs can be repeated."""

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

_POLL_SECONDS = 0.1


class WrappedGrid(Grid):
    """A grid that is another one in all that a subclass doesn't change.

    Parameters
    ----------
    grid : Grid
        The other one.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Iterable[int]:  # noqa: D102
        return self._grid.get_node_ids()

    def send_and_receive(  # noqa: D102
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)

    @property
    def run(self) -> Any:  # noqa: D102
        return self._grid.run

    def set_run(self, run: Any) -> None:  # noqa: D102
        self._grid.set_run(run)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:  # noqa: D102
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # noqa: D102
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:  # noqa: D102
        return self._grid.pull_messages(message_ids)


class OrderedGrid(WrappedGrid):
    """A grid whose nodes and replies come in the order of the nodes' partitions.

    Flower draws node ids anew in each run and collects replies as they come. Sampling by a seed and adding
    floating point numbers both depend on the order, and so would the result.

    Parameters
    ----------
    grid : Grid
        The grid of the run.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._partition: dict[int, int] = {}

    def learn_partitions(self, timeout: float = 300.0) -> int:
        """Ask every node for its partition, and return how many answered.

        Waits until as many nodes are there as the first one says that there are partitions; in a simulation
        this is also when the clients' processes have started.

        Parameters
        ----------
        timeout : float (default: 300.0)
            Seconds to wait for all nodes; it goes on with those that are there then.

        Raises
        ------
        RuntimeError
            If no node answered.
        """
        until = time.monotonic() + timeout
        first = self._wait_for_nodes(1, until)[:1]
        expected = self._ask(first, until)
        self._ask([node for node in self._wait_for_nodes(expected, until) if node not in first], until)
        if not self._partition:
            raise RuntimeError(f"No client answered within {timeout:.0f} seconds which part of the data is its own.")
        return len(self._partition)

    def partition_of(self, node: int) -> int:
        """Return the partition that a node has told."""
        return self._partition[node]

    def _wait_for_nodes(self, number: int, until: float) -> list[int]:
        while len(nodes := list(self._grid.get_node_ids())) < number and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        return nodes

    def _ask(self, nodes: list[int], until: float) -> int:
        """Note the nodes' partitions; return the largest number of partitions that one of them names."""
        questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        expected = 0
        for reply in self._grid.send_and_receive(questions, timeout=max(until - time.monotonic(), 0.0)):
            if reply.has_content():
                place = reply.content["place"]
                assert isinstance(place, MetricRecord)  # what the client app answers
                self._partition[reply.metadata.src_node_id] = int(str(place["partition-id"]))
                expected = max(expected, int(str(place["num-partitions"])))
        return expected

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids, ordered by partition."""
        return sorted(self._grid.get_node_ids(), key=self._place)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send the messages and return the replies that came in time, ordered by partition."""
        replies = self._grid.send_and_receive(messages, timeout=timeout)
        return sorted(replies, key=lambda reply: self._place(reply.metadata.src_node_id))

    def _place(self, node: int) -> tuple[int, int]:
        """Return a sort key: nodes that didn't tell their partition come last, by their id."""
        return self._partition.get(node, len(self._partition) + 1), node
