"""A server with a strategy of flwr.server.strategy, that writes down each round's metrics and the last model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp

from flwr_co3 import CO3Config, RateLimit
from flwr_co3.legacy import CO3LegacyStrategy

SIZE = 1000


class Accounting(CO3LegacyStrategy):
    """Writes down what each round was."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._folder = folder
        self._rounds: dict[int, Any] = {}

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Aggregate."""
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        if parameters is not None:
            (w,) = parameters_to_ndarrays(parameters)
            self._rounds[server_round] = {**metrics, "distance": float(np.linalg.norm(w - 1))}
        (self._folder / "metrics.json").write_text(json.dumps(self._rounds))
        return parameters, metrics


def server_fn(context: Context) -> ServerAppComponents:
    """Make the server."""
    initial = ndarrays_to_parameters([1 + np.random.default_rng(0).normal(size=SIZE).astype(np.float32)])
    inner = FedAvg(fraction_evaluate=0.0, initial_parameters=initial)
    config = CO3Config(rate=RateLimit(bits_per_parameter=2))
    strategy = Accounting(Path(str(context.run_config["folder"])), inner, config)
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=int(context.run_config["rounds"])))


app = ServerApp(server_fn=server_fn)
