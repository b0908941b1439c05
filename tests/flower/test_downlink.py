"""The downlink: what nodes are sent, what they hold, and that nothing is lost in between."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, Krum, Strategy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flwr_co3._versions import Version, advanced, step
from flwr_co3.client import CO3Mod
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.errors import FrameError
from flwr_co3.frame import FrameReader
from flwr_co3.rate import RateLimit
from flwr_co3.server import CO3Strategy
from tests.flower.helpers import (
    EVERYTHING_EXACT,
    App,
    LocalGrid,
    Tensors,
    arrays,
    avg,
    frame_of,
    model_of,
    record,
    reply_with_change,
    specs,
)

pytestmark = pytest.mark.usefixtures("task")

LOSSY = ("conv.weight", "fc.weight")
LOW = CO3Config(rate=RateLimit(bits_per_parameter=4))


def change(seed: int) -> Callable[[str, NDArray[Any]], NDArray[Any]]:
    """What one client changes in each tensor, whatever the tensor."""

    def changed(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
        if tensor.dtype.kind != "f":
            return tensor + 1
        noise = np.random.default_rng([seed, len(name)]).laplace(scale=0.01, size=tensor.shape)
        return np.asarray(tensor + noise.astype(tensor.dtype))

    return changed


class Client:
    """A client that shows which model it got."""

    def __init__(self, seed: int, with_mod: bool = True, store: Path | None = None) -> None:
        self.seed = seed
        self.mod = CO3Mod(store=store) if with_mod else None
        self.got: list[Tensors] = []
        self.evaluated: list[Tensors] = []

    def __call__(self, message: Message, context: Context) -> Message:
        return self.app(message, context) if self.mod is None else self.mod(message, context, self.app)

    def app(self, message: Message, context: Context) -> Message:
        got = arrays(model_of(message.content))
        if message.metadata.message_type == "evaluate":
            self.evaluated.append(got)
            metrics = MetricRecord({"num-examples": 10, "accuracy": 0.5})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)
        self.got.append(got)
        return reply_with_change(change(self.seed))(message, context)


class Sampling(FedAvg):
    """Asks the nodes of a given list in each round."""

    def __init__(self, *nodes: tuple[int, ...]) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        self.nodes = nodes

    def configure_train(self, server_round: int, *args: Any, **kwargs: Any) -> list[Message]:
        messages = super().configure_train(server_round, *args, **kwargs)
        return [m for m in messages if m.metadata.dst_node_id in self.nodes[server_round - 1]]


def sent_to(grid: LocalGrid, node: int, kind: str = "train") -> list[Message]:
    return [m for m in grid.sent if m.metadata.dst_node_id == node and m.metadata.message_type == kind]


def is_whole(message: Message) -> bool:
    return "co3-base" not in message.content.config_records["config"]


def assert_same(ours: Tensors, theirs: Tensors, atol: float = 1e-6) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=1e-6, atol=atol, err_msg=name)


def held_by(strategy: CO3Strategy) -> Tensors:
    assert strategy._downlink is not None
    return strategy._downlink.tensors


# Versions


def test_a_version_is_named_by_number_and_content(model: Tensors) -> None:
    version = Version.of(3, model)
    assert Version.read(version.write()) == version and len(version.write()) == 8
    assert Version.of(3, dict(reversed(model.items()))) == version
    others = [{**model, "fc.bias": model["fc.bias"] + 1}, {**model, "fc.weight": model["fc.weight"].reshape(40, 10)}]
    assert all(Version.of(3, other) != version for other in others)
    for bad in (b"", b"1234567", 5, None):
        with pytest.raises(ValueError, match="named by 8 bytes"):
            Version.read(bad)


def test_frames_leave_out_the_table_of_tensors_where_both_sides_know_it() -> None:
    rng = np.random.default_rng(0)
    floats: Tensors = {"a long name": rng.normal(size=(30, 20)).astype("f4"), "b": rng.normal(size=3)}
    for old, known in (
        (floats, True),
        ({**floats, "n": np.array(3)}, False),
        ({**floats, "n": np.ones(3, "f2")}, False),
    ):
        new = {name: tensor + np.ones_like(tensor) for name, tensor in old.items()}
        frame = step(Codec(), old, new)
        assert (len(frame) < len(Codec().encode({name: new[name] - old[name] for name in old}))) == known
        np.testing.assert_allclose(advanced(old, frame)["a long name"], new["a long name"], atol=0.3)
    with pytest.raises(FrameError, match="refers to another table"):
        advanced({"another name": floats["a long name"], "b": floats["b"]}, step(Codec(), floats, floats))
    with pytest.raises(ValueError, match="'b' is float32, and was float64"):
        step(Codec(), floats, {**floats, "b": floats["b"].astype("f4")})


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_a_frame_leads_near_the_next_version(dtype: str) -> None:
    rng = np.random.default_rng(0)
    old: Tensors = {"w": rng.normal(size=(30, 20)).astype(dtype), "n": np.array(3), "empty": np.zeros((0, 2), dtype)}
    new: Tensors = {"w": old["w"] + rng.normal(size=(30, 20)).astype(dtype), "n": np.array(4), "empty": old["empty"]}
    frame = step(Codec(CO3Config(format="fp8")), old, new)
    made = advanced(old, frame)
    assert {name: t.dtype.name for name, t in made.items()} == {name: t.dtype.name for name, t in old.items()}
    fraction = advanced(old, step(Codec(), old, {**old, "n": np.array(3.5)}))
    assert fraction["n"] == 3.5
    assert made["n"] == 4
    assert np.linalg.norm(made["w"].astype("f8") - new["w"]) < 0.1 * np.linalg.norm(new["w"].astype("f8") - old["w"])
    with pytest.raises(FrameError, match="of another model"):
        advanced({"w": old["w"].T, "n": old["n"]}, frame)


# What clients train from, and what is made of it


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedAvg(fraction_evaluate=0.0),
        lambda: FedAvgM(fraction_evaluate=0.0, server_momentum=0.9),
        lambda: FedAdam(fraction_evaluate=0.0),
        lambda: FedMedian(fraction_evaluate=0.0),
        lambda: Krum(fraction_evaluate=0.0, num_malicious_nodes=1),
    ],
    ids=["FedAvg", "FedAvgM", "FedAdam", "FedMedian", "Krum"],
)
def test_without_loss_any_strategy_gives_what_it_gives_without_it(make: Callable[[], Strategy], model: Tensors) -> None:
    floats = {name: tensor for name, tensor in model.items() if tensor.dtype.kind == "f"}

    def result(downlink: CO3Config | None) -> Tensors:
        grid = LocalGrid({node: Client(node) for node in range(1, 6)})
        strategy = CO3Strategy(make(), EVERYTHING_EXACT, downlink)
        return arrays(strategy.start(grid=grid, initial_arrays=record(floats), num_rounds=4).arrays)

    assert_same(result(EVERYTHING_EXACT), result(None))


def test_clients_hold_what_the_server_says_to_the_last_bit(model: Tensors) -> None:
    client = Client(1)
    strategy = CO3Strategy(avg(), downlink=LOW)
    grid = LocalGrid({1: client})
    arrays_now = record(model)
    for rounds in range(1, 5):
        result = strategy.start(grid=grid, initial_arrays=arrays_now, num_rounds=1)
        arrays_now = result.arrays
        assert client.got[-1].keys() == model.keys()
        for name, tensor in client.got[-1].items():
            np.testing.assert_array_equal(tensor, held_by(strategy)[name])
        assert is_whole(grid.sent[-1]) == (rounds == 1)


def test_no_update_is_lost_between_the_two_models(model: Tensors) -> None:
    """Updates do not depend on the model here, so what was learnt is in the model or in the clients' memories."""
    grid = LocalGrid({1: Client(1), 2: Client(2)})
    strategy = CO3Strategy(avg(), downlink=LOW)
    final = arrays(strategy.start(grid=grid, initial_arrays=record(model), num_rounds=6).arrays)
    for name in LOSSY:
        learnt = np.mean([change(seed)(name, model[name]) - model[name] for seed in (1, 2)], axis=0)
        memories = [arrays(context.state.array_records["co3-memory"]) for context in grid.contexts.values()]
        memory = np.mean([each[name] for each in memories], axis=0)
        np.testing.assert_allclose(final[name] + memory, model[name] + 6 * learnt, atol=1e-5)
        distance = np.linalg.norm(held_by(strategy)[name] - (final[name] - learnt))
        assert distance < 2 * np.linalg.norm(learnt), "clients are not far behind"


def test_what_one_frame_loses_the_next_ones_bring(model: Tensors) -> None:
    class Still(Client):
        def app(self, message: Message, context: Context) -> Message:
            return reply_with_change(lambda _, tensor: tensor)(message, context)

    strategy = CO3Strategy(avg(), EVERYTHING_EXACT, CO3Config())
    grid = LocalGrid({1: Still(1)})
    strategy.start(grid=grid, initial_arrays=record(model), num_rounds=1)
    moved = {name: change(1)(name, tensor) for name, tensor in model.items()}
    distances = []
    for _ in range(6):
        strategy.start(grid=grid, initial_arrays=record(moved), num_rounds=1)
        distances.append(np.linalg.norm(held_by(strategy)["fc.weight"] - moved["fc.weight"]))
    assert distances[-1] < 0.1 * distances[0]
    assert all(not is_whole(message) for message in grid.sent[1:])


def test_a_client_without_the_mod_is_sent_whole_models_and_counts_the_same(model: Tensors) -> None:
    grid = LocalGrid({1: Client(1, with_mod=False)})
    strategy = CO3Strategy(avg(), downlink=LOW)
    final = arrays(strategy.start(grid=grid, initial_arrays=record(model), num_rounds=4).arrays)
    assert all(is_whole(message) for message in grid.sent)
    for name in LOSSY:
        learnt = change(1)(name, model[name]) - model[name]
        np.testing.assert_allclose(final[name], model[name] + 4 * learnt, atol=1e-5)


def test_a_client_with_an_older_mod_is_sent_whole_models(model: Tensors) -> None:
    newer = Client(1)

    def older(message: Message, context: Context) -> Message:
        message.content.config_records["config"].pop("co3-model")
        return newer(message, context)

    grid = LocalGrid({1: older})
    CO3Strategy(avg(), downlink=LOW).start(grid=grid, initial_arrays=record(model), num_rounds=3)
    assert all(is_whole(message) for message in grid.sent) and len(newer.got) == 3


def test_a_client_that_cannot_read_the_frames_is_sent_whole_models_from_then_on(
    model: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(1)

    def older(message: Message, context: Context) -> Message:
        with monkeypatch.context() as patch:
            patch.setattr("flwr_co3.frame.VERSION", 0)
            patch.setattr("flwr_co3.frame.LAYERED", 0)
            return client(message, context)

    grid = LocalGrid({1: older})
    CO3Strategy(avg(), EVERYTHING_EXACT, LOW).start(grid=grid, initial_arrays=record(model), num_rounds=5)
    assert [is_whole(message) for message in grid.sent] == [True, False, True, True, True]
    assert [reply.has_error() for reply in grid.replies] == [False, True, False, False, False]
    assert "reads versions 1 to 0: update the older side" in str(grid.replies[1].error.reason)


# Which frames


def test_a_node_that_was_not_sampled_is_sent_all_frames_since(model: Tensors) -> None:
    clients = {1: Client(1), 2: Client(2)}
    grid = LocalGrid(dict(clients))
    sampling = Sampling((1, 2), (1,), (1,), (1, 2), (1, 2))
    strategy = CO3Strategy(sampling, downlink=LOW)
    strategy.start(grid=grid, initial_arrays=record(model), num_rounds=5)
    frames = [len(model_of(message.content)) for message in sent_to(grid, 2)]
    assert frames == [5, 3, 1]  # the five tensors, then three rounds at once
    for mine, theirs in zip(clients[2].got[1:], clients[1].got[3:], strict=True):
        for name, tensor in mine.items():
            np.testing.assert_array_equal(tensor, theirs[name])


def test_the_whole_model_is_sent_where_it_is_smaller(model: Tensors) -> None:
    rarely = CO3Strategy(Sampling((1, 2), *[(1,)] * 6, (1, 2)), downlink=CO3Config(format="fp8"))
    grid = LocalGrid({1: Client(1), 2: Client(2)})
    rarely.start(grid=grid, initial_arrays=record(model), num_rounds=8)
    assert [is_whole(message) for message in sent_to(grid, 2)] == [True, True]
    assert [is_whole(message) for message in sent_to(grid, 1)] == [True] + [False] * 7
    downlink = rarely._downlink
    assert downlink is not None and len(downlink._frames) == len(downlink._names) < 7


@pytest.mark.parametrize("store", [False, True])
def test_a_client_that_lost_its_model_says_so_and_is_sent_the_whole(
    model: Tensors, store: bool, tmp_path: Path
) -> None:
    client = Client(1, store=tmp_path if store else None)

    def forget() -> None:
        grid.contexts[1].state.clear()
        for file in tmp_path.iterdir():
            file.unlink()

    strategy = CO3Strategy(avg(), downlink=LOW)
    grid = LocalGrid({1: client})
    arrays_now = record(model)
    for server_round in range(1, 7):
        if server_round == 3:
            forget()
        result = strategy.start(grid=grid, initial_arrays=arrays_now, num_rounds=1)
        arrays_now = result.arrays or arrays_now
    assert [is_whole(message) for message in grid.sent] == [True, False, False, True, False, False]
    refused = grid.replies[2]
    assert refused.has_error() and "does not hold the model that the frames start from" in str(refused.error.reason)
    assert len(client.got) == 5


def test_a_client_that_restarts_goes_on_from_its_store(model: Tensors, tmp_path: Path) -> None:
    def restarting(message: Message, context: Context) -> Message:
        context.state.clear()
        return Client(1, store=tmp_path)(message, context)

    grid = LocalGrid({1: restarting})
    CO3Strategy(avg(), downlink=LOW).start(grid=grid, initial_arrays=record(model), num_rounds=4)
    assert [is_whole(message) for message in grid.sent] == [True, False, False, False]
    assert not any(reply.has_error() for reply in grid.replies)


def test_a_client_whose_reply_was_lost_takes_the_frames_that_it_lacks(model: Tensors) -> None:
    client = Client(1)
    lose = {2, 3}
    rounds = 0

    def losing(message: Message, context: Context) -> Message:
        nonlocal rounds
        rounds += 1
        reply = client(message, context)
        if rounds in lose:
            raise RuntimeError("the line went dead")
        return reply

    grid = LocalGrid({1: losing, 2: Client(2)})
    CO3Strategy(avg(), downlink=LOW).start(grid=grid, initial_arrays=record(model), num_rounds=5)
    frames = [len(model_of(message.content)) for message in sent_to(grid, 1)]
    assert frames == [5, 1, 2, 3, 1]
    assert len(client.got) == 5


def test_models_that_differ_by_node_are_sent_whole_and_as_they_are(model: Tensors) -> None:
    class Personal(FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> list[Message]:
            messages = list(super().configure_train(*args, **kwargs))
            for message in messages:
                message.content = RecordDict({**message.content, "arrays": record(model)})
            return messages

    grid = LocalGrid({1: Client(1), 2: Client(2)})
    strategy = CO3Strategy(Personal(fraction_evaluate=0.0), downlink=LOW)
    result = strategy.start(grid=grid, initial_arrays=record(model), num_rounds=2)
    assert all("co3-model" not in message.content.config_records["config"] for message in grid.sent)
    assert result.train_metrics_clientapp[2]["co3-quarantined"] == 0


def test_a_model_that_cannot_be_compressed_is_sent_whole(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    strategy = CO3Strategy(avg(), downlink=LOW)
    grid = LocalGrid({1: Client(1)})
    strategy.start(grid=grid, initial_arrays=record(model), num_rounds=1)
    broken = {**model, "fc.weight": np.full((10, 40), np.nan, np.float32)}
    strategy.start(grid=grid, initial_arrays=record(broken), num_rounds=1)
    assert is_whole(grid.sent[-1]) and "whole model" in caplog.text
    other = {"w": np.ones((20, 10), np.float32)}
    strategy.start(grid=grid, initial_arrays=record(other), num_rounds=1)
    assert is_whole(grid.sent[-1])


# Whole models


def with_whole(config: CO3Config, *nodes: tuple[int, ...]) -> CO3Strategy:
    return CO3Strategy(Sampling(*nodes), downlink=LOW, whole=config)


def test_a_whole_model_without_loss_is_the_same_to_the_last_bit(model: Tensors) -> None:
    client = Client(1)
    grid = LocalGrid({1: client})
    strategy = CO3Strategy(avg(), downlink=LOW, whole=EVERYTHING_EXACT)
    strategy.start(grid=grid, initial_arrays=record(model), num_rounds=1)
    for name, tensor in client.got[0].items():
        assert (tensor.dtype, tensor.tobytes()) == (model[name].dtype, model[name].tobytes())
    assert len(model_of(grid.sent[0].content)) == 1  # one frame


def test_whole_models_are_cast_for_nodes_that_hold_none_whenever_they_come(model: Tensors) -> None:
    clients = {1: Client(1), 2: Client(2)}
    grid = LocalGrid(dict(clients))
    strategy = with_whole(CO3Config(format="fp8"), (1,), (1,), (1, 2), (1, 2))
    result = strategy.start(grid=grid, initial_arrays=record(model), num_rounds=4)
    assert [len(model_of(message.content)) for message in sent_to(grid, 2)] == [
        3,
        1,
    ]  # the model, then the frames since
    first = result.train_metrics_clientapp[1]["co3-downlink-payload-bytes"]
    assert first < sum(tensor.nbytes for tensor in model.values()) / 3  # type: ignore[operator]
    for mine, theirs in zip(clients[2].got, clients[1].got[2:], strict=True):
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    lossy = np.linalg.norm(clients[1].got[0]["fc.weight"] - model["fc.weight"]) / np.linalg.norm(model["fc.weight"])
    assert 0 < lossy < 0.1


def test_what_casting_loses_the_next_frames_bring(model: Tensors) -> None:
    """Updates do not depend on the model here, so what was learnt is in the model or in the client's memory."""
    grid = LocalGrid({1: Client(1)})
    strategy = with_whole(CO3Config(format="fp8"), *[(1,)] * 6)
    final = arrays(strategy.start(grid=grid, initial_arrays=record(model), num_rounds=6).arrays)
    memory = arrays(grid.contexts[1].state.array_records["co3-memory"])
    for name in LOSSY:
        learnt = change(1)(name, model[name]) - model[name]
        np.testing.assert_allclose(final[name] + memory[name], model[name] + 6 * learnt, atol=1e-5)
        assert np.linalg.norm(held_by(strategy)[name] - (final[name] - learnt)) < 2 * np.linalg.norm(learnt)


@pytest.mark.parametrize("whole", [None, CO3Config(format="fp8"), EVERYTHING_EXACT], ids=["none", "cast", "exact"])
def test_a_client_without_the_mod_is_sent_the_model_as_it_is(model: Tensors, whole: CO3Config | None) -> None:
    client = Client(1, with_mod=False)
    grid = LocalGrid({1: client, 2: Client(2)})
    strategy = CO3Strategy(avg(), downlink=LOW, whole=whole)
    result = strategy.start(grid=grid, initial_arrays=record(model), num_rounds=3)
    assert len(client.got) == (3 if whole is None else 2)  # it misses the round in which it could not read the model
    assert set(model_of(sent_to(grid, 1)[-1].content)) == set(model)
    assert {array.stype for array in model_of(sent_to(grid, 1)[-1].content).values()} == {"numpy.ndarray"}
    assert result.train_metrics_clientapp[3]["co3-uncompressed"] == 1


def forgetting(client: App, *rounds: int) -> App:
    """A client whose state is gone in these rounds."""
    count = 0

    def app(message: Message, context: Context) -> Message:
        nonlocal count
        count += 1
        if count in rounds:
            context.state.clear()
        return client(message, context)

    return app


def test_the_whole_model_for_a_client_that_lost_it_takes_fewer_bytes(model: Tensors) -> None:
    model["fc.weight"] = 0.01 * np.random.default_rng(0).normal(size=(300, 100)).astype(np.float32)
    client = Client(1)
    grid = LocalGrid({1: forgetting(client, 3)})
    strategy = CO3Strategy(avg(), downlink=LOW)
    strategy.start(grid=grid, initial_arrays=record(model), num_rounds=5)
    first, *_, again, last = (sum(len(array.data) for array in model_of(m.content).values()) for m in grid.sent)
    assert is_whole(grid.sent[3]) and again < 0.9 * first and last < 0.2 * first
    assert len(client.got) == 4 and not grid.replies[3].has_error()


def test_a_client_that_cannot_read_the_packed_model_is_sent_it_as_it_is(model: Tensors) -> None:
    client = Client(1)

    def older(message: Message, context: Context) -> Message:
        if any(array.stype == "flwr_co3.planes" for array in model_of(message.content).values()):
            raise TypeError("Unsupported serialization type for conversion: flwr_co3.planes")
        return client(message, context)

    grid = LocalGrid({1: forgetting(older, 2)})
    CO3Strategy(avg(), downlink=LOW).start(grid=grid, initial_arrays=record(model), num_rounds=5)
    assert [reply.has_error() for reply in grid.replies] == [False, True, True, False, False]
    assert [is_whole(message) for message in grid.sent] == [True, False, True, True, False]


def test_a_budget_of_nothing_for_whole_models_sends_them_as_they_are(model: Tensors) -> None:
    client = Client(1)
    strategy = CO3Strategy(avg(), downlink=LOW, whole=CO3Config(rate=RateLimit(bytes_per_round=1)))
    strategy.start(grid=LocalGrid({1: client}), initial_arrays=record(model), num_rounds=1)
    assert_same(client.got[0], model, atol=0)


def test_a_resumed_server_begins_with_the_whole_model_whatever_clients_hold(model: Tensors) -> None:
    for whole in (None, CO3Config(format="fp8")):
        clients = {1: Client(1), 2: Client(2)}
        grid = LocalGrid(dict(clients))
        strategy = CO3Strategy(Sampling((1, 2), (1, 2), (1, 2)), downlink=LOW, whole=whole)
        result = strategy.start(grid=grid, initial_arrays=record(model), num_rounds=3)
        again = CO3Strategy(Sampling((1,), (1,), (1, 2)), downlink=LOW, whole=whole, resume=strategy.progress)
        final = again.start(grid=grid, initial_arrays=result.arrays, num_rounds=3)
        assert not any(reply.has_error() for reply in grid.replies)
        assert final.train_metrics_clientapp[3]["co3-quarantined"] == 0
        assert all(np.array_equal(clients[2].got[-1][n], t) for n, t in clients[1].got[-1].items())
        distance = np.linalg.norm(clients[1].got[3]["fc.weight"] - arrays(result.arrays)["fc.weight"])
        assert distance < 0.1 * np.linalg.norm(model["fc.weight"])


# Any sampling


class Fated:
    """A client to which things happen."""

    def __init__(self, node: int) -> None:
        self.client = Client(node)
        self.fate = "answers"

    def __call__(self, message: Message, context: Context) -> Message:
        if self.fate == "forgets":
            context.state.clear()
        reply = self.client(message, context)
        if self.fate == "its reply is lost":
            raise RuntimeError("the line went dead")
        return reply


FATES = ("answers", "is not asked", "forgets", "its reply is lost")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schedule=st.lists(st.lists(st.sampled_from(FATES), min_size=3, max_size=3), min_size=2, max_size=9),
    whole=st.sampled_from([None, CO3Config(format="fp8"), EVERYTHING_EXACT]),
    downlink=st.sampled_from([LOW, CO3Config(format="fp8"), CO3Config(rate=RateLimit(bytes_per_round=300))]),
)
def test_whoever_is_sampled_when_trains_from_the_servers_version_and_its_update_counts(
    schedule: list[list[str]], whole: CO3Config | None, downlink: CO3Config
) -> None:
    now: Tensors = {"w": np.random.default_rng(1).normal(size=(30, 20)).astype("f4"), "n": np.array(3)}
    clients = {node: Fated(node) for node in (1, 2, 3)}
    grid = LocalGrid(dict(clients))
    sampling = Sampling()
    strategy = CO3Strategy(sampling, downlink=downlink, whole=whole)
    for fates in schedule:
        asked = tuple(node for node, fate in enumerate(fates, 1) if fate != "is not asked")
        sampling.nodes = (asked,)
        for node, fate in enumerate(fates, 1):
            clients[node].fate, clients[node].client.got = fate, []
        grid.sent, grid.replies = [], []
        result = strategy.start(grid=grid, initial_arrays=record(now), num_rounds=1)
        updates = []
        for node, reply in zip(asked, grid.replies, strict=True):
            got = clients[node].client.got
            refused = f"only a client that lost its model may refuse frames: {reply.error}" if reply.has_error() else ""
            assert got or fates[node - 1] == "forgets", refused
            assert all(np.array_equal(got[0][name], held_by(strategy)[name]) for name in now if got)
            if not reply.has_error():
                updates.append(FrameReader(frame_of(reply), like=specs(now)).read("w"))
        sent = [part.count_bytes() for message in grid.sent for part in message.content.values()]
        if asked:
            assert result.train_metrics_clientapp[1]["co3-downlink-message-bytes"] == sum(sent)
        if updates:
            new = arrays(result.arrays)
            np.testing.assert_allclose(new["w"], now["w"] + np.mean(updates, axis=0), atol=1e-5)
            now = new


# Evaluation and bytes


def test_evaluation_uses_the_same_frames(model: Tensors) -> None:
    clients = {1: Client(1), 2: Client(2)}
    grid = LocalGrid(dict(clients))
    strategy = CO3Strategy(avg(fraction_evaluate=1.0), downlink=LOW)
    result = strategy.start(grid=grid, initial_arrays=record(model), num_rounds=3)
    assert all(not is_whole(message) for message in sent_to(grid, 1, "evaluate"))
    assert [len(model_of(m.content)) for m in sent_to(grid, 1, "evaluate")] == [1, 1, 1]
    assert [len(model_of(m.content)) for m in sent_to(grid, 1)] == [5, 0, 0]  # evaluation has brought it already
    for mine, theirs in zip(clients[1].evaluated[:2], clients[1].got[1:], strict=True):
        for name, tensor in mine.items():
            np.testing.assert_array_equal(tensor, theirs[name])
    metrics = result.evaluate_metrics_clientapp[3]
    evaluated = [message for node in (1, 2) for message in sent_to(grid, node, "evaluate")[2:]]
    payload = sum(len(array.data) for m in evaluated for array in model_of(m.content).values())
    total = sum(part.count_bytes() for m in evaluated for part in m.content.values())
    assert metrics["accuracy"] == 0.5
    assert (metrics["co3-downlink-payload-bytes"], metrics["co3-downlink-message-bytes"]) == (payload, total)


def test_metrics_count_both_directions(model: Tensors) -> None:
    grid = LocalGrid({1: Client(1), 2: Client(2)})
    result = CO3Strategy(avg(), downlink=LOW).start(grid=grid, initial_arrays=record(model), num_rounds=2)
    metrics = result.train_metrics_clientapp[2]
    frames = [array.data for message in grid.sent[2:] for array in model_of(message.content).values()]
    parameters = sum(tensor.size for tensor in model.values())
    assert metrics["co3-downlink-payload-bytes"] == sum(map(len, frames)) <= 2 * parameters * 4 / 8
    sizes = [part.count_bytes() for message in grid.sent[2:] for part in message.content.values()]
    assert metrics["co3-downlink-message-bytes"] == sum(sizes)
    whole = result.train_metrics_clientapp[1]["co3-downlink-payload-bytes"]
    assert metrics["co3-downlink-payload-bytes"] < whole / 6  # type: ignore[operator]


def test_a_budget_of_nothing_brings_nothing_and_does_not_fail(model: Tensors) -> None:
    client = Client(1)
    nothing = CO3Config(rate=RateLimit(bytes_per_round=1))
    grid = LocalGrid({1: client})
    CO3Strategy(avg(), downlink=nothing).start(grid=grid, initial_arrays=record(model), num_rounds=3)
    assert_same(client.got[2], model)


@pytest.mark.parametrize(
    ("downlink", "words"), [("fp4", "must be a CO3Config or None"), (CO3Config(memory_decay=0.9), "must be 1, not 0.9")]
)
def test_what_cannot_be_a_downlink_is_refused(downlink: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CO3Strategy(avg(), downlink=downlink)


def test_without_a_downlink_messages_are_as_they_were(model: Tensors) -> None:
    grid = LocalGrid({1: Client(1)})
    CO3Strategy(avg()).start(grid=grid, initial_arrays=record(model), num_rounds=1)
    (message,) = grid.sent
    assert not {"co3-model", "co3-base"} & set(message.content.config_records["config"])
    assert len(grid.replies[0].content.metric_records["metrics"]["co3"]) == 3  # type: ignore[arg-type]
    assert set(grid.contexts[1].state) == {"co3-memory", "co3-run"}
