"""The server: FedAvg, wrapped so that clients compress what they send."""

import json
import time
from logging import getLogger
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

from flwr_co3 import CO3Config, CO3Strategy, RateLimit

from .task import accuracy, initial_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and look at the model after each round."""
    config = context.run_config
    strategy = make_strategy(float(config["uplink"]), float(config["downlink"]))
    started = time.monotonic()

    def look(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        seconds = time.monotonic() - started
        return MetricRecord({"accuracy": accuracy(arrays.to_numpy_ndarrays()), "seconds": seconds})

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial_model(int(config["hidden"]))),
        num_rounds=int(config["rounds"]),
        evaluate_fn=look,
    )
    rounds = [
        {**looked, **result.train_metrics_clientapp.get(server_round, {})}
        for server_round, looked in result.evaluate_metrics_serverapp.items()
    ]
    getLogger("flwr").info("Accuracy after %d rounds: %.1f %%", len(rounds) - 1, 100 * rounds[-1]["accuracy"])
    if config["results"]:
        Path(str(config["results"])).write_text(json.dumps(rounds), encoding="utf-8")


def make_strategy(uplink: float, downlink: float) -> Strategy:
    """Make FedAvg, with CO3 around it where one of the links has a limit."""
    strategy = FedAvg(fraction_evaluate=0.0)
    if not uplink:
        return strategy
    return CO3Strategy(strategy, limited(uplink), downlink=limited(downlink) if downlink else None)


def limited(bits: float) -> CO3Config:
    """Return settings under which no update has more bits a parameter."""
    return CO3Config(rate=RateLimit(bits_per_parameter=bits))
