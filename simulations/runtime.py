"""Flower's Simulation Runtime inside one process: the only file that knows how it is started and silenced."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from flwr.app import ConfigRecordValues, Context
from flwr.serverapp import Grid, ServerApp

from simulations.client_app import app as client_app

_CLUSTER = "RAY_ADDRESS"  # Ray's own variable
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SimulationError(RuntimeError):
    """Flower's Simulation Runtime could not be started, or broke down."""


def simulate(
    server: Callable[[Grid], None], *, clients: int, parallel: int | None = None, verbose: bool = False
) -> None:
    """Run ``server`` with simulated clients, and end every process that was started for it.

    ``flwr run`` starts a SuperLink, which starts Ray anew for every run: some 20 seconds each. A comparison
    consists of many runs, so it is one run for Flower, in this process, whose server trains scheme after
    scheme and can draw on the terminal meanwhile. ``flwr.simulation.run_simulation`` is the way to do that;
    it is deprecated in favour of ``flwr run``, which has no such way yet.

    Parameters
    ----------
    server : Callable
        Gets the grid of the clients; runs in a thread of its own.
    clients : int
        Number of simulated clients.
    parallel : int, optional
        How many of them train at once; as many as there are processors unless given.
    verbose : bool (default: False)
        Also show what Ray's processes print.

    Raises
    ------
    SimulationError
        If the runtime breaks down.
    """
    from flwr.simulation import run_simulation

    server_app = ServerApp()
    failure: list[BaseException] = []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            server(grid)
        except Exception as error:
            failure.append(error)

    try:
        resources = start_ray(min(parallel or _processors(), clients), verbose)
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=clients,
            backend_config={"client_resources": resources},
        )
    except Exception as error:
        raise SimulationError(
            f"Flower's Simulation Runtime broke down: {error.__cause__ or error}. --verbose shows its log."
        ) from error
    finally:
        end_ray()
    if failure:
        raise failure[0]


def _processors() -> int:
    """Return how many processors this process may use, where the system tells that; else how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_ray(parallel: int | None, verbose: bool) -> dict[str, ConfigRecordValues]:
    """Start Ray for so many processes at once, and return what each of them gets.

    That is one processor, and a share of the GPUs where there are any. Ray gives a process as many threads as
    processors, so that PyTorch in one doesn't fight the others. Flower would start Ray too, but not give back
    the signals: Ray's way with SIGTERM is to abort.

    Where the variable RAY_ADDRESS names a cluster, its machines do the work, and it says how many processes there are.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's announcement of a change to come
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    here: dict[str, Any] = {}
    if not os.environ.get(_CLUSTER):
        here = {
            "num_cpus": parallel or _processors(),
            "num_gpus": torch.cuda.device_count(),
            "include_dashboard": False,
        }
    ray.init(
        **here,
        log_to_driver=verbose,
        logging_level=logging.INFO if verbose else logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return {"num_cpus": 1, "num_gpus": gpu_share()}


def gpu_share() -> float:
    """Return the share of a GPU that each process gets."""
    return min(1.0, _resource("GPU") / max(processes(), 1))


def processes() -> int:
    """Return how many processes Ray runs at once."""
    return int(_resource("CPU"))


def _resource(kind: str) -> float:
    return float(ray.cluster_resources().get(kind, 0.0))  # type: ignore[no-untyped-call]  # Ray's own


def end_ray() -> None:
    """End all of Ray's processes that this one started."""
    ray.shutdown()


@contextlib.contextmanager
def flower_log(file: Path | None) -> Iterator[None]:
    """Send Flower's log to ``file`` instead of the terminal; None leaves it there."""
    if file is None:
        yield
        return
    logger = logging.getLogger("flwr")
    before = logger.handlers[:]
    to_file = logging.FileHandler(file, mode="w", encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers = [to_file]
    try:
        yield
    finally:
        logger.handlers = before
        to_file.close()
