import pytest
from flwr.app import Message, MessageType, MetricRecord, RecordDict

from simulations.clients import OrderedGrid
from tests.simulations.fakes import FakeGrid

PLACES = {77: 2, 12: 0, 50: 1}


def tell_place(message: Message) -> RecordDict:
    place = MetricRecord({"partition-id": PLACES[message.metadata.dst_node_id], "num-partitions": 3})
    return RecordDict({"place": place})


@pytest.mark.usefixtures("task")
def test_nodes_and_replies_come_in_the_order_of_their_partitions() -> None:
    grid = OrderedGrid(FakeGrid(list(PLACES), tell_place))

    assert grid.learn_partitions() == 3

    assert list(grid.get_node_ids()) == [12, 50, 77]
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in PLACES]
    replies = grid.send_and_receive(questions)
    assert [reply.metadata.src_node_id for reply in replies] == [12, 50, 77]


@pytest.mark.usefixtures("task")
def test_a_node_that_cannot_tell_comes_last() -> None:
    def answer(message: Message) -> RecordDict | Exception:
        return RuntimeError("none") if message.metadata.dst_node_id == 12 else tell_place(message)

    grid = OrderedGrid(FakeGrid(list(PLACES), answer))

    assert grid.learn_partitions() == 2
    assert list(grid.get_node_ids()) == [50, 77, 12]


@pytest.mark.usefixtures("task")
def test_without_any_answer_it_says_so() -> None:
    with pytest.raises(RuntimeError, match="No client answered within 0 seconds"):
        OrderedGrid(FakeGrid([], tell_place)).learn_partitions(timeout=0.2)
