"""Comparing schemes: the same task, seeds, partitions, initial weights and batches, one after the other."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid
from rich.console import Console

from simulations.clients import OrderedGrid
from simulations.federation import RoundResult, federate
from simulations.fits import UpdateWatcher
from simulations.interruption import stoppable
from simulations.models import make_model
from simulations.progress import Board
from simulations.results import Comparison, Run
from simulations.runtime import SimulationError, flower_log, simulate
from simulations.schemes import PLAIN, Scheme
from simulations.settings import Settings
from simulations.strategies import make_strategy
from simulations.tasks import image_shape, partition_examples

LOG_FILE = "flower.log"
_PACKAGES = ("flwr-co3", "flwr", "torch", "numpy", "ray")

_STOPPED = "It was stopped before its end."


class _StopError(Exception):
    """The user asked for the end."""


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes
    ----------
    settings : Settings
        The task; its seed is replaced by each of ``seeds``.
    schemes : list of Scheme
        In the order in which they are run and shown.
    seeds : list of int
        All schemes are run with the first, then all with the next: what is there early can be compared.
    clients : int
        Number of simulated clients.
    parallel : int or None
        How many train at once; None for as many as there are processors.
    store : Path or None
        Where the clients' memories are on disk, in a folder that is deleted in the end; None keeps them in RAM.
    """

    settings: Settings
    schemes: list[Scheme]
    seeds: list[int]
    clients: int
    parallel: int | None = None
    store: Path | None = None

    def check(self) -> None:
        """Find out before anything is started whether there is such a model, and such data that can be divided.

        Raises
        ------
        ValueError, ImportError
            With what is wrong.
        """
        if self.clients < 1:
            raise ValueError(f"{self.clients} clients cannot train: give at least one.")
        make_strategy(self.settings.strategy, self.settings.fraction_train)
        make_model(self.settings.model, image_shape(self.settings.dataset), seed=0)
        for seed in self.seeds:
            partition_examples(self.settings.dataset, self.settings.partitioner, seed, 0, self.clients)


def compare(plan: Plan, out: Path, console: Console, *, verbose: bool = False, command: str = "") -> Comparison:
    """Run the plan in one simulation, showing progress, and save what it found after every run.

    A scheme that fails is noted and the others go on; Ctrl-C ends it after the round. Either way the results
    so far are returned and saved.

    Parameters
    ----------
    plan : Plan
        What to compare.
    out : Path
        The folder for results and Flower's log.
    console : Console
        Where to show progress.
    verbose : bool (default: False)
        Show Flower's log on the terminal rather than write it to a file.
    command : str
        The command line, to be told in the report.
    """
    out.mkdir(parents=True, exist_ok=True)
    comparison = _empty(plan, command)
    started = time.perf_counter()
    stop = threading.Event()

    def save() -> None:
        comparison.seconds = time.perf_counter() - started
        comparison.save(out)

    def give_up() -> None:
        comparison.problem = _STOPPED
        save()

    with (
        flower_log(None if verbose else out / LOG_FILE),
        stoppable(stop, console, give_up),
        Board(console, comparison.labels, plan.settings.rounds, len(plan.seeds)) as board,
        _store(plan.store) as store,
    ):
        runner = _Runner(plan, comparison, board, stop, save)
        try:
            simulate(runner.run_all, clients=plan.clients, parallel=plan.parallel, store=store, verbose=verbose)
        except _StopError:
            comparison.problem = _STOPPED
        except SimulationError as error:
            comparison.problem = str(error)
    save()
    return comparison


@contextlib.contextmanager
def _store(folder: Path | None) -> Iterator[Path | None]:
    """Make a folder for memories in this one, and delete it in the end; None where there is none."""
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="memories-", dir=folder) as temporary:
        yield Path(temporary)


@dataclass(frozen=True)
class _Runner:
    """What the simulation's server does."""

    plan: Plan
    comparison: Comparison
    board: Board
    stop: threading.Event
    save: Callable[[], None]

    def run_all(self, grid: Grid) -> None:
        """Run every scheme with every seed."""
        self.board.say("Starting the simulated clients …")
        clients = OrderedGrid(grid)
        clients.learn_partitions()
        for number, seed in enumerate(self.plan.seeds):
            for scheme in self.plan.schemes:
                self._run(clients, scheme, seed, number)
                self.save()

    def _run(self, clients: Grid, scheme: Scheme, seed: int, number: int) -> None:
        """Run one scheme with one seed, the ``number``-th; its failure must not cost the others' results."""
        run = Run(scheme.name, seed)
        self.comparison.runs.append(run)
        self.board.start(scheme.name)
        watcher = UpdateWatcher(self.plan.settings.rounds) if scheme.name == PLAIN and number == 0 else None
        settings = dataclasses.replace(self.plan.settings, seed=seed)

        def on_round(result: RoundResult) -> None:
            run.rounds.append(result)
            self.board.show(scheme.name, number, result)
            if self.stop.is_set():
                raise _StopError

        try:
            federate(clients, settings, scheme, on_round=on_round, watch=watcher)
        except _StopError:
            run.problem = "stopped"
            raise
        except Exception as error:
            run.problem = f"{type(error).__name__}: {error}"
            self.board.fail(scheme.name, run.problem)
        finally:
            if watcher is not None:
                self.comparison.fits = watcher.fits


def _empty(plan: Plan, command: str) -> Comparison:
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    return Comparison(
        settings=plan.settings,
        clients=plan.clients,
        seeds=plan.seeds,
        labels={scheme.name: scheme.label for scheme in plan.schemes},
        environment={"Python": platform.python_version(), **versions, "processors": str(os.cpu_count())},
        command=command,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
