"""CO3Strategy: what it sends, what it makes of replies, and what it sets aside."""

import copy
import logging
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedXgbCyclic,
    Krum,
    QFedAvg,
    Result,
    Strategy,
)
from numpy.typing import NDArray

from flwr_co3._replies import DecodedArray
from flwr_co3.client import CO3Mod
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.frame import LAYERED, FrameReader
from flwr_co3.rate import RateLimit
from flwr_co3.server import CO3Strategy
from tests.flower.helpers import (
    EVERYTHING_EXACT,
    App,
    LocalGrid,
    Personal,
    Tensors,
    arrays,
    avg,
    frame_of,
    model_of,
    raising,
    record,
    reply_with_change,
    specs,
)

pytestmark = pytest.mark.usefixtures("task")

LOSSY = {"conv.weight", "fc.weight"}


def step(seed: int) -> Callable[[str, NDArray[Any]], NDArray[Any]]:
    """What one client changes in each tensor."""

    def change(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
        if tensor.dtype.kind != "f":
            return tensor + 1
        noise = np.random.default_rng([seed, len(name)]).laplace(scale=0.01, size=tensor.shape)
        return np.asarray(tensor + noise.astype(tensor.dtype))

    return change


def compressed(app: App) -> App:
    return lambda message, context: CO3Mod()(message, context, app)


def client(seed: int, examples: int = 10) -> App:
    return compressed(reply_with_change(step(seed), examples))


def uncompressed(seed: int, examples: int = 10) -> App:
    return reply_with_change(step(seed), examples)


def edited(app: App, edit: Callable[[RecordDict], None]) -> App:
    """A client whose reply is changed on its way."""

    def wrapped(message: Message, context: Context) -> Message:
        reply = app(message, context)
        content = reply.content.copy()
        for key, part in reply.content.items():
            content[key] = part.copy()
        edit(content)
        reply.content = content
        return reply

    return wrapped


def reframed(edit: Callable[[bytes], bytes]) -> Callable[[RecordDict], None]:
    def change(content: RecordDict) -> None:
        frame = edit(model_of(content)["co3"].data)
        content["arrays"] = ArrayRecord({"co3": Array("uint8", (len(frame),), "flwr_co3", frame)})

    return change


def run(strategy: Strategy, grid: LocalGrid, model: Tensors, rounds: int = 1, **kwargs: Any) -> Result:
    return strategy.start(grid=grid, initial_arrays=record(model), num_rounds=rounds, **kwargs)


def decoded_by_hand(reply: Message, model: Tensors) -> Tensors:
    """What a frame says: new values of exact tensors, updates of all others."""
    reader = FrameReader(frame_of(reply), like=specs(model))
    return {
        name: reader.read(name) if name in reader.exact else tensor + reader.read(name)
        for name, tensor in model.items()
    }


def assert_same(result: ArrayRecord, expected: Tensors) -> None:
    assert list(result) == list(expected)
    for name, array in arrays(result).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


def mean(models: list[Tensors], weights: list[float]) -> Tensors:
    total = sum(weights)
    return {
        name: np.asarray(sum(model[name] * (w / total) for model, w in zip(models, weights, strict=True)))
        for name in models[0]
    }


# What is sent


def test_each_message_carries_the_settings_and_the_users_config_stays(model: Tensors) -> None:
    config = CO3Config(format="fp8", rate=RateLimit(bits_per_parameter=2))
    strategy = CO3Strategy(avg(), config)
    mine = ConfigRecord({"lr": 0.1})
    first, second = strategy.configure_train(1, record(model), mine, LocalGrid({1: raising, 2: raising}))
    for message in (first, second):
        sent = message.content.config_records["config"]
        assert sent["lr"] == 0.1 and sent["server-round"] == 1
        assert CO3Config.from_json(str(sent["co3"])) == config
        assert sent is not mine
        assert model_of(message.content) == record(model)
    assert first.content["config"] is not second.content["config"]
    assert first.content["config"]["co3-run"] == second.content["config"]["co3-run"]
    assert set(mine) == {"lr", "server-round"}


def test_every_strategy_object_is_a_run_of_its_own(model: Tensors) -> None:
    runs = set()
    for _ in range(3):
        strategy = CO3Strategy(avg())
        for server_round in (1, 2):
            (message,) = strategy.configure_train(server_round, record(model), ConfigRecord(), LocalGrid({1: raising}))
            runs.add((server_round, message.content["config"]["co3-run"]))
    assert len(runs) == 6 and len({token for _, token in runs}) == 3


def test_a_message_without_config_gets_one(model: Tensors) -> None:
    class Bare(FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> list[Message]:
            messages = list(super().configure_train(*args, **kwargs))
            for message in messages:
                message.content = RecordDict({"arrays": message.content["arrays"]})
            return messages

    grid = LocalGrid({1: client(1), 2: client(2)})
    run(CO3Strategy(Bare(fraction_evaluate=0.0)), grid, model)
    assert all(frame_of(reply) for reply in grid.train_replies())


def test_a_round_without_messages_is_the_strategys_own(model: Tensors) -> None:
    strategy = CO3Strategy(avg(fraction_train=0.0))
    result = run(strategy, LocalGrid({1: raising}), model)
    assert not result.train_metrics_clientapp


# What is made of replies


def test_the_mean_of_exact_replies_is_exact(model: Tensors) -> None:
    examples = {1: 10, 2: 30, 3: 60}
    grid = LocalGrid({node: client(node, examples[node]) for node in examples})
    result = run(CO3Strategy(avg(), EVERYTHING_EXACT), grid, model)
    new = [{name: step(node)(name, tensor) for name, tensor in model.items()} for node in examples]
    assert_same(result.arrays, mean(new, list(examples.values())))


@pytest.mark.parametrize("config", [CO3Config(), CO3Config(rate=RateLimit(bits_per_parameter=5))])
def test_the_mean_of_lossy_replies(model: Tensors, config: CO3Config) -> None:
    grid = LocalGrid({1: client(1, 10), 2: client(2, 30)})
    result = run(CO3Strategy(avg(), config), grid, model)
    new = [decoded_by_hand(reply, model) for reply in grid.train_replies()]
    assert_same(result.arrays, mean(new, [10, 30]))
    np.testing.assert_array_equal(arrays(result.arrays)["bn.num_batches_tracked"], 8)


def test_several_rounds_of_memory_lose_nothing(model: Tensors) -> None:
    # The updates do not depend on the model here, so that what was not sent is what is still in memory.
    grid = LocalGrid({1: client(1)})
    rounds = 5
    result = run(CO3Strategy(avg()), grid, model, rounds=rounds)
    memory = arrays(grid.contexts[1].state.array_records["co3-memory"])
    final = arrays(result.arrays)
    for name in LOSSY:
        change = step(1)(name, np.zeros_like(model[name]))
        np.testing.assert_allclose(final[name] + memory[name], model[name] + rounds * change, atol=1e-5)


def test_a_client_that_is_not_sampled_keeps_its_memory(model: Tensors) -> None:
    class Alternating(FedAvg):
        def configure_train(self, server_round: int, *args: Any, **kwargs: Any) -> list[Message]:
            messages = super().configure_train(server_round, *args, **kwargs)
            return [m for m in messages if m.metadata.dst_node_id == 1 or server_round != 2]

    grid = LocalGrid({1: client(1), 2: client(2)})
    run(CO3Strategy(Alternating(fraction_evaluate=0.0)), grid, model, rounds=3)
    replies = [reply for reply in grid.train_replies() if reply.metadata.src_node_id == 2]
    asked = [specs(arrays(model_of(message.content))) for message in grid.sent if message.metadata.dst_node_id == 2]
    readers = [FrameReader(frame_of(reply), like=like) for reply, like in zip(replies, asked, strict=True)]
    assert len(readers) == 2
    sent = [reader.read("fc.weight") for reader in readers]
    memory = arrays(grid.contexts[2].state.array_records["co3-memory"])
    assert_close = np.testing.assert_allclose
    change = step(2)("fc.weight", np.zeros_like(model["fc.weight"]))
    assert_close(sent[0] + sent[1] + memory["fc.weight"], 2 * change, atol=1e-6)


def test_an_empty_update_is_no_change(model: Tensors) -> None:
    config = CO3Config(rate=RateLimit(bytes_per_round=1))
    grid = LocalGrid({1: client(1), 2: client(2)})
    result = run(CO3Strategy(avg(), config), grid, model)
    assert_same(result.arrays, model)
    assert result.train_metrics_clientapp[1]["co3-uplink-payload-bytes"] == 2


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_models_of_other_float_types(dtype: str) -> None:
    model: Tensors = {"w": np.linspace(-1, 1, 600).reshape(20, 30).astype(dtype)}
    grid = LocalGrid({1: client(1), 2: client(2)})
    result = run(CO3Strategy(avg()), grid, model)
    new = [decoded_by_hand(reply, model) for reply in grid.train_replies()]
    expected = mean(new, [1, 1])["w"]
    np.testing.assert_allclose(arrays(result.arrays)["w"], expected, atol=2e-3 if dtype == "float16" else 1e-6)
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 0


def test_models_that_differ_by_node(model: Tensors) -> None:
    grid = LocalGrid({1: client(1), 2: client(2)})
    result = run(CO3Strategy(Personal(fraction_evaluate=0.0)), grid, model)
    new = [
        decoded_by_hand(reply, {n: t + t.dtype.type(node) for n, t in model.items()})
        for node, reply in zip((1, 2), grid.train_replies(), strict=True)
    ]
    assert_same(result.arrays, mean(new, [1, 1]))


def test_two_messages_to_one_node_are_told_apart(model: Tensors) -> None:
    class Twice(FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> list[Message]:
            messages = [*super().configure_train(*args, **kwargs), *super().configure_train(*args, **kwargs)]
            for shift, message in enumerate(messages):
                shifted = {n: t + t.dtype.type(shift) for n, t in model.items()}
                message.content = RecordDict({**message.content, "arrays": record(shifted)})
            return messages

    twice = Twice(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    grid = LocalGrid({1: client(1)})
    result = run(CO3Strategy(twice, EVERYTHING_EXACT), grid, model)
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 0
    new = [{n: step(1)(n, t + t.dtype.type(shift)) for n, t in model.items()} for shift in (0, 1)]
    assert_same(result.arrays, mean(new, [1, 1]))


# Any strategy


def wrapped_and_plain(make: Callable[[], Strategy], model: Tensors, clients: int = 5) -> tuple[Result, Result]:
    """The result of three rounds with CO3 but without loss, and without CO3."""
    with_co3 = LocalGrid({node: client(node, 10 * node) for node in range(1, clients + 1)})
    without = LocalGrid({node: uncompressed(node, 10 * node) for node in range(1, clients + 1)})
    ours = run(CO3Strategy(make(), EVERYTHING_EXACT), with_co3, model, rounds=3)
    assert all(frame_of(reply) for reply in with_co3.train_replies())
    return ours, run(make(), without, model, rounds=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedAvg(fraction_evaluate=0.0),
        lambda: FedAvgM(fraction_evaluate=0.0, server_momentum=0.9),
        lambda: FedAdam(fraction_evaluate=0.0),
        lambda: FedMedian(fraction_evaluate=0.0),
        lambda: Krum(fraction_evaluate=0.0, num_malicious_nodes=1),
        lambda: QFedAvg(client_learning_rate=0.1, train_loss_key="loss", fraction_evaluate=0.0),
        lambda: DifferentialPrivacyServerSideFixedClipping(
            FedAvg(fraction_evaluate=0.0), noise_multiplier=0.0, clipping_norm=0.01, num_sampled_clients=5
        ),
    ],
    ids=["FedAvg", "FedAvgM", "FedAdam", "FedMedian", "Krum", "QFedAvg", "ServerSideFixedClipping"],
)
def test_any_strategy_gives_what_it_gives_without_co3(make: Callable[[], Strategy], model: Tensors) -> None:
    floats = {name: tensor for name, tensor in model.items() if tensor.dtype.kind == "f"}
    ours, plain = wrapped_and_plain(make, floats)
    assert_same(ours.arrays, arrays(plain.arrays))
    for server_round, metrics in plain.train_metrics_clientapp.items():
        kept = {k: v for k, v in ours.train_metrics_clientapp[server_round].items() if not k.startswith("co3")}
        assert kept == pytest.approx(dict(metrics))


def test_client_side_clipping(model: Tensors) -> None:
    floats = {name: tensor for name, tensor in model.items() if tensor.dtype.kind == "f"}

    def app(mods: list[Any]) -> App:
        app = ClientApp(mods=mods)
        app.train()(reply_with_change(step(1)))
        return app

    def strategy() -> Strategy:
        return DifferentialPrivacyClientSideFixedClipping(avg(), 0.0, clipping_norm=0.01, num_sampled_clients=1)

    ours = run(CO3Strategy(strategy(), EVERYTHING_EXACT), LocalGrid({1: app([CO3Mod(), fixedclipping_mod])}), floats)
    plain = run(strategy(), LocalGrid({1: app([fixedclipping_mod])}), floats)
    assert_same(ours.arrays, arrays(plain.arrays))


def test_what_a_strategy_takes_over_from_one_client_is_decoded(model: Tensors) -> None:
    # FedXgbCyclic returns a reply's own record; here it stands for any strategy that does so.
    strategy = FedXgbCyclic()
    grid = LocalGrid({1: client(1), 2: client(2)})
    result = run(CO3Strategy(strategy), grid, model)
    assert all(type(array) is Array for array in result.arrays.values())
    assert_same(result.arrays, decoded_by_hand(grid.train_replies()[0], model))


class Keeping(FedAvg):
    """Shows what it is given."""

    replies: list[Message]

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        self.replies = list(replies)
        return super().aggregate_train(server_round, self.replies)


def test_a_decoded_array_is_an_array_like_any_other(model: Tensors) -> None:
    strategy = Keeping(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    grid = LocalGrid({1: client(1)})
    run(CO3Strategy(strategy), grid, model)
    given = model_of(strategy.replies[0].content)
    expected = decoded_by_hand(grid.train_replies()[0], model)
    for name, array in given.items():
        assert isinstance(array, Array) and isinstance(array, DecodedArray)
        plain = Array(np.asarray(expected[name]))
        assert (array.dtype, array.shape, array.stype) == (plain.dtype, plain.shape, plain.stype)
        assert array.data == plain.data
        np.testing.assert_array_equal(np.load(BytesIO(array.data)), expected[name])
        assert array.deflate() == plain.deflate()
        assert array.object_id == plain.object_id
        array.numpy()[...] = 0  # a strategy may use the array that it gets as its own
        np.testing.assert_array_equal(array.numpy(), expected[name])
    assert given.count_bytes() == record(expected).count_bytes()
    assert copy.deepcopy(given) == given


def open_readers(strategy: Strategy, model: Tensors, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many replies held decoded symbols at once, and how often a frame was decoded."""
    holding: set[int] = set()
    seen = [0, 0]
    decode, close = FrameReader._decode, FrameReader.close

    def counted_decode(reader: FrameReader) -> Any:
        holding.add(id(reader))
        seen[0], seen[1] = max(seen[0], len(holding)), seen[1] + 1
        return decode(reader)

    def counted_close(reader: FrameReader) -> None:
        holding.discard(id(reader))
        close(reader)

    grid = LocalGrid({node: client(node) for node in range(1, 6)})
    with monkeypatch.context() as patch:
        patch.setattr(FrameReader, "_decode", counted_decode)
        patch.setattr(FrameReader, "close", counted_close)
        run(CO3Strategy(strategy), grid, model)
    assert not holding
    return seen[0], seen[1]


def test_one_replys_symbols_are_in_memory_at_once(model: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    most, decoded = open_readers(FedAvg(fraction_evaluate=0.0), model, monkeypatch)
    assert most == 1
    assert decoded == 5  # each is verified and added to the average at once


def test_a_strategy_that_goes_tensor_by_tensor_does_not_decode_each_anew(
    model: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, decoded = open_readers(FedMedian(fraction_evaluate=0.0), model, monkeypatch)
    assert decoded == 10


# What is set aside


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [entry for entry in caplog.records if (entry.name, entry.levelname) == ("flwr.co3", "WARNING")]


def test_a_round_with_garbage_an_error_and_a_client_without_the_mod(
    model: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    garbage = edited(client(3), reframed(lambda frame: frame[: len(frame) // 2] + b"garbage"))
    apps = {1: client(1, 10), 2: uncompressed(2, 20), 3: garbage, 4: compressed(raising), 5: client(5, 40)}
    grid = LocalGrid(apps)
    result = run(CO3Strategy(avg(), EVERYTHING_EXACT), grid, model)

    new = [{name: step(node)(name, tensor) for name, tensor in model.items()} for node in (1, 2, 5)]
    assert_same(result.arrays, mean(new, [10, 20, 40]))
    metrics = result.train_metrics_clientapp[1]
    assert (metrics["co3-replies"], metrics["co3-quarantined"], metrics["co3-uncompressed"]) == (4, 1, 1)
    (warning,) = warnings_of(caplog)
    assert "node 3" in warning.getMessage() and "checksum" in warning.getMessage()
    failures = [entry.getMessage() for entry in caplog.records if "Received error" in entry.getMessage()]
    assert any("node 3" in line and "Set aside" in line for line in failures)
    assert any("node 4" in line and "out of memory in layer 3" in line for line in failures)


def without_metrics(content: RecordDict) -> None:
    del content["metrics"]


def two_metric_records(content: RecordDict) -> None:
    content["more"] = MetricRecord({"loss": 1.0})


def no_arrays(content: RecordDict) -> None:
    del content["arrays"]


def two_array_records(content: RecordDict) -> None:
    content["more"] = ArrayRecord([np.ones(3)])


def another_record_name(content: RecordDict) -> None:
    content["model"] = content.pop("arrays")


def other_metrics(content: RecordDict) -> None:
    content.metric_records["metrics"]["accuracy"] = 0.5


def metric(key: str, value: Any) -> Callable[[RecordDict], None]:
    def change(content: RecordDict) -> None:
        content["metrics"][key] = value

    change.__name__ = f"{key}={value}"
    return change


def no_weight(content: RecordDict) -> None:
    del content["metrics"]["num-examples"]


def more_beside_the_frame(content: RecordDict) -> None:
    model_of(content)["more"] = Array(np.ones(3))


def not_bytes(content: RecordDict) -> None:
    content["arrays"] = ArrayRecord({"co3": Array("uint8", (3,), "flwr_co3", b"")})


def frame_for(tensors: Tensors) -> Callable[[RecordDict], None]:
    return reframed(lambda _: Codec(EVERYTHING_EXACT).encode(tensors))


BAD_REPLIES = [
    (without_metrics, "0 MetricRecords"),
    (two_metric_records, "2 MetricRecords"),
    (no_arrays, "0 ArrayRecords"),
    (two_array_records, "2 ArrayRecords"),
    (another_record_name, "'model'"),
    (other_metrics, "accuracy"),
    (no_weight, "'num-examples', the weight of the client, is None"),
    (metric("num-examples", [1, 2]), r"is [1, 2]"),
    (metric("num-examples", float("nan")), "is nan"),
    (metric("num-examples", -1), "is -1"),
    (more_beside_the_frame, "more than the one entry 'co3'"),
    (not_bytes, "no CO3 frame"),
    (reframed(lambda frame: frame[:-1]), "checksum"),
    (reframed(lambda frame: b"CO3\x63" + frame[4:]), "version 99"),
    (frame_for({"w": np.ones(3, np.float32)}), "'conv.weight'"),
]


@pytest.mark.parametrize(("edit", "words"), BAD_REPLIES, ids=[words for _, words in BAD_REPLIES])
def test_bad_replies_are_set_aside(
    model: Tensors, edit: Callable[[RecordDict], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The bad reply comes first: Flower takes the first as the measure of all.
    grid = LocalGrid({1: edited(client(1), edit), 2: client(2, 10), 3: client(3, 30)})
    result = run(CO3Strategy(avg()), grid, model)
    new = [decoded_by_hand(reply, model) for reply in grid.train_replies()[1:]]
    assert_same(result.arrays, mean(new, [10, 30]))
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 1
    (warning,) = warnings_of(caplog)
    assert "node 1" in warning.getMessage() and words in warning.getMessage()


def tensors_of(**changes: NDArray[Any] | None) -> Callable[[RecordDict], None]:
    """Change tensors of a reply that is not compressed."""

    def change(content: RecordDict) -> None:
        for name, tensor in changes.items():
            if tensor is None:
                del model_of(content)[name]
            else:
                model_of(content)[name] = Array(tensor)

    return change


def nan_in(name: str) -> Callable[[RecordDict], None]:
    def change(content: RecordDict) -> None:
        tensor = model_of(content)[name].numpy()
        tensor.flat[0] = np.nan
        model_of(content)[name] = Array(tensor)

    return change


def not_an_array(content: RecordDict) -> None:
    model_of(content)["fc.weight"] = Array("float32", (10, 40), "numpy.ndarray", b"not an array")


BAD_TENSORS = [
    (tensors_of(**{"fc.weight": np.ones((40, 10), np.float32)}), "shape (40, 10)"),
    (tensors_of(**{"fc.weight": None}), "'fc.weight'"),
    (tensors_of(more=np.ones(3)), "'more'"),
    (tensors_of(**{"fc.weight": np.full((10, 40), "a")}), "'fc.weight' does not hold finite numbers"),
    (nan_in("fc.weight"), "'fc.weight' does not hold finite numbers"),
    (not_an_array, ""),
]


@pytest.mark.parametrize(("edit", "words"), BAD_TENSORS, ids=range(len(BAD_TENSORS)))
def test_bad_replies_without_compression_are_set_aside(
    model: Tensors, edit: Callable[[RecordDict], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    grid = LocalGrid({1: edited(uncompressed(1), edit), 2: client(2)})
    result = run(CO3Strategy(avg(), EVERYTHING_EXACT), grid, model)
    assert_same(result.arrays, {name: step(2)(name, tensor) for name, tensor in model.items()})
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 1
    assert "node 1" in caplog.text and words in caplog.text


def test_a_frame_with_nan_in_an_exact_tensor_is_set_aside(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    # The codec refuses such a tensor, so a value is found in a frame and made NaN, and the checksum set right.
    import zlib

    mark = np.float32(1.2345678)

    def poison(frame: bytes) -> bytes:
        body = frame[:-4].replace(mark.tobytes(), np.float32(np.nan).tobytes())
        assert body != frame[:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    rng = np.random.default_rng(0)
    noise: Tensors = {"w": np.append(rng.normal(size=50), mark).astype(np.float32)}
    app = compressed(reply_with_change(lambda _, tensor: tensor))
    grid = LocalGrid({1: edited(app, reframed(poison)), 2: app})
    result = run(CO3Strategy(avg(), EVERYTHING_EXACT), grid, noise)
    assert_same(result.arrays, noise)
    assert "node 1" in caplog.text and "'w' does not hold finite numbers" in caplog.text


def test_a_frame_above_the_budget_is_set_aside(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    config = CO3Config(rate=RateLimit(bytes_per_round=400))

    def greedy(message: Message, context: Context) -> Message:
        message.content.config_records["config"]["co3"] = CO3Config(format="fp8").to_json()
        return client(1)(message, context)

    grid = LocalGrid({1: greedy, 2: client(2)})
    result = run(CO3Strategy(avg(), config), grid, model)
    assert_same(result.arrays, decoded_by_hand(grid.train_replies()[1], model))
    assert "more than the 400 that the rate allows" in caplog.text


def test_replies_to_an_earlier_round_and_of_nodes_not_asked_are_set_aside(
    model: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = CO3Strategy(avg())
    grid = LocalGrid({1: client(1), 2: client(2)})
    late = grid.send_and_receive(strategy.configure_train(1, record(model), ConfigRecord(), grid))
    grid = LocalGrid({2: client(2), 3: client(3)})
    replies = grid.send_and_receive(strategy.configure_train(2, record(model), ConfigRecord(), grid))
    result, _ = strategy.aggregate_train(2, [*late, *replies])
    assert result is not None
    new = [decoded_by_hand(replies_of(grid, node), model) for node in (2, 3)]
    assert_same(result, mean(new, [1, 1]))
    for node in (1, 2):
        assert f"node {node}: It answers no train message of this round" in caplog.text


def replies_of(grid: LocalGrid, node: int) -> Message:
    return next(reply for reply in grid.train_replies() if reply.metadata.src_node_id == node)


def test_a_reply_that_was_set_aside_is_an_error_message_of_its_node(model: Tensors) -> None:
    strategy = Keeping(fraction_evaluate=0.0)
    grid = LocalGrid({1: edited(client(1), no_arrays), 2: client(2)})
    run(CO3Strategy(strategy), grid, model)
    (failure,) = [reply for reply in strategy.replies if reply.has_error()]
    assert (failure.metadata.src_node_id, failure.metadata.dst_node_id) == (
        1,
        grid.sent[0].metadata.src_node_id,
    )
    assert failure.metadata.message_type == "train"
    assert failure.error.reason is not None and "0 ArrayRecords" in failure.error.reason


def test_when_all_replies_are_bad_the_model_stays_and_the_run_goes_on(model: Tensors) -> None:
    grid = LocalGrid({1: edited(client(1), no_arrays), 2: edited(client(2), without_metrics)})
    result = run(CO3Strategy(avg()), grid, model, rounds=2)
    assert not result.arrays
    assert result.train_metrics_clientapp[2]["co3-quarantined"] == 2
    assert_same(model_of(grid.sent[-1].content), model)


def test_a_strategy_that_does_not_weight_may_get_any_metrics(model: Tensors) -> None:
    class First(Strategy):
        """Takes what comes first."""

        def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:
            return avg().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            self.metrics = [sorted(reply.content.get("metrics", {})) for reply in replies]
            return model_of(replies[0].content), None

        def configure_evaluate(self, *_: object) -> list[Message]:
            return []

        def aggregate_evaluate(self, *_: object) -> None:
            return None

        def summary(self) -> None:
            pass

    strategy = First()
    grid = LocalGrid({1: edited(client(1), no_weight), 2: edited(client(2), without_metrics), 3: client(3)})
    result = run(CO3Strategy(strategy), grid, model)
    assert strategy.metrics == [["loss"], [], ["loss", "num-examples"]]
    assert_same(result.arrays, decoded_by_hand(grid.train_replies()[0], model))
    assert result.train_metrics_clientapp[1]["co3-replies"] == 3


# Metrics


def test_the_metrics_of_a_round(model: Tensors) -> None:
    grid = LocalGrid({1: client(1, 10), 2: client(2, 30), 3: uncompressed(3)})
    metrics = dict(run(CO3Strategy(avg()), grid, model).train_metrics_clientapp[1])
    replies = grid.train_replies()

    def size(messages: list[Message]) -> int:
        return sum(part.count_bytes() for message in messages for part in message.content.values())

    frames = [frame_of(reply) for reply in replies[:2]]
    raw = sum(len(array.data) for array in model_of(replies[2].content).values())
    payload = sum(map(len, frames)) + raw
    parameters = 3 * sum(tensor.size for tensor in model.values())
    statistics = np.array([reply.content.metric_records["metrics"]["co3"] for reply in replies[:2]])

    assert metrics.pop("loss") == 1.0
    assert metrics.pop("co3-decode-seconds") > 0  # type: ignore[operator]
    assert metrics == pytest.approx(
        {
            "co3-uplink-payload-bytes": payload,
            "co3-uplink-message-bytes": size(replies),
            "co3-downlink-payload-bytes": 3 * sum(len(array.data) for array in record(model).values()),
            "co3-downlink-message-bytes": size(grid.sent),
            "co3-bits-per-parameter": 8 * payload / parameters,
            "co3-compression-ratio": 4 * parameters / payload,
            "co3-nmse": statistics[:, 0].mean(),
            "co3-encode-seconds": statistics[:, 1].mean(),
            "co3-memory-norm": statistics[:, 2].mean(),
            "co3-replies": 3,
            "co3-quarantined": 0,
            "co3-uncompressed": 1,
            "co3-empty": 0,
        }
    )


def test_metrics_come_also_when_the_strategy_has_none(model: Tensors) -> None:
    class Silent(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> tuple[ArrayRecord | None, None]:
            return super().aggregate_train(server_round, replies)[0], None

    grid = LocalGrid({1: client(1), 2: client(2)})
    result = run(CO3Strategy(Silent(fraction_evaluate=0.0)), grid, model)
    assert result.train_metrics_clientapp[1]["co3-replies"] == 2


def test_statistics_that_make_no_sense_are_left_out(model: Tensors) -> None:
    grid = LocalGrid({1: edited(client(1), metric("co3", [float("inf"), 1.0, 1.0])), 2: client(2)})
    metrics = run(CO3Strategy(avg()), grid, model).train_metrics_clientapp[1]
    assert metrics["co3-quarantined"] == 0
    assert metrics["co3-nmse"] == grid.train_replies()[1].content.metric_records["metrics"]["co3"][0]  # type: ignore[index]


def test_empty_texts_in_records_are_counted(model: Tensors) -> None:
    # Flower 1.41 cannot count the bytes of "" and [].
    def note(content: RecordDict) -> None:
        content["notes"] = ConfigRecord({"text": "", "list": [], "more": "abc"})

    grid = LocalGrid({1: edited(client(1), note)})
    metrics = run(CO3Strategy(avg()), grid, model).train_metrics_clientapp[1]
    (reply,) = grid.train_replies()
    counted = reply.content["arrays"].count_bytes() + reply.content["metrics"].count_bytes()
    assert metrics["co3-uplink-message-bytes"] == counted + len("text" + "list" + "more" + "abc")


# As a Flower strategy


def test_evaluation_is_the_strategys_own(model: Tensors) -> None:
    def evaluate(message: Message, context: Context) -> Message:
        assert "co3" not in message.content.config_records["config"]
        content = RecordDict({"metrics": MetricRecord({"num-examples": 1, "accuracy": 0.5})})
        return Message(content, reply_to=message)

    def app(message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        return evaluate(message, context) if kind == "evaluate" else client(1)(message, context)

    strategy = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    central = [MetricRecord({"accuracy": 0.25}), MetricRecord({"accuracy": 0.75})]
    result = run(CO3Strategy(strategy), LocalGrid({1: app}), model, evaluate_fn=lambda r, _: central[r])
    assert result.evaluate_metrics_clientapp[1] == {"accuracy": 0.5}
    assert result.evaluate_metrics_serverapp == dict(enumerate(central))


def test_a_strategys_own_start_runs_with_co3s_steps(model: Tensors) -> None:
    class Saving(FedAvg):
        """As in Flower's examples: start() does something with each run's result."""

        saved: Result | None = None
        summaries = 0

        def start(self, *args: Any, **kwargs: Any) -> Result:
            self.saved = super().start(*args, **kwargs)
            return self.saved

        def summary(self) -> None:
            self.summaries += 1

    strategy = Saving(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    grid = LocalGrid({1: client(1)})
    result = run(CO3Strategy(strategy), grid, model)
    assert strategy.saved is result
    assert strategy.summaries == 1
    assert_same(result.arrays, decoded_by_hand(grid.train_replies()[0], model))
    assert result.train_metrics_clientapp[1]["co3-replies"] == 1
    assert not vars(strategy).keys() & {"configure_train", "aggregate_train", "summary"}


def test_attributes_of_the_strategy_can_be_read() -> None:
    strategy = CO3Strategy(avg(weighted_by_key="size"))
    assert strategy.weighted_by_key == "size"
    with pytest.raises(AttributeError, match="'FedAvg' object has no attribute 'nothing'"):
        _ = strategy.nothing
    assert copy.deepcopy(strategy).fraction_evaluate == 0.0


def test_the_weight_key_of_a_wrapped_strategy_is_found(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    inner = DifferentialPrivacyServerSideFixedClipping(avg(weighted_by_key="size"), 0.0, 1.0, 1)
    run(CO3Strategy(inner), LocalGrid({1: client(1)}), model)
    assert "'size', the weight of the client, is None" in caplog.text


def test_the_summary_names_the_settings_and_then_the_strategys(caplog: pytest.LogCaptureFixture) -> None:
    strategy = CO3Strategy(avg(), CO3Config(format="fp8", memory_decay=0.9))
    caplog.clear()
    with caplog.at_level(logging.INFO, "flwr"):
        strategy.summary()
    lines = [entry.getMessage() for entry in caplog.records]
    assert lines[0] == "\t├──> CO3 settings:"
    assert "fp8" in lines[1] and "rans" in lines[1]
    assert "not limited" in lines[2]
    assert "0.9" in lines[4]
    assert "Downlink: whole models" in lines[5]
    assert "Sampling" in lines[6]


def test_wrapping_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="a CO3Strategy already"):
        CO3Strategy(CO3Strategy(FedAvg()))
    hidden = DifferentialPrivacyServerSideFixedClipping(CO3Strategy(FedAvg()), 0.0, 1.0, 1)
    with pytest.raises(ValueError, match="a CO3Strategy already"):
        CO3Strategy(hidden)


def test_a_strategy_of_the_older_api_is_refused() -> None:
    with pytest.raises(ValueError, match=r"flwr_co3\.legacy.CO3LegacyStrategy"):
        CO3Strategy(LegacyFedAvg())  # type: ignore[arg-type]


def test_a_config_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a CO3Config, not \{\}"):
        CO3Strategy(FedAvg(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [FedAvg, FedMedian])
def test_updates_in_layers_are_aggregated_like_others(model: Tensors, strategy: type[FedAvg]) -> None:
    """Both ways: added as they come in, and tensor by tensor."""
    wide = CO3Config(rate=RateLimit(bits_per_parameter=24))
    alone: dict[str, Any] = {"min_train_nodes": 1, "min_available_nodes": 1}
    grid = LocalGrid({node: client(node) for node in (1, 2, 3)})
    result = run(CO3Strategy(strategy(fraction_evaluate=0.0, **alone), wide), grid, model)
    frames = [frame_of(reply) for reply in grid.replies]
    assert all(frame[3] == LAYERED and len(frame) <= 3 * sum(t.size for t in model.values()) for frame in frames)
    plain = run(
        strategy(fraction_evaluate=0.0, **alone), LocalGrid({node: uncompressed(node) for node in (1, 2, 3)}), model
    )
    for name, array in arrays(result.arrays).items():
        tolerance = 0 if name.startswith("bn") else 2e-5
        np.testing.assert_allclose(array, arrays(plain.arrays)[name], rtol=0, atol=tolerance, err_msg=name)
