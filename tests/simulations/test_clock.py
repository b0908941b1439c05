"""Simulated time, checked against what can be worked out by hand, and losses that clients make good."""

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import pytest
from flwr.app import Message, MetricRecord

from flwr_co3._round import message_bytes
from simulations.client_app import app
from simulations.clients import OrderedGrid
from simulations.clock import TRAIN_SECONDS, RoundTime, computation
from simulations.federation import RoundResult, federate
from simulations.inline import InlineGrid
from simulations.links import make_links
from simulations.schemes import make_scheme
from simulations.settings import Settings
from simulations.tasks import partition_examples

pytestmark = pytest.mark.usefixtures("task")
SETTINGS = Settings(rounds=2, partitioner="iid", learning_rate=0.02, links="lognormal:uplink=1e6,spread=0")


def run(settings: Settings, scheme: str = "fedavg", clients: int = 3) -> list[RoundResult]:
    grid = OrderedGrid(InlineGrid(app, clients))
    grid.learn_partitions()
    return federate(grid, settings, make_scheme(scheme))


def test_a_round_takes_what_its_slowest_client_takes() -> None:
    """Both ways and training: each client has the same bytes, and the first one an example more than the others."""
    rounds = run(SETTINGS)

    examples = max(len(partition_examples("digits", "iid", 0, part, 3).labels) for part in range(3))
    for result in rounds[1:]:
        down, up = (8 * count / 3 / rate for count, rate in ((result.downlink_bytes, 10e6), (result.uplink_bytes, 1e6)))
        assert result.simulated_seconds == pytest.approx(0.05 + down + examples / 1000 + up)
    assert rounds[0].simulated_seconds is not None and rounds[0].simulated_seconds == 0


def test_without_links_there_is_no_time_and_nothing_else_changes() -> None:
    plain = run(dataclasses.replace(SETTINGS, links=""))
    assert [result.simulated_seconds for result in plain] == [None] * 3
    for with_links, without in zip(run(SETTINGS), plain, strict=True):
        for field in ("accuracy", "loss", "uplink_bytes", "replies", "lost"):
            assert getattr(with_links, field) == getattr(without, field)


def test_after_the_deadline_updates_are_lost_and_their_bytes_were_sent() -> None:
    """At one megabit a second, the uplink of 154 kB takes 1.2 seconds."""
    rounds = run(dataclasses.replace(SETTINGS, deadline=1.0))

    assert [result.simulated_seconds for result in rounds[1:]] == [1.0, 1.0]
    assert [(result.lost, result.replies) for result in rounds[1:]] == [(3, 0), (3, 0)]
    assert rounds[2].uplink_bytes == run(SETTINGS)[2].uplink_bytes
    assert rounds[2].accuracy == rounds[0].accuracy


def test_a_lost_update_is_put_back_into_its_clients_memory() -> None:
    """Half of the updates are lost; with the error memory, training gets on nearly as if they were not."""
    settings = dataclasses.replace(SETTINGS, rounds=8, links=f"{SETTINGS.links},loss=0.5", seed=1)
    lossless = run(dataclasses.replace(settings, links=SETTINGS.links), "co3")
    lossy = run(settings, "co3")

    lost = [result.lost for result in lossy]
    assert 0 < sum(lost) < 24 and [result.replies for result in lossy[1:]] == [3 - count for count in lost[1:]]
    assert lossy[-1].accuracy > lossless[-1].accuracy - 0.15


class Watched(OrderedGrid):
    """Notes how large the clients' last replies are."""

    sizes: ClassVar[dict[int, int]] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        for reply in replies:
            self.sizes[self.partition_of(reply.metadata.src_node_id)] = message_bytes(reply.content)
        return replies


def test_each_client_has_the_budget_that_its_link_carries() -> None:
    settings = dataclasses.replace(SETTINGS, links="lognormal:uplink=1e6,spread=1")
    grid = Watched(InlineGrid(app, 3))
    grid.learn_partitions()
    federate(grid, settings, make_scheme("co3:uplink_seconds=0.02"))

    links = make_links(settings.links, settings.seed)
    for partition, size in grid.sizes.items():
        budget = 0.02 * links.link(partition, 1).uplink / 8
        assert budget * 0.9 < size < budget + 120  # the message's other records
    assert len(set(grid.sizes.values())) == 3


def test_a_scheme_with_a_budget_by_links_needs_links() -> None:
    with pytest.raises(ValueError, match="has a budget by the clients' links: give them links"):
        run(dataclasses.replace(SETTINGS, links=""), "co3:uplink_seconds=1")


def test_devices() -> None:
    metrics = MetricRecord({"num-examples": 500, TRAIN_SECONDS: 0.25})

    def seconds(device: str) -> float:
        return computation(dataclasses.replace(SETTINGS, device=device, local_epochs=2))(metrics)

    assert seconds("profile:examples_per_second=100") == 10.0
    assert seconds("measured:factor=4") == 1.0
    for wrong, message in (("phone", "no device 'phone'"), ("profile:examples_per_second=0", "must be above 0")):
        with pytest.raises(ValueError, match=message):
            seconds(wrong)


def test_measured_training_is_told_by_the_client() -> None:
    rounds = run(dataclasses.replace(SETTINGS, device="measured", rounds=1))

    assert rounds[1].simulated_seconds is not None and rounds[1].simulated_seconds > 1.2
    assert RoundTime().seconds == 0
