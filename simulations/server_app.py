"""The server of ``flwr run .``: one training run with the settings of the run config."""

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from simulations.clients import OrderedGrid
from simulations.federation import federate
from simulations.schemes import make_scheme
from simulations.settings import Settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train as ``[tool.flwr.app.config]`` and ``--run-config`` say, and log what it cost."""
    settings = Settings.from_config(context.run_config)
    scheme = make_scheme(str(context.run_config["scheme"]), context.run_config)
    clients = OrderedGrid(grid)
    clients.learn_partitions()
    rounds = federate(clients, settings, scheme)
    last, sent = rounds[-1], rounds[1:]
    logging.getLogger("flwr").info(
        "%s: accuracy %.1f %% after %d rounds, %.3f bits per parameter, %s bytes sent by the clients",
        scheme.label,
        100 * last.accuracy,
        last.round,
        sum(result.bits_per_parameter for result in sent) / len(sent),
        f"{sum(result.uplink_bytes for result in sent):,}",
    )
