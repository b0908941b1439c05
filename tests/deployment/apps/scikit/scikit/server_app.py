"""A server that looks at the model after each round."""

import json
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits

from flwr_co3 import CO3Config, CO3Strategy, RateLimit

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train."""
    strategy = CO3Strategy(FedAvg(fraction_evaluate=0.0), CO3Config(rate=RateLimit(bits_per_parameter=4)))
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros((10, 64), np.float32), np.zeros(10, np.float32)]),
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=lambda _, arrays: MetricRecord({"accuracy": accuracy(arrays)}),
    )
    rounds = {
        server_round: {**metrics, **result.evaluate_metrics_serverapp[server_round]}
        for server_round, metrics in result.train_metrics_clientapp.items()
    }
    (Path(str(context.run_config["folder"])) / "metrics.json").write_text(json.dumps(rounds))


def accuracy(arrays: ArrayRecord) -> float:
    """Share of all digits that the model gets right."""
    pixels, digits = load_digits(return_X_y=True)
    coef, intercept = arrays.to_numpy_ndarrays()
    return float(np.mean(np.argmax(pixels / 16 @ coef.T + intercept, axis=1) == digits))
