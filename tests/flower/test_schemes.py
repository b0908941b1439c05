"""Every scheme from end to end: CO3Mod on the clients, CO3Strategy on the server, no processes."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import FedAvg

from flwr_co3 import CO3Config, CO3Mod, CO3Strategy, FrameReader, RateLimit, TensorSpec
from flwr_co3.frame import VERSION
from flwr_co3.legacy import CO3LegacyStrategy
from flwr_co3.schemes import Scheme, make_scheme
from flwr_co3.schemes.body import Body, Message, write_body
from flwr_co3.schemes.countsketch import sketch, unsketched
from flwr_co3.schemes.scheme import CLIENT
from flwr_co3.schemes.server import Received
from tests.flower.helpers import App, LocalGrid, Tensors, arrays, frame_of, record, reply_with
from tests.schemes.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("task")

ROUNDS = 3
WEIGHTS = {1: 10, 2: 30}


def model() -> Tensors:
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=(50, 40)).astype("f4"), "b": rng.normal(size=30).astype("f4"), "n": np.array(3)}


def unsorted_model() -> Tensors:
    """Floats alone, their names not in the order of the alphabet: frames sort those, and leave out their table."""
    return {"z": np.ones(70, "f4"), "a": np.zeros((5, 8), "f4"), "m": np.ones(50, "f4")}


def gradient(node: int, turn: int) -> Tensors:
    rng = np.random.default_rng([node, turn])
    return {"w": 1e-2 * rng.laplace(size=(50, 40)).astype("f4"), "b": 1e-2 * rng.normal(size=30).astype("f4")}


def client(node: int, mod: CO3Mod | None = None) -> App:
    turns = iter(range(100))

    def train(message: Any, context: Any) -> Any:
        received = arrays(next(iter(message.content.array_records.values())))
        change = gradient(node, next(turns))
        new = {name: tensor + change.get(name, 0) for name, tensor in received.items()}
        return reply_with(new, {"num-examples": WEIGHTS[node], "train-loss": 0.4})(message, context)

    return lambda message, context: (mod or CO3Mod())(message, context, train)


class Run:
    """Rounds of training, and what went over the wire."""

    def __init__(self, config: CO3Config, rounds: int = ROUNDS) -> None:
        self.grid = LocalGrid({node: client(node) for node in WEIGHTS})
        self.strategy = CO3Strategy(FedAvg(fraction_evaluate=0.0, min_available_nodes=2), config)
        self.models: list[Tensors] = [model()]
        result = self.strategy.start(
            grid=self.grid,
            initial_arrays=record(model()),
            num_rounds=rounds,
            evaluate_fn=lambda turn, new: self.models.append(arrays(new)) if turn else None,
        )
        self.metrics = result.train_metrics_clientapp
        replies = self.grid.train_replies()
        assert not any(reply.has_error() for reply in replies), [r.error for r in replies if r.has_error()]
        self.frames = [frame_of(reply) for reply in replies]

    def decoded(self, turn: int) -> list[Tensors]:
        like = {name: TensorSpec.of(tensor) for name, tensor in self.models[turn].items()}
        readers = [FrameReader(frame, like=like) for frame in self.frames[2 * turn : 2 * turn + 2]]
        return [reader.read_all() for reader in readers]

    def memory(self, node: int) -> Tensors:
        state: ArrayRecord = self.grid.contexts[node].state.array_records["co3-memory"]
        return arrays(state)


def mean(updates: list[Tensors], name: str) -> Any:
    weights = list(WEIGHTS.values())
    return sum(w * u[name].astype("f8") for w, u in zip(weights, updates, strict=True)) / sum(weights)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_scheme_trains_from_end_to_end(name: str) -> None:
    scheme = VARIANTS[name]
    run = Run(CO3Config(scheme=scheme))
    for turn in range(ROUNDS):
        metrics = run.metrics[turn + 1]
        sizes = [len(frame) for frame in run.frames[2 * turn : 2 * turn + 2]]
        assert metrics["co3-uplink-payload-bytes"] == sum(sizes)
        assert metrics["co3-quarantined"] == metrics["co3-uncompressed"] == 0
        if scheme.memory == CLIENT:
            for tensor in ("w", "b"):
                moved = run.models[turn + 1][tensor] - run.models[turn][tensor]
                np.testing.assert_allclose(moved, mean(run.decoded(turn), tensor), atol=1e-6)
    if scheme.memory == CLIENT:  # what was sent and what is kept is what training gave
        for k, node in enumerate(WEIGHTS):
            for tensor in ("w", "b"):
                sent = sum(run.decoded(turn)[k][tensor].astype("f8") for turn in range(ROUNDS))
                given = sum(gradient(node, turn)[tensor].astype("f8") for turn in range(ROUNDS))
                np.testing.assert_allclose(sent + run.memory(node)[tensor], given, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_message_is_above_its_budget(name: str) -> None:
    run = Run(CO3Config(scheme=VARIANTS[name], rate=RateLimit(bits_per_parameter=1.2)), rounds=2)
    assert max(map(len, run.frames)) <= 1.2 * 2031 / 8


def test_ef21s_server_and_clients_hold_the_same_estimate() -> None:
    run = Run(CO3Config(scheme=make_scheme("ef21", share=0.1)), rounds=5)
    estimates = {node: np.zeros((50, 40)) for node in WEIGHTS}
    for turn in range(5):
        for node, change in zip(WEIGHTS, run.decoded(turn), strict=True):
            difference = gradient(node, turn)["w"] - estimates[node]
            kept = change["w"] != 0
            np.testing.assert_allclose(change["w"][kept], difference[kept], rtol=1e-3, atol=1e-6)
            estimates[node] += change["w"]
        moved = run.models[turn + 1]["w"] - run.models[turn]["w"]
        expected = sum(WEIGHTS[node] * estimates[node] for node in WEIGHTS) / 40
        np.testing.assert_allclose(moved, expected, atol=1e-6)
    for node in WEIGHTS:
        np.testing.assert_allclose(-run.memory(node)["w"], estimates[node], atol=1e-6)


@pytest.mark.parametrize("counted", [False, True], ids=["floats alone", "with an integer"])
@pytest.mark.parametrize("scheme", [make_scheme("ef21", share=1.0), make_scheme("countsketch", cells=4.0, share=1.0)])
def test_a_scheme_with_state_on_the_server_knows_tensors_by_their_names(scheme: Scheme, counted: bool) -> None:
    start = {**unsorted_model(), **({"n": np.array(3)} if counted else {})}
    change = {name: np.full(start[name].shape, k + 1.0, "f4") for k, name in enumerate(("z", "a", "m"))}

    def train(message: Any, context: Any) -> Any:
        received = arrays(next(iter(message.content.array_records.values())))
        new = {name: tensor + change.get(name, 0) for name, tensor in received.items()}
        return reply_with(new)(message, context)

    grid = LocalGrid({1: lambda message, context: CO3Mod()(message, context, train)})
    strategy = CO3Strategy(
        FedAvg(fraction_evaluate=0.0, min_available_nodes=1, min_train_nodes=1), CO3Config(scheme=scheme)
    )
    result = strategy.start(grid=grid, initial_arrays=record(start), num_rounds=1)
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 0
    for name, tensor in arrays(result.arrays).items():
        if name in change:  # a sketch's medians may be off for a few
            assert np.median(tensor - start[name]) == pytest.approx(change[name].flat[0], abs=1e-6)


def test_fetchsgd_is_what_its_authors_run() -> None:
    scheme = make_scheme("countsketch", cells=0.5, share=0.04, momentum=0.9)
    run = Run(CO3Config(scheme=scheme), rounds=4)
    columns = round(0.5 * 2030 / 5)
    momentum, error = np.zeros((5, columns)), np.zeros((5, columns))
    for turn in range(4):
        updates = [gradient(node, turn) for node in WEIGHTS]
        flat = np.concatenate([mean(updates, "w").reshape(-1), mean(updates, "b")])
        momentum = 0.9 * momentum + sketch(flat, 5, columns)
        error = error + momentum
        found = unsketched(error, 2030, 0.02)
        momentum[sketch(found, 5, columns) != 0] = error[sketch(found, 5, columns) != 0] = 0
        moved = run.models[turn + 1]["w"] - run.models[turn]["w"]
        np.testing.assert_allclose(moved.reshape(-1), found[:2000], atol=2e-6)


def test_adaquantfls_levels_follow_the_loss() -> None:
    strategy = CO3Strategy(FedAvg(), CO3Config(scheme=make_scheme("adaquantfl", levels=3)))
    side = strategy._side
    assert side is not None
    told = []
    for loss in (4.0, 1.0, 0.25, float("nan"), 16.0):
        told.append(getattr(side.scheme, "levels"))  # noqa: B009
        side.commit({"train-loss": loss})
    assert told == [3, 3, 6, 12, 12] and getattr(side.scheme, "levels") == 1.5  # noqa: B009


def test_a_round_without_a_model_did_not_happen() -> None:
    scheme = make_scheme("ef21", share=1.0)
    v = np.arange(6.0)
    models, coded, _ = write_body(Message(scheme, scheme.encode([v], np.random.default_rng(0), False), 0, True))
    body = Body(memoryview(models), memoryview(b"".join(coded)), [6], version=VERSION)
    side = scheme.server()
    assert side is not None
    change = Received("1", 1.0, body, [6])
    assert np.array_equal(side.restate([change])[0][0], v)  # type: ignore[index]
    stale = change._replace(
        body=Body(memoryview(models[:5] + b"\0" + models[6:]), memoryview(b"".join(coded)), [6], version=VERSION)
    )
    with pytest.raises(ValueError, match="does not hold"):
        side.accept(stale)
    side.commit({})
    side.accept(stale)
    assert np.array_equal(side.restate([stale])[0][0], 2 * v)  # type: ignore[index]


@pytest.mark.parametrize("scheme", [make_scheme(name) for name in ("ef21", "countsketch", "adaquantfl")])
def test_what_cannot_work_is_refused(scheme: Scheme) -> None:
    progress = CO3Strategy(FedAvg(), CO3Config()).progress
    with pytest.raises(ValueError, match="keeps state on the server that `progress` does not hold"):
        CO3Strategy(FedAvg(), CO3Config(scheme=scheme), resume=progress)
    with pytest.raises(ValueError, match="keeps state on the server, for which CO3LegacyStrategy has no place"):
        CO3LegacyStrategy(LegacyFedAvg(), CO3Config(scheme=scheme))
    with pytest.raises(ValueError, match="can't be the downlink's"):
        CO3Strategy(FedAvg(), downlink=CO3Config(scheme=scheme))


def test_a_frame_of_another_scheme_is_set_aside() -> None:
    class Disobedient(CO3Mod):
        def __call__(self, message: Any, context: Any, call_next: Any) -> Any:
            for config in message.content.config_records.values():
                config["co3"] = CO3Config(scheme="topk").to_json()
            return super().__call__(message, context, call_next)

    grid = LocalGrid({1: client(1, Disobedient()), 2: client(2)})
    strategy = CO3Strategy(FedAvg(fraction_evaluate=0.0), CO3Config(scheme="qsgd"))
    result = strategy.start(grid=grid, initial_arrays=record(model()), num_rounds=1)
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 1
