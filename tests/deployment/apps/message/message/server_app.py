"""A ServerApp that keeps an account of what its strategy was handed, and saves it together with the model."""

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from flwr_co3 import CO3Config, CO3Strategy, RateLimit

SIZE = 1000
INITIAL = {
    "w": 1 + np.random.default_rng(0).normal(size=SIZE).astype(np.float32),
    "rounds": np.zeros(1, np.float32),
}

app = ServerApp()


class Accounting(FedAvg):
    """FedAvg that remembers each client's update."""

    def __init__(self, run: int, updates: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._run = run
        self.updates = updates  # by node, run and round

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember the model."""
        self._start = arrays["w"].numpy()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Remember what it is handed."""
        replies = list(replies)
        updates = {
            f"{reply.metadata.src_node_id}/{self._run}/{server_round}": model_of(reply) - self._start
            for reply in replies
            if not reply.has_error()
        }
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is not None:
            self.updates.update(updates)
        return arrays, metrics


class Newer(CO3Strategy):
    """As of a later version, which asks one node for something that this one does not know."""

    asked: int

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Put the option beside the others."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            if message.metadata.dst_node_id == self.asked:
                order = message.content.config_records["config"]
                order["co3"] = json.dumps(json.loads(str(order["co3"])) | {"sparkle": True})
        return messages


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train."""
    config = context.run_config
    checkpoint = Path(str(config["folder"])) / "checkpoint.npz"
    before = dict(np.load(checkpoint)) if config["resume"] else dict(INITIAL)
    progress = str(before.pop("progress")) if config["resume"] else None
    inner = Accounting(
        context.run_id,
        {name: value for name, value in before.items() if name not in INITIAL},
        fraction_evaluate=1.0 if config["downlink"] else 0.0,
    )
    strategy = Newer(
        inner,
        CO3Config(rate=limit(config["bits"]), memory_decay=float(config["decay"])),
        downlink=CO3Config(rate=limit(config["downlink"])) if config["downlink"] else None,
        resume=progress,
    )
    strategy.asked = int(str(config["asked"]))

    def save(server_round: int, arrays: ArrayRecord) -> None:
        """Save model, progress and account together, or not at all."""
        if config["dies"] and server_round == config["dies"]:
            checkpoint.with_name("server-died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        tensors = {name: array.numpy() for name, array in arrays.items()}
        temporary = checkpoint.with_name("checkpoint.tmp.npz")
        saved: dict[str, Any] = {"progress": strategy.progress, **tensors, **inner.updates}
        np.savez(temporary, **saved)
        temporary.replace(checkpoint)

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(before[name]) for name in INITIAL}),
        num_rounds=int(config["rounds"]),
        timeout=float(config["timeout"]),
        evaluate_fn=save,
    )
    write_metrics(checkpoint.with_name("metrics.json"), result.train_metrics_clientapp)


def model_of(reply: Message) -> NDArray[Any]:
    return reply.content.array_records["arrays"]["w"].numpy()


def limit(bits: Any) -> RateLimit:
    return RateLimit(bits_per_parameter=float(bits))


def write_metrics(file: Path, rounds: dict[int, MetricRecord]) -> None:
    """Write each round's metrics; this file is the last thing that a run leaves."""
    file.write_text(json.dumps({server_round: dict(metrics) for server_round, metrics in rounds.items()}))
