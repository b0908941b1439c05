"""Directions from the server to its clients, and updates by them back."""

import copy
import logging
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import FedAdam, FedMedian, Strategy
from numpy.typing import NDArray

from flwr_co3 import CO3Config, CO3Mod, CO3Strategy, Codec, RateLimit
from flwr_co3.correct import Kept, LastUpdate, MemoryStore
from flwr_co3.legacy import CO3LegacyStrategy
from flwr_co3.schedules import linear
from flwr_co3.subspace import Subspace, SubspaceReader
from tests.flower.helpers import (
    EVERYTHING_EXACT,
    LocalGrid,
    Personal,
    Tensors,
    arrays,
    avg,
    frame_of,
    memory_of,
    model_of,
    record,
    reply_with_change,
    specs,
)
from tests.flower.test_client import train
from tests.flower.test_server import assert_same, client, compressed, edited, mean, reframed, run, uncompressed

pytestmark = pytest.mark.usefixtures("task")

LIMIT = 260
FEW = CO3Config(rate=RateLimit(bytes_per_round=LIMIT), subspace=4)
EXACT = {"fc.bias", "bn.running_mean", "bn.num_batches_tracked"}


def directions_in(message: Message) -> bytes:
    data = message.content.config_records["config"]["co3-directions"]
    assert isinstance(data, bytes)
    return data


def decoded(message: Message, reply: Message, model: Tensors) -> Tensors:
    """What a client's frame says: new values of exact tensors, updates of all others."""
    told = Subspace.read(directions_in(message), specs(model), EXACT)
    reader = SubspaceReader(frame_of(reply), told)
    return {n: reader.read(n) if n in reader.exact else t + reader.read(n) for n, t in model.items()}


@pytest.fixture
def model(model: Tensors) -> Tensors:
    del model["bn.running_mean"]  # nearly all of the frames
    return model


@pytest.mark.parametrize("examples", [(10, 30), (10, 10)])
def test_the_mean_of_updates_by_directions(model: Tensors, examples: tuple[int, int]) -> None:
    grid = LocalGrid({k: client(k, n) for k, n in enumerate(examples, 1)})
    strategy = CO3Strategy(avg(), FEW)
    result = run(strategy, grid, model)
    replies = [decoded(message, reply, model) for message, reply in zip(grid.sent, grid.train_replies(), strict=True)]
    assert_same(result.arrays, mean(replies, list(examples)))
    metrics = result.train_metrics_clientapp[1]
    assert metrics["co3-quarantined"] == 0
    assert all(len(frame_of(reply)) <= LIMIT for reply in grid.train_replies())
    sent = sum(len(array.data) for message in grid.sent for array in model_of(message.content).values())
    told = sum(len(directions_in(message)) for message in grid.sent)
    assert metrics["co3-downlink-payload-bytes"] == sent + told


@pytest.mark.parametrize("strategy", [FedMedian, FedAdam])
def test_other_strategies_get_the_clients_weights(model: Tensors, strategy: type[Strategy]) -> None:
    floats = {name: tensor for name, tensor in model.items() if tensor.dtype.kind == "f"}
    grid = LocalGrid({k: client(k) for k in (1, 2, 3)})
    inner: Any = strategy(fraction_evaluate=0.0)  # type: ignore[call-arg]
    result = run(CO3Strategy(inner, FEW), grid, floats, rounds=3)
    assert all(metrics["co3-quarantined"] == 0 for metrics in result.train_metrics_clientapp.values())
    assert all(np.isfinite(tensor).all() for tensor in arrays(result.arrays).values())


def drift(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """A step in the same few directions each time."""
    if tensor.dtype.kind != "f" or tensor.ndim < 2:
        return tensor
    rng, rows = np.random.default_rng(len(name)), tensor.shape[0]
    few = 0.01 * rng.normal(size=(rows, 2)) @ rng.normal(size=(2, tensor[0].size))
    return np.asarray(tensor + few.reshape(tensor.shape), tensor.dtype)


drifting = compressed(reply_with_change(drift))


def nmse_of(metrics: MetricRecord) -> float:
    nmse = metrics["co3-nmse"]
    assert isinstance(nmse, float)
    return nmse


def test_directions_are_those_in_which_the_model_moved(model: Tensors) -> None:
    """In the first round there are none; then what all clients do alike is known, and is lost no more."""
    grid = LocalGrid({1: drifting, 2: drifting})
    result = run(CO3Strategy(avg(), FEW), grid, model, rounds=8)
    last = directions_in(grid.sent[-1])
    losses = [nmse_of(metrics) for metrics in result.train_metrics_clientapp.values()]
    grid = LocalGrid({1: drifting, 2: drifting})
    plain = run(CO3Strategy(avg(), CO3Config(rate=FEW.rate)), grid, model, rounds=8)
    assert losses[-1] < 0.5 * losses[0] and losses[-1] < 0.5 * nmse_of(plain.train_metrics_clientapp[8])
    told = Subspace.read(last, specs(model), EXACT)
    moved = arrays(result.arrays)["fc.weight"] - model["fc.weight"]
    assert told.layout.ranks("fc.weight")[0] == 4
    held = told.encode({**model, "fc.weight": moved}, FEW, 4000).update["fc.weight"]
    assert np.sum((moved - held) ** 2) < 0.1 * np.sum(moved**2)


def test_memories_keep_what_was_not_sent(model: Tensors) -> None:
    grid = LocalGrid({1: client(1)})
    result = run(CO3Strategy(avg(), FEW), grid, model, rounds=5)
    without_loss = run(CO3Strategy(avg(), EVERYTHING_EXACT), LocalGrid({1: client(1)}), model, rounds=5)
    for name, error in memory_of(grid.contexts[1]).items():
        total = arrays(result.arrays)[name] + error
        np.testing.assert_allclose(total, arrays(without_loss.arrays)[name], atol=1e-5)


def test_clients_without_the_mod_are_accepted_as_they_are(model: Tensors) -> None:
    grid = LocalGrid({1: client(1), 2: uncompressed(2)})
    result = run(CO3Strategy(avg(), FEW), grid, model)
    metrics = result.train_metrics_clientapp[1]
    assert (metrics["co3-uncompressed"], metrics["co3-quarantined"]) == (1, 0)
    ours = decoded(grid.sent[0], grid.train_replies()[0], model)
    assert_same(result.arrays, mean([ours, arrays(model_of(grid.train_replies()[1].content))], [10, 10]))


def test_nodes_with_other_limits_have_other_directions_of_their_own(model: Tensors) -> None:
    def rates(round: int, node: int) -> RateLimit | None:
        return {1: RateLimit(bytes_per_round=150), 2: RateLimit(bytes_per_round=900), 3: None}[node]

    grid = LocalGrid({k: client(k) for k in (1, 2, 3)})
    result = run(CO3Strategy(avg(), CO3Config(rate=rates, subspace=4)), grid, model)
    new = [message.content.config_records["config"].get("co3-directions") for message in grid.sent]
    assert isinstance(new[0], bytes) and isinstance(new[1], bytes) and new[2] is None
    assert new[0][1] < new[1][1] and new[0][2:] == new[1][2:]
    frames = [len(frame_of(reply)) for reply in grid.train_replies()]
    assert frames[0] <= 150 < frames[1] <= 900
    metrics = result.train_metrics_clientapp[1]
    assert metrics["co3-quarantined"] == 0


def test_limits_may_be_schedules_and_the_clients_own(model: Tensors) -> None:
    rate = RateLimit(bytes_per_round=linear(start=200, end=800, rounds=3))
    mod = CO3Mod(rate=RateLimit(bytes_per_round=500))
    grid = LocalGrid({1: lambda message, context: mod(message, context, train)})
    run(CO3Strategy(avg(), CO3Config(rate=rate, subspace=4)), grid, model, rounds=3)
    first, second, third = (len(frame_of(reply)) for reply in grid.train_replies())
    assert first <= 200 < second <= 500 and 200 < third <= 500


def test_models_may_come_by_the_downlink_in_frames(model: Tensors) -> None:
    floats = {name: tensor for name, tensor in model.items() if tensor.dtype.kind == "f"}
    grid = LocalGrid({1: client(1), 2: client(2)})
    downlink = CO3Config(rate=RateLimit(bytes_per_round=400))
    result = run(CO3Strategy(avg(), FEW, downlink), grid, floats, rounds=6)
    assert all(metrics["co3-quarantined"] == 0 for metrics in result.train_metrics_clientapp.values())
    assert all(set(model_of(message.content)) != set(floats) for message in grid.sent[2:])


def test_nodes_with_models_of_their_own_send_updates_entry_by_entry(model: Tensors) -> None:
    grid = LocalGrid({1: client(1), 2: client(2)})
    result = run(CO3Strategy(Personal(fraction_evaluate=0.0), FEW), grid, model)
    assert "co3-directions" not in grid.sent[0].content.config_records["config"]
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 0


def refused(grid: LocalGrid, model: Tensors, caplog: pytest.LogCaptureFixture) -> str:
    """The reason for which the reply of the second of two nodes is set aside."""
    with caplog.at_level(logging.WARNING, "flwr.co3"):
        result = run(CO3Strategy(avg(), FEW), grid, model)
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 1
    return caplog.text


def test_a_frame_above_the_limit_is_set_aside(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    grid = LocalGrid({1: client(1), 2: edited(client(2), reframed(lambda frame: frame + bytes(LIMIT)))})
    assert f"more than the {LIMIT} that the rate allows" in refused(grid, model, caplog)


def test_a_damaged_frame_is_set_aside(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    grid = LocalGrid({1: client(1), 2: edited(client(2), reframed(lambda frame: frame[:-1] + b"!"))})
    assert "set aside the reply of node 2" in refused(grid, model, caplog)


def test_a_frame_of_entries_is_set_aside(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    config = CO3Config(rate=RateLimit(bytes_per_round=LIMIT))
    update = {name: np.ones_like(tensor) for name, tensor in model.items()}
    plain = Codec(config).compress(update, known=True).frame
    grid = LocalGrid({1: client(1), 2: edited(client(2), reframed(lambda frame: plain))})
    assert "set aside the reply of node 2" in refused(grid, model, caplog)


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x00", b"\x04\x01junk", "text"])
def test_directions_that_are_none_cost_an_answer_and_no_memory(model: Tensors, data: Any) -> None:
    grid, mod = LocalGrid({1: client(1)}), CO3Mod()
    run(CO3Strategy(avg(), FEW), grid, model, rounds=2)
    ctx = grid.contexts[1]
    before = {name: error.copy() for name, error in memory_of(ctx).items()}
    broken = copy.deepcopy(grid.sent[-1])
    config = broken.content.config_records["config"]
    config["co3-directions"], config["co3-turn"] = data, int(config["co3-turn"]) + 1  # type: ignore[arg-type]
    reply = mod(broken, ctx, train)
    assert reply.has_error() and reply.error.reason
    for name, error in memory_of(ctx).items():
        np.testing.assert_array_equal(error, before[name])


def test_a_store_keeps_the_directions_of_the_last_update(tmp_path: Any) -> None:
    store = MemoryStore(tmp_path)
    for told in (None, b"\x04\x01\x00"):
        last = LastUpdate(7, b"name", b"frame", told)
        store.save("key", Kept({"w": np.ones(3, "f4")}, last))
        found = store.load("key")
        assert found is not None and found.last == last


def test_legacy_strategies_refuse_it() -> None:
    with pytest.raises(ValueError, match="CO3Config subspace needs CO3Strategy"):
        CO3LegacyStrategy(LegacyFedAvg(), FEW)


def test_an_empty_update_stays_in_the_memory(model: Tensors) -> None:
    grid = LocalGrid({1: client(1)})
    result = run(CO3Strategy(avg(), CO3Config(rate=RateLimit(bytes_per_round=5), subspace=4)), grid, model)
    assert result.train_metrics_clientapp[1]["co3-empty"] == 1
    assert_same(result.arrays, model)
    assert record(memory_of(grid.contexts[1])).keys() == {"conv.weight", "fc.weight"}


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_models_of_other_float_types(model: Tensors, dtype: str) -> None:
    other = {n: t.astype(dtype) for n, t in model.items() if t.dtype.kind == "f"}
    grid = LocalGrid({1: drifting, 2: drifting})
    result = run(CO3Strategy(avg(), FEW), grid, other, rounds=4)
    assert all(metrics["co3-quarantined"] == 0 for metrics in result.train_metrics_clientapp.values())
    assert nmse_of(result.train_metrics_clientapp[4]) < 0.5


def test_a_model_without_matrices_is_sent_as_it_is() -> None:
    vectors: Tensors = {"a": np.zeros(300, "f4"), "b": np.ones((3, 50), "f4")}
    grid = LocalGrid({1: client(1), 2: client(2)})
    result = run(CO3Strategy(avg(), FEW), grid, vectors, rounds=2)
    assert all(metrics["co3-quarantined"] == 0 for metrics in result.train_metrics_clientapp.values())
    assert not np.array_equal(arrays(result.arrays)["a"], vectors["a"])


def test_a_round_goes_on_where_no_directions_are_found(
    model: Tensors, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> bytes:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr("flwr_co3._directions.directions_of", failing)
    grid = LocalGrid({1: client(1)})
    with caplog.at_level(logging.WARNING, "flwr.co3"):
        result = run(CO3Strategy(avg(), FEW), grid, model)
    assert "finds no directions in this round's model" in caplog.text
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 0
    assert nmse_of(result.train_metrics_clientapp[1]) < 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_model_that_diverged_has_no_directions(model: Tensors, value: float) -> None:
    strategy = CO3Strategy(avg(), FEW)
    grid = LocalGrid({1: client(1)})
    run(strategy, grid, model, rounds=2)
    broken = {**model, "fc.weight": np.full_like(model["fc.weight"], value)}
    messages = list(strategy.configure_train(3, record(broken), ConfigRecord(), grid))
    again = list(strategy.configure_train(4, record(model), ConfigRecord(), grid))
    for message in (*messages, *again):
        told = Subspace.read(directions_in(message), specs(model), EXACT)
        assert all(np.isfinite(array).all() for array in told.directions.values())
