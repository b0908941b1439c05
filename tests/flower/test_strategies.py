"""Every strategy and every private wrapper of Flower, end to end: clients that learn, and both ways compressed."""

import logging
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, arrays_size_mod, fixedclipping_mod, message_size_mod
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from flwr_co3.client import CO3Mod
from flwr_co3.config import CO3Config
from flwr_co3.rate import RateLimit
from flwr_co3.server import CO3Strategy
from tests.flower.helpers import App, LocalGrid, Tensors, arrays, model_of, record

pytestmark = pytest.mark.usefixtures("task")

NODES, INPUTS, OUTPUTS, ROUNDS = 7, 30, 5, 8
EVERYWHERE: dict[str, Any] = {"fraction_evaluate": 0.0, "min_train_nodes": NODES, "min_available_nodes": NODES}
ADAPTIVE: dict[str, Any] = {"eta": 0.05, "tau": 1e-2}
Aggregated = tuple[ArrayRecord | None, MetricRecord | None]
START: Tensors = {"weight": np.zeros((OUTPUTS, INPUTS), np.float32), "bias": np.zeros(OUTPUTS, np.float32)}


@cache
def examples(node: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A node's inputs, which lie around a place of its own, and outputs of one linear map with noise."""
    shared, mine = np.random.default_rng(0), np.random.default_rng(node)
    truth = shared.normal(size=(OUTPUTS, INPUTS))
    inputs = mine.normal(size=(40, INPUTS)) + 0.3 * mine.normal(size=INPUTS)
    outputs = inputs @ truth.T + 0.1 * mine.normal(size=(40, OUTPUTS)) + 1.0
    return inputs.astype(np.float32), outputs.astype(np.float32)


def residuals(model: Tensors, node: int) -> NDArray[np.float32]:
    inputs, outputs = examples(node)
    return np.asarray(inputs @ model["weight"].T + model["bias"] - outputs)


def loss(model: Tensors) -> float:
    return float(np.mean([np.mean(residuals(model, node) ** 2) for node in range(1, NODES + 1)]))


def learn(message: Message, context: Context) -> Message:
    """Five steps of gradient descent on the node's examples."""
    model = arrays(model_of(message.content))
    before = float(np.mean(residuals(model, context.node_id) ** 2))
    inputs, _ = examples(context.node_id)
    for _ in range(5):
        slope = residuals(model, context.node_id) / len(inputs)
        model = {"weight": model["weight"] - 0.1 * slope.T @ inputs, "bias": model["bias"] - 0.1 * slope.sum(axis=0)}
    metrics = MetricRecord({"num-examples": len(inputs), "train-loss": before})
    return Message(RecordDict({"arrays": record(model), "metrics": metrics}), reply_to=message)


def app_of(train: App, *mods: Any) -> App:
    made = ClientApp(mods=list(mods))
    made.train()(train)
    return made


def app(*mods: Any) -> App:
    return app_of(learn, *mods)


def grid(*mods: Any) -> LocalGrid:
    return LocalGrid({node: app(*mods) for node in range(1, NODES + 1)})


def trained(strategy: Strategy, on: LocalGrid) -> Tensors:
    return arrays(strategy.start(grid=on, initial_arrays=record(START), num_rounds=ROUNDS).arrays)


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "FedAvg": lambda: flower.FedAvg(**EVERYWHERE),
    "FedAvgM": lambda: flower.FedAvgM(server_momentum=0.5, **EVERYWHERE),
    "FedAdam": lambda: flower.FedAdam(**ADAPTIVE, **EVERYWHERE),
    "FedAdagrad": lambda: flower.FedAdagrad(**{**ADAPTIVE, "eta": 0.2}, **EVERYWHERE),
    "FedYogi": lambda: flower.FedYogi(**ADAPTIVE, **EVERYWHERE),
    "FedProx": lambda: flower.FedProx(proximal_mu=0.1, **EVERYWHERE),
    "QFedAvg": lambda: flower.QFedAvg(client_learning_rate=0.1, q=0.1, train_loss_key="train-loss", **EVERYWHERE),
    "FedMedian": lambda: flower.FedMedian(**EVERYWHERE),
    "FedTrimmedAvg": lambda: flower.FedTrimmedAvg(beta=0.2, **EVERYWHERE),
    "MultiKrum": lambda: flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=4, **EVERYWHERE),
    "Bulyan": lambda: flower.Bulyan(num_malicious_nodes=1, **EVERYWHERE),
}


@cache
def loss_without_co3(name: str) -> float:
    return loss(trained(STRATEGIES[name](), grid()))


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("downlink", [None, CO3Config(format="fp8")], ids=["uplink", "both ways"])
def test_every_strategy_learns_as_it_does_without_co3(name: str, downlink: CO3Config | None) -> None:
    plain = loss_without_co3(name)
    on = grid(CO3Mod())
    ours = loss(trained(CO3Strategy(STRATEGIES[name](), CO3Config(format="fp8"), downlink), on))
    assert plain < 0.6 * loss(START)
    assert ours < 1.1 * plain
    assert all(set(model_of(reply.content)) == {"co3"} for reply in on.replies)


# Krum, which hands on one node's model


class WatchedKrum(flower.Krum):
    """Krum that notes which node it chose in each round."""

    def __init__(self) -> None:
        super().__init__(num_malicious_nodes=1, **EVERYWHERE)
        self.chosen: list[int] = []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregated:
        replies = list(replies)
        model, metrics = super().aggregate_train(server_round, replies)
        assert model is not None
        weight = model["weight"].numpy()
        (node,) = [reply.metadata.src_node_id for reply in replies if np.array_equal(weight_of(reply), weight)]
        self.chosen.append(node)
        return model, metrics


class Prescribed(flower.FedAvg):
    """Hands on the model of one node, as Krum does, but of a given one in each round."""

    def __init__(self, nodes: list[int]) -> None:
        super().__init__(**EVERYWHERE)
        self.nodes = nodes

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregated:
        chosen = self.nodes[server_round - 1]
        return super().aggregate_train(server_round, [r for r in replies if r.metadata.src_node_id == chosen])


def weight_of(reply: Message) -> NDArray[np.float32]:
    return model_of(reply.content)["weight"].numpy()


def noisy(message: Message, context: Context) -> Message:
    """Learn, with an update that is off by 3 % of each number: about what fp8 does to it, and no memory."""
    before, rng = arrays(model_of(message.content)), np.random.default_rng(context.node_id)
    reply = learn(message, context)
    after = arrays(model_of(reply.content))
    moved = {name: (after[name] - before[name]) * (1 + 0.03 * rng.normal(size=after[name].shape)) for name in before}
    model = {name: (before[name] + moved[name]).astype(np.float32) for name in before}
    return Message(RecordDict({**reply.content, "arrays": record(model)}), reply_to=message)


@pytest.mark.parametrize("downlink", [None, CO3Config(format="fp8")], ids=["uplink", "both ways"])
def test_the_one_node_that_is_chosen_teaches_what_it_does_without_co3(downlink: CO3Config | None) -> None:
    """The six nodes that are not chosen in a round leave nothing wrong in the memories, nor in the clients' models."""
    krum = WatchedKrum()
    plain = loss(trained(krum, grid()))
    ours = loss(trained(CO3Strategy(Prescribed(krum.chosen), CO3Config(format="fp8"), downlink), grid(CO3Mod())))
    assert len(set(krum.chosen)) > 1
    assert ours == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("downlink", [None, CO3Config(format="fp8")], ids=["uplink", "both ways"])
def test_krum_chooses_other_nodes_with_co3_and_learns(downlink: CO3Config | None) -> None:
    """All that CO3 changes: the nodes' scores lie within a few percent, so any noise decides which one is chosen."""
    plain, shaken, krum = WatchedKrum(), WatchedKrum(), WatchedKrum()
    trained(plain, grid())
    trained(shaken, LocalGrid(dict.fromkeys(range(1, NODES + 1), app_of(noisy))))
    ours = loss(trained(CO3Strategy(krum, CO3Config(format="fp8"), downlink), grid(CO3Mod())))
    assert plain.chosen != shaken.chosen and plain.chosen != krum.chosen
    assert ours < 0.1 * loss(START)


def test_multikrum_averages_away_what_a_small_budget_does_to_each_update() -> None:
    small = CO3Config(rate=RateLimit(bytes_per_round=80))  # of 640 that the model has
    assert loss(trained(CO3Strategy(STRATEGIES["MultiKrum"](), small), grid(CO3Mod()))) < 1.1 * loss_without_co3(
        "MultiKrum"
    )


# Differential privacy


def private(wrapper: Any, **kwargs: Any) -> Strategy:
    made: Strategy = wrapper(flower.FedAvg(**EVERYWHERE), 0.0, num_sampled_clients=NODES, **kwargs)
    return made


FIXED: dict[str, Any] = {"clipping_norm": 1.0}
ADAPTED: dict[str, Any] = {"initial_clipping_norm": 1.0, "clipped_count_stddev": 0.0}
PRIVATE: dict[str, tuple[Callable[[], Strategy], list[Any]]] = {
    "server, fixed": (lambda: private(flower.DifferentialPrivacyServerSideFixedClipping, **FIXED), []),
    "server, adaptive": (lambda: private(flower.DifferentialPrivacyServerSideAdaptiveClipping, **ADAPTED), []),
    "client, fixed": (
        lambda: private(flower.DifferentialPrivacyClientSideFixedClipping, **FIXED),
        [fixedclipping_mod],
    ),
    "client, adaptive": (
        lambda: private(flower.DifferentialPrivacyClientSideAdaptiveClipping, **ADAPTED),
        [adaptiveclipping_mod],
    ),
}


@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.parametrize("downlink", [None, CO3Config(format="fp8")], ids=["uplink", "both ways"])
def test_private_wrappers_learn_as_they_do_without_co3(kind: str, downlink: CO3Config | None) -> None:
    make, mods = PRIVATE[kind]
    plain = loss(trained(make(), grid(*mods)))
    ours = loss(trained(CO3Strategy(make(), CO3Config(format="fp8"), downlink), grid(CO3Mod(), *mods)))
    assert plain < 0.9 * loss(START)
    assert ours == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("kind", ["server, fixed", "server, adaptive"])
def test_a_private_wrapper_that_would_read_frames_as_weights_is_refused(kind: str) -> None:
    wrapper = PRIVATE[kind][0]()
    wrapper.strategy = CO3Strategy(flower.FedAvg(**EVERYWHERE))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"Write CO3Strategy\(DifferentialPrivacyServerSide\w+Clipping\(\.\.\.\)"):
        trained(wrapper, grid(CO3Mod()))


@pytest.mark.parametrize("kind", ["client, fixed", "client, adaptive"])
def test_client_side_wrappers_may_stand_around_co3_strategy(kind: str) -> None:
    make, mods = PRIVATE[kind]
    plain = loss(trained(make(), grid(*mods)))
    wrapper = make()
    wrapper.strategy = CO3Strategy(flower.FedAvg(**EVERYWHERE), CO3Config(format="fp8"))  # type: ignore[attr-defined]
    assert loss(trained(wrapper, grid(CO3Mod(), *mods))) == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("kind", ["client, fixed", "client, adaptive"])
def test_a_clipping_mod_before_co3_mod_is_told_where_it_belongs(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, (mod,) = PRIVATE[kind]
    trained(CO3Strategy(make()), grid(mod, CO3Mod()))
    assert f"write mods=[CO3Mod(), {mod.__name__}]" in caplog.text


def test_local_differential_privacy_clips_what_is_compressed(caplog: pytest.LogCaptureFixture) -> None:
    mod = LocalDpMod(clipping_norm=1.0, sensitivity=0.0, epsilon=1.0, delta=0.1)  # without noise
    plain = loss(trained(STRATEGIES["FedAvg"](), grid(mod)))
    ours = loss(trained(CO3Strategy(STRATEGIES["FedAvg"](), CO3Config(format="fp8")), grid(CO3Mod(), mod)))
    assert plain < 0.9 * loss(START) and ours == pytest.approx(plain, rel=0.1)
    trained(CO3Strategy(STRATEGIES["FedAvg"]()), grid(mod, CO3Mod()))
    assert "write mods=[CO3Mod(), LocalDpMod]" in caplog.text


# Other mods


def test_size_mods_log_the_sizes_of_compressed_messages(caplog: pytest.LogCaptureFixture) -> None:
    on = grid(message_size_mod, arrays_size_mod, CO3Mod())
    with caplog.at_level(logging.INFO, "flwr"):
        trained(CO3Strategy(STRATEGIES["FedAvg"](), downlink=CO3Config()), on)
    for message, direction in ((on.sent[-1], "Incoming"), (on.replies[-1], "Outgoing")):
        size = sum(part.count_bytes() for part in message.content.values())
        assert f"{direction} message size: {size} bytes" in caplog.text


# Several ArrayRecords


def scaffold(separate: bool) -> App:
    """A client with a control variate, beside the model in one ArrayRecord or in a record of its own."""

    def app(message: Message, context: Context) -> Message:
        received = {
            name: tensor for part in message.content.array_records.values() for name, tensor in arrays(part).items()
        }
        model = {name: received[name] for name in START}
        drift = {name: received[f"control.{name}"] for name in START}
        reply = learn(with_model(message, model), context)
        new = arrays(model_of(reply.content))
        controls = {f"control.{name}": drift[name] + (model[name] - new[name]) for name in START}
        parts = (
            {"arrays": record(new), "controls": record(controls)} if separate else {"arrays": record(new | controls)}
        )
        return Message(RecordDict({**parts, "metrics": reply.content["metrics"]}), reply_to=message)

    return app


def with_model(message: Message, model: Tensors) -> Message:
    message.content = RecordDict({"arrays": record(model)})
    return message


def test_what_is_trained_beside_the_model_travels_in_the_same_record() -> None:
    start = START | {f"control.{name}": tensor for name, tensor in START.items()}

    def result(strategy: Strategy, *mods: Any) -> Tensors:
        on = LocalGrid(dict.fromkeys(range(1, NODES + 1), app_of(scaffold(separate=False), *mods)))
        return arrays(strategy.start(grid=on, initial_arrays=record(start), num_rounds=ROUNDS).arrays)

    plain, ours = result(STRATEGIES["FedAvg"]()), result(CO3Strategy(STRATEGIES["FedAvg"]()), CO3Mod())
    assert loss(ours) < 1.1 * loss(plain)
    distance = np.linalg.norm(ours["control.weight"] - plain["control.weight"])
    assert distance < 0.2 * np.linalg.norm(plain["control.weight"])


def test_several_records_are_refused_with_what_to_do() -> None:
    class Scaffold(flower.FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> list[Message]:
            messages = list(super().configure_train(*args, **kwargs))
            for message in messages:
                controls = record({f"control.{name}": tensor for name, tensor in START.items()})
                message.content = RecordDict({**message.content, "controls": controls})
            return messages

    on = LocalGrid(dict.fromkeys(range(1, NODES + 1), app_of(scaffold(separate=True), CO3Mod())))
    CO3Strategy(Scaffold(**EVERYWHERE)).start(grid=on, initial_arrays=record(START), num_rounds=1)
    assert all("under names of their own" in str(reply.error.reason) for reply in on.replies)
