"""A server that compresses both directions."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from flwr_co3 import CO3Config, CO3Strategy, RateLimit

ENTRIES = 10_000_000  # of a tensor

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and write down when each round ended, what it cost, and what the model was."""
    tenth = CO3Config(rate=RateLimit(bits_per_parameter=0.1))
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    strategy = CO3Strategy(inner, tenth, downlink=tenth)
    rng, arrays = np.random.default_rng(1), ArrayRecord()
    for number in range(int(context.run_config["tensors"])):
        arrays[f"layer{number}"] = Array(rng.standard_normal(ENTRIES, np.float32))
    ends = []
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=lambda server_round, arrays: ends.append(time.monotonic()),
    )
    rounds = [
        {"seconds": after - before, **metrics}
        for before, after, metrics in zip(ends, ends[1:], result.train_metrics_clientapp.values(), strict=False)
    ]
    (Path(str(context.run_config["folder"])) / "metrics.json").write_text(json.dumps(rounds))
