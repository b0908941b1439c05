"""The server: averages the clients' weights, and looks how good they are."""

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train."""
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros((10, 64), "float32"), np.zeros(10, "float32")]),
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=evaluate,
    )


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the share of all digits that the model gets right."""
    weights, bias = arrays.to_numpy_ndarrays()
    pixels, digits = load_digits(return_X_y=True)
    right = np.argmax(pixels / 16 @ weights.T + bias, axis=1) == digits
    return MetricRecord({"accuracy": float(right.mean())})
