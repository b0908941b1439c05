import dataclasses

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict

from flwr_co3 import CO3Config
from simulations.client_app import app
from simulations.clients import OrderedGrid
from simulations.federation import RoundResult, federate
from simulations.fits import UpdateWatcher
from simulations.metering import NoReplyError
from simulations.schemes import make_scheme
from simulations.settings import Settings
from tests.simulations.fakes import FakeGrid

SETTINGS = Settings(rounds=2, partitioner="iid", learning_rate=0.02)


class Clients:
    """The real client app, in this process, with a context for each node."""

    def __init__(self, count: int) -> None:
        self.contexts = {
            node: Context(1, node, {"partition-id": node - 1, "num-partitions": count}, RecordDict(), {})
            for node in range(1, count + 1)
        }

    def __call__(self, message: Message) -> RecordDict | Exception:
        reply = app(message, self.contexts[message.metadata.dst_node_id])
        return RuntimeError(reply.error.reason) if reply.has_error() else reply.content

    def grid(self) -> OrderedGrid:
        ordered = OrderedGrid(FakeGrid(list(self.contexts), self))
        ordered.learn_partitions()
        return ordered


pytestmark = pytest.mark.usefixtures("task")


def test_plain_fedavg_is_counted_in_bytes_of_messages() -> None:
    rounds = federate(Clients(3).grid(), SETTINGS, make_scheme("fedavg"))

    assert [result.round for result in rounds] == [0, 1, 2]
    assert rounds[0].uplink_bytes == 0 and rounds[0].accuracy < 0.3
    parameters = 38_282
    assert rounds[1].replies == 3 and rounds[1].failures == 0
    assert 3 * 4 * parameters < rounds[1].uplink_payload_bytes < rounds[1].uplink_bytes < 3 * 4.1 * parameters
    assert 32 < rounds[1].bits_per_parameter < 33
    assert rounds[1].downlink_bytes > rounds[1].uplink_bytes
    assert rounds[1].nmse is None


def test_co3_sends_less_and_gives_its_own_account() -> None:
    scheme = make_scheme("co3-fp4")
    rounds = federate(Clients(3).grid(), SETTINGS, scheme)

    assert isinstance(scheme.config, CO3Config)
    assert 1 < rounds[2].bits_per_parameter < 4
    assert rounds[2].nmse is not None and 0 < rounds[2].nmse < 0.5
    assert rounds[2].memory_norm is not None and rounds[2].memory_norm > 0


def test_the_downlink_is_counted_and_compressed() -> None:
    scheme = make_scheme("co3:bits_per_parameter=0.5,downlink_bits=0.5,downlink_whole=fp8")
    rounds = federate(Clients(3).grid(), SETTINGS, scheme)

    parameters = 38_282
    assert 3 * parameters / 2 < rounds[1].downlink_bytes < 3 * parameters  # the whole model in at most 8 bits
    assert 3 * parameters / 32 < rounds[2].downlink_bytes < 3 * parameters / 12  # half a bit, and the settings
    assert rounds[2].failures == 0 and rounds[2].loss < rounds[0].loss


def test_a_run_can_be_repeated_exactly_whatever_the_nodes_are_called() -> None:
    settings = dataclasses.replace(SETTINGS, fraction_train=0.5)
    clients = Clients(4)
    first = federate(clients.grid(), settings, make_scheme("fedavg"))
    clients.contexts = {90 - node: context for node, context in clients.contexts.items()}
    again = federate(clients.grid(), settings, make_scheme("fedavg"))

    assert [(result.accuracy, result.loss) for result in first] == [(result.accuracy, result.loss) for result in again]
    assert first[1].replies == 2


def test_a_round_in_which_all_fail_ends_the_run_with_the_reason() -> None:
    clients = Clients(2)
    for context in clients.contexts.values():
        context.node_config.clear()
    grid = FakeGrid(list(clients.contexts), lambda message: ValueError("no partition-id"))

    with pytest.raises(NoReplyError, match=r"All clients failed in round 1; the first one: ValueError.*partition-id"):
        federate(grid, SETTINGS, make_scheme("fedavg"))


def test_what_on_round_raises_ends_the_run() -> None:
    def stop(result: RoundResult) -> None:
        raise KeyError(result.round)

    with pytest.raises(KeyError, match="0"):
        federate(Clients(2).grid(), SETTINGS, make_scheme("fedavg"), on_round=stop)


@pytest.mark.parametrize("scheme", ["fedavg:outer_products=topk|k=8", "co3-fp4:outer_products=topk|k=8"])
def test_clients_that_approximate_their_gradients_train_and_tell_what_they_saved(scheme: str) -> None:
    rounds = federate(Clients(2).grid(), dataclasses.replace(SETTINGS, local_epochs=4), make_scheme(scheme))

    assert rounds[0].multiplications_saved is None
    assert all(result.replies == 2 and result.failures == 0 for result in rounds[1:])
    # Half of the products of batches of 16, less what choosing costs, which is most for narrow layers.
    assert all(0.4 < (result.multiplications_saved or 0) < 0.5 for result in rounds[1:])
    assert rounds[2].accuracy > 0.5 > 0.3 > rounds[0].accuracy


def test_real_updates_of_some_layers_are_looked_at() -> None:
    watcher = UpdateWatcher(SETTINGS.rounds)
    federate(Clients(2).grid(), SETTINGS, make_scheme("fedavg"), watch=watcher)

    assert [(fit.layer, fit.round) for fit in watcher.fits] == [
        (layer, number) for number in (1, 2) for layer in ("conv2.weight", "dense1.weight", "dense2.weight")
    ]


def test_a_node_without_a_place_says_how_to_start_it() -> None:
    clients = Clients(1)
    clients.contexts[1].node_config.clear()
    message = Message(RecordDict({"arrays": ArrayRecord([np.zeros(1)])}), 1, "query")

    with pytest.raises(ValueError, match=r"'partition-id' is missing .* Start it with --node-config"):
        app(message, clients.contexts[1])
