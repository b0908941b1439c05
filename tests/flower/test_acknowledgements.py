"""What the server names as aggregated, and what a client concludes from it."""

import copy
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.serverapp.strategy import FedAvg, Krum, Strategy
from numpy.typing import NDArray

from flwr_co3._acknowledgements import Ledger, update_id
from flwr_co3._protocol import Order
from flwr_co3.client import CO3ClientMixin, CO3Mod
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.correct import MemoryStore
from flwr_co3.rate import RateLimit
from flwr_co3.server import CO3Strategy
from tests.flower.helpers import (
    App,
    LocalGrid,
    Tensors,
    arrays,
    avg,
    context,
    frame_of,
    memory_of,
    raising,
    record,
    reply_with_change,
    small_step,
    specs,
    train_message,
)

pytestmark = pytest.mark.usefixtures("task")

LOSSY = ("conv.weight", "fc.weight")


train = reply_with_change(small_step)


def asking(model: Tensors, turn: int | None, seen: bytes | None = None, run: str = "a run", **config: Any) -> Message:
    """A train message with its number and what was aggregated last."""
    message = train_message(model, CO3Config(**config), run)
    entries = message.content.config_records["config"]
    if turn is not None:
        entries["co3-turn"] = turn
    if seen is not None:
        entries["co3-seen"] = seen
    return message


def changes(model: Tensors, times: int) -> Tensors:
    """What a client learns in so many rounds."""
    return {name: times * (small_step(name, model[name]) - model[name]) for name in LOSSY}


def assert_all_there(model: Tensors, times: int, sent: list[bytes], memory: Tensors) -> None:
    """Check that what was aggregated and what is in memory is what was learnt in so many rounds."""
    decoded = [Codec().decode(frame, like=specs(model)) for frame in sent]
    for name, learnt in changes(model, times).items():
        there = sum(update[name] for update in decoded) + memory[name]
        np.testing.assert_allclose(there, learnt, atol=1e-6)


# The client


def test_an_update_that_was_aggregated_is_forgotten(model: Tensors) -> None:
    ctx, mod = context(), CO3Mod()
    first = frame_of(mod(asking(model, 1), ctx, train))
    second = frame_of(mod(asking(model, 2, update_id(1, first)), ctx, train))
    assert_all_there(model, 2, [first, second], memory_of(ctx))


@pytest.mark.parametrize("seen", [None, b"an older"])
def test_an_update_that_was_lost_is_put_back(model: Tensors, seen: bytes | None) -> None:
    ctx, mod = context(), CO3Mod()
    mod(asking(model, 1, seen), ctx, train)
    second = frame_of(mod(asking(model, 2, seen), ctx, train))
    assert_all_there(model, 2, [second], memory_of(ctx))


def test_many_lost_updates_in_a_row_are_all_sent_in_the_end(model: Tensors) -> None:
    ctx, mod = context(), CO3Mod()
    for turn in range(1, 6):
        frame = frame_of(mod(asking(model, turn), ctx, train))
    assert_all_there(model, 5, [frame], memory_of(ctx))


def test_a_lost_update_decays_as_an_empty_one_does(model: Tensors) -> None:
    ctx = context()
    for turn in range(1, 5):
        CO3Mod()(asking(model, turn, memory_decay=0.5), ctx, train)
    unchanged = reply_with_change(lambda _, tensor: tensor)
    sent = Codec().decode(frame_of(CO3Mod()(asking(model, 9, memory_decay=0.5), ctx, unchanged)))
    for name, learnt in changes(model, 1).items():
        # v = g + v / 2, four times, and then v / 2
        expected = learnt * (1 + 1 / 2 + 1 / 4 + 1 / 8) / 2
        np.testing.assert_allclose(sent[name] + memory_of(ctx)[name], expected, atol=1e-6)


def test_exact_tensors_are_not_put_back(model: Tensors) -> None:
    ctx, mod = context(), CO3Mod()
    mod(asking(model, 1), ctx, train)
    decoded = Codec().decode(frame_of(mod(asking(model, 2), ctx, train)))
    np.testing.assert_array_equal(decoded["bn.num_batches_tracked"], 8)
    np.testing.assert_array_equal(decoded["fc.bias"], small_step("fc.bias", model["fc.bias"]))


def test_a_message_that_was_answered_or_is_older_is_refused(model: Tensors) -> None:
    ctx, mod = context(), CO3Mod()
    mod(asking(model, 5), ctx, train)
    before = copy.deepcopy(ctx.state)
    for turn in (4, 5):
        refused = mod(asking(model, turn), ctx, train)
        assert refused.has_error() and "answered already" in str(refused.error.reason)
    assert ctx.state == before
    assert frame_of(mod(asking(model, 6), ctx, train))


def test_after_training_failed_the_update_is_still_put_back(model: Tensors) -> None:
    ctx, mod = context(), CO3Mod()
    mod(asking(model, 1), ctx, train)
    with pytest.raises(RuntimeError):
        mod(asking(model, 2), ctx, raising)
    third = frame_of(mod(asking(model, 3), ctx, train))
    assert_all_there(model, 2, [third], memory_of(ctx))


def test_a_memory_older_than_what_was_aggregated_starts_empty(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    """A client app that was killed after its reply left, and before Flower had the state, has an old state."""
    ctx, mod = context(), CO3Mod()
    first = frame_of(mod(asking(model, 1), ctx, train))
    old = copy.deepcopy(ctx.state)
    second = frame_of(mod(asking(model, 2, update_id(1, first)), ctx, train))
    ctx.state = old
    third = frame_of(mod(asking(model, 3, update_id(2, second)), ctx, train))
    assert_all_there(model, 1, [third], memory_of(ctx))
    assert "starts empty" in caplog.text


def test_a_kept_frame_that_is_damaged_is_not_fatal(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    ctx, mod = context(), CO3Mod()
    mod(asking(model, 1), ctx, train)
    before = memory_of(ctx)
    ctx.state.config_records["co3-run"]["frame"] = b"CO3 or not"
    second = Codec().decode(frame_of(mod(asking(model, 2), ctx, train)))
    assert "cannot put the last update" in caplog.text
    for name, learnt in changes(model, 1).items():
        np.testing.assert_allclose(second[name] + memory_of(ctx)[name], before[name] + learnt, atol=1e-6)


def test_a_server_that_names_nothing_is_served_as_before(model: Tensors) -> None:
    """An older flwr-co3 on the server: each update counts as aggregated, and no frame is kept."""
    ctx, mod = context(), CO3Mod()
    sent = [frame_of(mod(asking(model, turn), ctx, train)) for turn in (None, None)]
    assert ctx.state.config_records["co3-run"] == {"token": "a run"}
    assert_all_there(model, 2, sent, memory_of(ctx))
    sent.append(frame_of(mod(asking(model, 1), ctx, train)))
    sent.append(frame_of(mod(asking(model, None), ctx, train)))
    assert_all_there(model, 4, sent, memory_of(ctx))


def test_without_memory_no_frame_is_kept(model: Tensors) -> None:
    ctx, mod = context(), CO3Mod()
    frames = {frame_of(mod(asking(model, turn, memory_decay=0), ctx, train)) for turn in (1, 2, 3)}
    assert len(frames) == 1 and not ctx.state


def test_an_empty_update_has_nothing_to_put_back(model: Tensors) -> None:
    ctx, mod = context(), CO3Mod(rate=RateLimit(bytes_per_round=1))
    for turn in (1, 2, 3):
        assert len(frame_of(mod(asking(model, turn), ctx, train))) == 1
    assert_all_there(model, 3, [], memory_of(ctx))


def test_replies_are_not_a_byte_longer(model: Tensors) -> None:
    sizes = {
        sum(part.count_bytes() for part in CO3Mod()(asking(model, turn, seen), context(), train).content.values())
        for turn, seen in ((None, None), (1, None), (2**50, b"12345678"))
    }
    assert len(sizes) == 1


def test_the_names_tell_turns_and_frames_apart() -> None:
    names = {update_id(turn, frame) for turn in (1, 2, 2**62) for frame in (b"", b"a", b"b")}
    assert len(names) == 9 and {len(name) for name in names} == {8}


def test_frames_that_differ_only_at_their_beginning_have_other_names() -> None:
    update = {name: np.random.default_rng(0).laplace(size=5000).astype("f4") for name in ("first", "second")}
    renamed = {name.replace("first", "forst"): tensor for name, tensor in update.items()}
    one, other = Codec().encode(update), Codec().encode(renamed)
    assert one[-1024:-4] == other[-1024:-4] and len(one) > 2048
    assert update_id(1, one) != update_id(1, other)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"co3-turn": "1"}, "a number above 0 at 'co3-turn', but has '1'"),
        ({"co3-turn": 0}, "a number above 0 at 'co3-turn', but has 0"),
        ({"co3-turn": 1, "co3-seen": 5}, "bytes at 'co3-seen', but has 5"),
    ],
)
def test_what_cannot_be_read_is_refused(model: Tensors, entries: dict[str, Any], words: str) -> None:
    message = train_message(model)
    message.content.config_records["config"].update(entries)
    refused = CO3Mod()(message, context(), raising)
    assert refused.has_error() and words in str(refused.error.reason) and "same flwr-co3" in str(refused.error.reason)


# NumPyClients


class Client(CO3ClientMixin, NumPyClient):
    def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> Any:
        return [small_step("a name", array) for array in parameters], 10, {}


def test_the_mixin_puts_back_what_was_lost(model: Tensors) -> None:
    ctx = context()
    weights = model["fc.weight"]
    order = {"co3": "{}", "co3-run": "a run"}
    Client(context=ctx).fit([weights], {**order, "co3-turn": 1})
    ((frame,), _, _) = Client(context=ctx).fit([weights], {**order, "co3-turn": 2})
    sent = Codec().decode(frame.tobytes())["0"] + memory_of(ctx)["0"]
    np.testing.assert_allclose(sent, 2 * (small_step("a name", weights) - weights), atol=1e-6)
    with pytest.raises(ValueError, match="answered already"):
        Client(context=ctx).fit([weights], {**order, "co3-turn": 2})


# The server


def order_of(message: Message) -> Order:
    return Order.read(message.content.config_records["config"])


def asked(strategy: Strategy, model: Tensors, nodes: tuple[int, ...] = (1, 2)) -> list[Message]:
    grid = LocalGrid(dict.fromkeys(nodes, raising))
    return list(strategy.configure_train(1, record(model), ConfigRecord(), grid))


def client() -> App:
    mod = CO3Mod()
    return lambda message, context: mod(message, context, train)


def test_numbers_rise_and_the_last_aggregated_update_is_named(model: Tensors) -> None:
    grid = LocalGrid({1: client(), 2: raising, 3: client()})
    CO3Strategy(avg()).start(grid=grid, initial_arrays=record(model), num_rounds=3)
    orders = [order_of(message) for message in grid.sent]
    assert len({order.turn for order in orders}) == 9
    by_node: dict[int, list[Order]] = {1: [], 2: [], 3: []}
    for message, order in zip(grid.sent, orders, strict=True):
        by_node[message.metadata.dst_node_id].append(order)
    for node, mine in by_node.items():
        turns = [order.turn or 0 for order in mine]
        assert turns == sorted(turns)
        frames = [frame_of(reply) for reply in grid.train_replies() if node != 2 and reply.metadata.src_node_id == node]
        names = [update_id(turn, frame) for turn, frame in zip(turns, frames, strict=False)]
        assert [order.seen for order in mine] == [None, *(names[:2] if node != 2 else [None, None])]


def test_the_train_message_grows_by_32_bytes(model: Tensors) -> None:
    grid = LocalGrid({1: client()})
    CO3Strategy(avg()).start(grid=grid, initial_arrays=record(model), num_rounds=2)
    config = grid.sent[1].content.config_records["config"]
    rest = ConfigRecord({key: value for key, value in config.items() if key not in ("co3-turn", "co3-seen")})
    assert config.count_bytes() - rest.count_bytes() == 32


def test_a_client_that_ignores_the_numbers_is_served(model: Tensors) -> None:
    """An older flwr-co3 on the client."""

    def older(message: Message, context: Context) -> Message:
        for key in ("co3-turn", "co3-seen"):
            message.content.config_records["config"].pop(key, None)
        return client()(message, context)

    grid = LocalGrid({1: older})
    result = CO3Strategy(avg()).start(grid=grid, initial_arrays=record(model), num_rounds=3)
    final, memory = arrays(result.arrays), memory_of(grid.contexts[1])
    for name, learnt in changes(model, 3).items():
        np.testing.assert_allclose(final[name] + memory[name], model[name] + learnt, atol=1e-5)


def test_a_node_with_several_messages_in_a_round_gets_no_numbers(model: Tensors) -> None:
    class Twice(FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> list[Message]:
            first, second = super().configure_train(*args, **kwargs), super().configure_train(*args, **kwargs)
            return [*first, *(message for message in second if message.metadata.dst_node_id == 1)]

    del model["bn.num_batches_tracked"]  # FedAvg makes fractions of it, which is another table in the second round
    strategy = CO3Strategy(Twice(fraction_evaluate=0.0))
    numbered = [(m.metadata.dst_node_id, order_of(m).turn is not None) for m in asked(strategy, model)]
    assert sorted(numbered) == [(1, False), (1, False), (2, True)]

    grid = LocalGrid({1: client(), 2: client()})
    strategy.start(grid=grid, initial_arrays=record(model), num_rounds=2)
    frames = [frame_of(reply) for reply in grid.train_replies() if reply.metadata.src_node_id == 1]
    assert len(frames) == 4
    assert_all_there(model, 4, frames, memory_of(grid.contexts[1]))


def test_what_a_strategy_does_not_choose_was_aggregated_all_the_same(model: Tensors) -> None:
    grid = LocalGrid({node: client() for node in range(1, 6)})
    krum = Krum(fraction_evaluate=0.0, num_malicious_nodes=1)
    CO3Strategy(krum).start(grid=grid, initial_arrays=record(model), num_rounds=2)
    assert all(order_of(message).seen for message in grid.sent[5:])


def test_a_reply_that_comes_twice_is_aggregated_once(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    strategy = CO3Strategy(avg())
    grid = LocalGrid({1: client(), 2: client()})
    replies = grid.send_and_receive(strategy.configure_train(1, record(model), ConfigRecord(), grid))
    _, metrics = strategy.aggregate_train(1, [*replies, *copy.deepcopy(grid.replies)])
    assert metrics is not None and metrics["co3-replies"] == 4 and metrics["co3-quarantined"] == 2
    assert "or one that was answered already" in caplog.text
    again, _ = strategy.aggregate_train(1, copy.deepcopy(grid.replies))
    assert again is None, "nor in a second call"


# Restarts of the server


def test_a_strategy_goes_on_from_the_progress_of_another(model: Tensors) -> None:
    grid = LocalGrid({1: client(), 2: client()})
    first = CO3Strategy(avg())
    result = first.start(grid=grid, initial_arrays=record(model), num_rounds=2)
    before = [order_of(message) for message in grid.sent]
    second = CO3Strategy(avg(), resume=first.progress)
    assert second.progress == first.progress
    result = second.start(grid=grid, initial_arrays=result.arrays, num_rounds=2)
    after = [order_of(message) for message in grid.sent[4:]]
    assert {order.run for order in [*before, *after]} == {before[0].run}
    assert min(order.turn or 0 for order in after) > max(order.turn or 0 for order in before)
    final, memory = arrays(result.arrays), memory_of(grid.contexts[1])
    for name, learnt in changes(model, 4).items():
        np.testing.assert_allclose(final[name] + memory[name], model[name] + learnt, atol=1e-5)


def test_numbers_given_after_the_progress_was_saved_are_not_given_again(model: Tensors) -> None:
    first = CO3Strategy(avg())
    saved = first.progress
    before = [order_of(message).turn or 0 for _ in range(3) for message in asked(first, model)]
    after = [order_of(message).turn or 0 for message in asked(CO3Strategy(avg(), resume=saved), model)]
    assert min(after) > max(before)


def test_a_server_whose_clock_was_set_back_gives_no_number_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order.draw(None)
    ledger = Ledger(order.run)
    turn = ledger.address(order, "1").turn
    assert turn is not None
    monkeypatch.setattr("time.time_ns", lambda: 0)
    assert Ledger.read(ledger.write()).address(order, "1").turn == turn + 1


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"run":"a","turn":"x","aggregated":{}}', '{"run":"a","turn":1}'])
def test_what_cannot_be_resumed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="`progress` of an earlier strategy"):
        CO3Strategy(avg(), resume=text)


# Stores


@pytest.mark.parametrize("kind", [str, Path, MemoryStore])
def test_a_client_with_a_store_goes_on_after_a_restart(model: Tensors, tmp_path: Path, kind: Any) -> None:
    folder = tmp_path / "memories"
    for turn in (1, 2, 3):
        ctx = context()  # nothing is left of the one before
        frame = frame_of(CO3Mod(store=kind(folder))(asking(model, turn), ctx, train))
        assert not ctx.state
    kept = MemoryStore(folder).load("run a run, node 1")
    assert kept is not None and kept.last is not None
    assert kept.last.frame == frame
    assert_all_there(model, 3, [frame], kept.errors)


def test_a_store_gives_the_same_frames_as_flowers_state(model: Tensors, tmp_path: Path) -> None:
    ctx = context()
    for turn in (1, 2, 3):
        in_state = CO3Mod()(asking(model, turn), ctx, train)
        on_disk = CO3Mod(store=tmp_path)(asking(model, turn), context(), train)
        assert frame_of(in_state) == frame_of(on_disk)


def test_runs_and_nodes_share_a_folder(model: Tensors, tmp_path: Path) -> None:
    mod = CO3Mod(store=tmp_path)
    alone = {frame_of(CO3Mod()(asking(model, 1), context(), train))}
    frames = {
        frame_of(mod(asking(model, 1, run=run), context(node), train)) for run in ("one", "two") for node in (1, 2)
    }
    assert frames == alone
    assert len(list(tmp_path.iterdir())) == 4


def test_without_memory_a_stores_file_goes(model: Tensors, tmp_path: Path) -> None:
    mod = CO3Mod(store=tmp_path)
    mod(asking(model, 1), context(), train)
    mod(asking(model, 2, memory_decay=0), context(), train)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_store_is_set_aside_and_training_goes_on(
    model: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mod = CO3Mod(store=tmp_path)
    clean = frame_of(mod(asking(model, 1), context(), train))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    assert frame_of(mod(asking(model, 2), context(), train)) == clean
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, path.name + ".damaged"]
    (warning, where) = caplog.records
    assert warning.levelno == logging.WARNING and "starts empty" in warning.getMessage()
    assert "renamed" in where.getMessage()


def test_a_memory_that_cannot_be_written_is_a_refusal(
    model: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mod = CO3Mod(store=tmp_path)
    first = frame_of(mod(asking(model, 1), context(), train))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused = mod(asking(model, 2, update_id(1, first)), context(), train)
    monkeypatch.undo()
    assert refused.has_error() and "No space left on device" in str(refused.error.reason)
    third = frame_of(mod(asking(model, 3, update_id(1, first)), context(), train))
    kept = MemoryStore(tmp_path).load("run a run, node 1")
    assert kept is not None
    assert_all_there(model, 2, [first, third], kept.errors)


@pytest.mark.parametrize("as_attribute", [False, True])
def test_the_mixin_takes_a_store(model: Tensors, tmp_path: Path, as_attribute: bool) -> None:
    class WithStore(Client):
        store = tmp_path

    ctx = context()
    client = WithStore(context=ctx) if as_attribute else Client(context=ctx, store=str(tmp_path))
    client.fit([model["fc.weight"]], {"co3": "{}", "co3-run": "a run", "co3-turn": 1})
    kept = MemoryStore(tmp_path).load("run a run, node 1")
    assert kept is not None and list(kept.errors) == ["0"]
    assert ctx.state == RecordDict()


@pytest.mark.parametrize("store", [7, b"a folder", {"folder": "x"}])
def test_a_store_of_another_type_is_refused(model: Tensors, store: Any) -> None:
    with pytest.raises(ValueError, match="CO3Mod's store must be a folder, a MemoryStore or None"):
        CO3Mod(store=store)
    with pytest.raises(ValueError, match="Client's store must be a folder, a MemoryStore or None"):
        Client(context=context(), store=store).fit([], {"co3": "{}", "co3-run": "a run"})
