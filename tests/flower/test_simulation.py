"""Both ways into an app, through Flower's own Simulation Runtime: one start of Ray each."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Result
from flwr.simulation import run_simulation
from numpy.typing import NDArray

from flwr_co3 import CO3ClientMixin, CO3Config, CO3Mod, CO3Strategy, RateLimit
from flwr_co3.legacy import CO3LegacyStrategy

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("second worker")]

NODES, ROUNDS, SIZE, ROWS = 2, 8, 400, 20

Data = Callable[[int], tuple[NDArray[Any], NDArray[Any]]]
Step = Callable[..., NDArray[Any]]


def problem() -> tuple[Data, Step]:
    """Make what the clients do: least squares with the solution 1, 1, 1, ...

    Functions made inside a function travel to Ray's workers whole; others must be importable there.
    """

    def data(node: int) -> tuple[NDArray[Any], NDArray[Any]]:
        features = np.random.default_rng(node).normal(size=(2 * SIZE, SIZE)).astype(np.float32)
        return features, features @ np.ones(SIZE, np.float32)

    def train(weights: NDArray[Any], features: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        for _ in range(5):
            weights = weights - 0.3 * features.T @ (features @ weights - targets) / len(targets)
        return weights

    return data, train


def children() -> set[str]:
    """Names of the processes that this one started and that still run."""
    names = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:  # it ended meanwhile
            continue
        if int(fields["PPid"]) == os.getpid() and not fields["State"].startswith("Z"):
            names.add(fields["Name"])
    return names


def simulate(server_app: ServerApp, client_app: ClientApp) -> None:
    before = children()
    backend = {"init_args": {"num_cpus": NODES}, "client_resources": {"num_cpus": 1.0, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=NODES, backend_config=backend)  # type: ignore[arg-type]
    assert not ray.is_initialized()
    assert children() <= before, "Ray left processes behind"


def check(weights: NDArray[Any], rounds: dict[int, dict[str, Any]], downlink: int) -> None:
    """Check that what was learnt is right, and was learnt through frames."""
    assert np.linalg.norm(weights - 1) < 0.02 * np.linalg.norm(np.ones(SIZE))
    assert list(rounds) == list(range(1, ROUNDS + 1))
    for metrics in rounds.values():
        assert metrics["co3-replies"] == NODES
        assert (metrics["co3-quarantined"], metrics["co3-uncompressed"]) == (0, 0)
        assert metrics["co3-downlink-payload-bytes"] == downlink
        assert 0 < metrics["co3-uplink-payload-bytes"] < downlink / 4
        assert metrics["co3-memory-norm"] > 0


def test_message_api() -> None:
    data, train = problem()

    def fit(message: Message, context: Context) -> Message:
        (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
        features, targets = data(int(context.node_config["partition-id"]))
        content = RecordDict(
            {
                "arrays": ArrayRecord([train(weights.reshape(-1), features, targets).reshape(weights.shape)]),
                "metrics": MetricRecord({"num-examples": len(targets)}),
            }
        )
        return Message(content, reply_to=message)

    client_app = ClientApp(mods=[CO3Mod()])
    client_app.train()(fit)

    results: list[Result] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = CO3Strategy(FedAvg(fraction_evaluate=0.0))
        arrays = ArrayRecord([np.zeros(SIZE, np.float32)])
        results.append(strategy.start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS))
        config = CO3Config(rate=RateLimit(bits_per_parameter=2), subspace=4)
        strategy = CO3Strategy(FedAvg(fraction_evaluate=0.0), config)
        arrays = ArrayRecord([np.zeros((ROWS, SIZE // ROWS), np.float32)])
        results.append(strategy.start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS))

    simulate(server_app, client_app)

    result, by_directions = results
    (weights,) = by_directions.arrays.to_numpy_ndarrays()
    assert np.linalg.norm(weights - 1) < 0.2 * np.linalg.norm(np.ones(SIZE))
    for metrics in by_directions.train_metrics_clientapp.values():
        assert (metrics["co3-replies"], metrics["co3-quarantined"], metrics["co3-uncompressed"]) == (NODES, 0, 0)
        assert metrics["co3-bits-per-parameter"] <= 2  # type: ignore[operator]  # it may be a list in other metrics
    (weights,) = result.arrays.to_numpy_ndarrays()
    rounds = {server_round: dict(metrics) for server_round, metrics in result.train_metrics_clientapp.items()}
    check(weights, rounds, downlink=NODES * (4 * SIZE + 128))


def test_numpy_clients() -> None:
    data, train = problem()

    class Client(CO3ClientMixin, NumPyClient):
        def __init__(self, context: Context) -> None:
            self.context = context

        def fit(self, parameters: Any, config: Any) -> Any:
            assert self.context is not None
            features, targets = data(int(self.context.node_config["partition-id"]))
            return [train(parameters[0], features, targets)], len(targets), {}

    models: list[NDArray[Any]] = []
    rounds: dict[int, dict[str, Any]] = {}

    class Watched(CO3LegacyStrategy):
        """Keeps each round's result."""

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            parameters, metrics = super().aggregate_fit(server_round, results, failures)
            assert parameters is not None
            models.append(parameters_to_ndarrays(parameters)[0])
            rounds[server_round] = metrics
            return parameters, metrics

    def server_fn(context: Context) -> ServerAppComponents:
        initial = ndarrays_to_parameters([np.zeros(SIZE, np.float32)])
        strategy = Watched(LegacyFedAvg(fraction_evaluate=0.0, initial_parameters=initial))
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS))

    simulate(ServerApp(server_fn=server_fn), ClientApp(lambda context: Client(context).to_client()))

    check(models[-1], rounds, downlink=NODES * (4 * SIZE + 128))
