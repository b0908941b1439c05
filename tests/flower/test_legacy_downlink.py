"""The downlink of Flower's older API: what NumPyClients are sent, and what they make of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.client import NumPyClient
from flwr.common import (
    EvaluateIns,
    FitIns,
    FitRes,
    Parameters,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import SimpleClientManager
from flwr.server.strategy import FedAvg
from numpy.typing import NDArray

from flwr_co3.client import CO3ClientMixin
from flwr_co3.config import CO3Config
from flwr_co3.legacy import CO3LegacyStrategy
from flwr_co3.rate import RateLimit
from tests.flower.helpers import Tensors, context
from tests.flower.test_legacy import FitResult, Plain, proxy

LOW = CO3Config(rate=RateLimit(bits_per_parameter=4))


class Seeing(Plain):
    """A client that shows which model it got."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.got: list[list[NDArray[Any]]] = []
        self.configs: list[dict[str, Any]] = []

    def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
        self.got.append([array.copy() for array in parameters])
        self.configs.append(config)
        return super().fit(parameters, config)

    def evaluate(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:
        self.got.append([array.copy() for array in parameters])
        return 0.5, 10, {}


class Compressing(CO3ClientMixin, Seeing):
    def __init__(self, seed: int, folder: Path | None = None) -> None:
        super().__init__(seed)
        self.context, self.store = context(seed), folder


class Federation:
    """A server and its clients, by name; those in `dead` do not answer."""

    def __init__(self, clients: dict[str, Any], **options: Any) -> None:
        self.clients = clients
        inner = FedAvg(fraction_evaluate=1.0, min_fit_clients=1, min_evaluate_clients=1, min_available_clients=1)
        self.strategy = CO3LegacyStrategy(inner, CO3Config(), **options)
        self.manager = SimpleClientManager()
        for name in clients:
            self.manager.register(proxy(name))
        self.sent: dict[str, FitIns] = {}
        self.metrics: dict[str, Any] = {}

    def fit(self, parameters: Parameters, *dead: str) -> Parameters:
        results: list[tuple[Any, FitRes]] = []
        failures: list[tuple[Any, FitRes] | BaseException] = []
        for client, ins in self.strategy.configure_fit(1, parameters, self.manager):
            self.sent[client.cid] = ins
            try:
                result = self.clients[client.cid].to_client().fit(ins)
                results += [] if client.cid in dead else [(client, result)]
            except Exception as error:
                failures.append(error)
        new, self.metrics = self.strategy.aggregate_fit(1, results, failures)
        return parameters if new is None else new

    def evaluate(self, parameters: Parameters) -> None:
        asked = self.strategy.configure_evaluate(1, parameters, self.manager)
        results = [(client, self.clients[client.cid].to_client().evaluate(ins)) for client, ins in asked]
        _, self.metrics = self.strategy.aggregate_evaluate(1, results, [])

    def is_whole(self, client: str) -> bool:
        return "co3-base" not in self.sent[client].config

    @property
    def held(self) -> list[NDArray[Any]]:
        assert self.strategy._downlink is not None
        return list(self.strategy._downlink.tensors.values())


def same(ours: list[NDArray[Any]], theirs: list[NDArray[Any]]) -> bool:
    return all(np.array_equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


@pytest.fixture
def parameters(model: Tensors) -> Parameters:
    return ndarrays_to_parameters(list(model.values()))


@pytest.mark.parametrize("stored", [False, True])
def test_clients_are_sent_frames_and_hold_what_the_server_says(
    parameters: Parameters, stored: bool, tmp_path: Path
) -> None:
    clients = {str(n): Compressing(n, tmp_path if stored else None) for n in (1, 2)}
    federation = Federation(clients, downlink=LOW)
    for server_round in range(4):
        parameters = federation.fit(parameters)
        for name, client in clients.items():
            assert same(client.got[-1], federation.held)
            assert federation.is_whole(name) == (server_round == 0)
            assert not {"co3-model", "co3-base"} & client.configs[-1].keys()
    size = sum(array.nbytes for array in federation.held)
    assert federation.metrics["co3-downlink-payload-bytes"] < 2 * size / 4
    assert not any(key.startswith("co3-held") for key in federation.metrics)


def test_what_clients_learn_counts_though_their_model_is_another(model: Tensors, parameters: Parameters) -> None:
    """Updates do not depend on the model here: all is in the model, or in the client's memory."""
    compressing, plain = Compressing(1), Seeing(1)
    for client in (compressing, plain):
        federation = Federation({"1": client}, downlink=LOW)
        final = parameters
        for _ in range(5):
            final = federation.fit(final)
        weight = parameters_to_ndarrays(final)[1]
        learnt = Plain(1).fit(list(model.values()), {})[0][1] - model["fc.weight"]
        memory: Any = 0.0
        if client is compressing and compressing.context is not None:
            memory = compressing.context.state.array_records["co3-memory"]["1"].numpy()
        np.testing.assert_allclose(weight + memory, model["fc.weight"] + 5 * learnt, atol=1e-5)


def test_a_client_without_the_mixin_is_sent_whole_models(parameters: Parameters) -> None:
    clients: dict[str, NumPyClient] = {"1": Compressing(1), "2": Seeing(2)}
    federation = Federation(clients, downlink=LOW)
    for _ in range(3):
        parameters = federation.fit(parameters)
    assert not federation.is_whole("1") and federation.is_whole("2")
    assert federation.metrics["co3-uncompressed"] == 1


def test_a_client_that_did_not_answer_or_lost_its_model_is_sent_the_whole(parameters: Parameters) -> None:
    client = Compressing(1)
    federation = Federation({"1": client}, downlink=LOW)
    whole = []
    for server_round in range(6):
        if server_round == 3 and client.context is not None:
            client.context.state.clear()
        parameters = federation.fit(parameters, *(["1"] if server_round == 1 else []))
        whole.append(federation.is_whole("1"))
    assert whole == [True, False, True, False, True, False]
    assert len(client.got) == 5  # in the fourth it said that it does not hold the model


def test_evaluation_goes_by_the_same_frames_and_is_counted(parameters: Parameters) -> None:
    client = Compressing(1)
    federation = Federation({"1": client}, downlink=LOW)
    parameters = federation.fit(parameters)
    federation.evaluate(parameters)
    assert same(client.got[-1], federation.held)
    assert 0 < federation.metrics["co3-downlink-payload-bytes"] < sum(map(len, parameters.tensors)) / 4
    federation.fit(parameters)
    assert federation.sent["1"].parameters.tensors == []  # evaluation has brought it already


def test_the_whole_model_is_cast_for_clients_with_the_mixin(parameters: Parameters) -> None:
    clients: dict[str, Any] = {"1": Compressing(1), "2": Seeing(2)}
    federation = Federation(clients, downlink=LOW, whole=CO3Config(format="fp8"))
    federation.fit(parameters)
    assert len(federation.sent["1"].parameters.tensors) == 1
    assert federation.metrics["co3-quarantined"] == 1  # it took the frame for a model
    federation.fit(parameters)
    assert federation.is_whole("2") and len(federation.sent["2"].parameters.tensors) == 5


def test_without_a_context_frames_are_refused_with_what_to_do(parameters: Parameters) -> None:
    client = Compressing(1)
    client.context = None
    frames = ndarrays_to_parameters([np.zeros(10, np.uint8)])
    with pytest.raises(ValueError, match="Hand the context of client_fn on to it"):
        client.evaluate(parameters_to_ndarrays(frames), {"co3-model": b"12345678", "co3-base": b"12345678"})
    whole = parameters_to_ndarrays(parameters)
    assert client.evaluate(whole, {"co3-model": b"12345678"})[0] == 0.5


def test_clients_super_evaluate_gets_the_model(parameters: Parameters) -> None:
    class Deeper(Compressing):
        def evaluate(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> Any:
            return super().evaluate(parameters, config)

    client = Deeper(1)
    federation = Federation({"1": client}, downlink=LOW)
    after = federation.fit(parameters)
    asked = federation.strategy.configure_evaluate(1, after, federation.manager)
    assert all(isinstance(ins, EvaluateIns) for _, ins in asked)
    client.to_client().evaluate(asked[0][1])
    assert same(client.got[-1], federation.held)


def test_whole_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="give `downlink` as well"):
        Federation({}, whole=CO3Config(format="fp8"))
