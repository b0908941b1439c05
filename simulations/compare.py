"""Comparing schemes: the same task, seeds, partitions, initial weights and batches."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from simulations.approximate_gradients import approximate
from simulations.choices import look_up
from simulations.client_app import STORE
from simulations.clock import computation
from simulations.engines import ENGINES, Execute, StopError
from simulations.federation import RoundResult
from simulations.fits import LayerFit
from simulations.interruption import stoppable
from simulations.jobs import Job, Outcome, RunFiles
from simulations.links import make_links
from simulations.models import make_model
from simulations.outer_products import parse_outer_products
from simulations.progress import Board
from simulations.results import Comparison, Run
from simulations.runtime import SimulationError, flower_log
from simulations.schemes import PLAIN, Scheme
from simulations.settings import Settings
from simulations.strategies import make_strategy
from simulations.tasks import image_shape, partition_examples
from simulations.tuning import TUNING_SEED, best_learning_rates

LOG_FILE = "flower.log"
RUNS_FOLDER = "runs"
_PACKAGES = ("flwr-co3", "flwr", "torch", "numpy", "ray")

_STOPPED = "It was stopped before its end."


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
        How many clients (or runs, with the inline engine) train at once; None for as many as there are processors.
    engine : str
        "flower" or "inline", see :mod:`simulations.engines`.
    learning_rates : tuple of float
        Those of which each scheme gets the one that is best for it, see :mod:`simulations.tuning`. With none, all have
        the settings' learning rate.
    store : Path or None
        Where the clients' memories are on disk, in a folder that is deleted in the end; None keeps them in RAM.
    target : float or None
        The accuracy up to which bytes and time are compared; None for two points below FedAvg's.
    """

    settings: Settings
    schemes: list[Scheme]
    seeds: list[int]
    clients: int
    parallel: int | None = None
    engine: str = "flower"
    learning_rates: tuple[float, ...] = ()
    store: Path | None = None
    target: float | None = None

    def check(self) -> None:
        """Find out before anything is started whether there is such a model, and such data that can be divided.

        Raises
        ------
        ValueError, ImportError
            With what is wrong.
        """
        if self.clients < 1:
            raise ValueError(f"{self.clients} clients cannot train: give at least one.")
        if self.settings.links:
            make_links(self.settings.links, self.settings.seed)
            computation(self.settings)
        for scheme in self.schemes:
            if scheme.uplink_seconds is not None and not self.settings.links:
                raise ValueError(f"The scheme {scheme.name!r} has budgets by the clients' links: give --links.")
        look_up(ENGINES, self.engine, "engine")
        if TUNING_SEED in self.seeds:
            raise ValueError(f"The seed {TUNING_SEED} is the one for tuning: choose others.")
        make_strategy(self.settings.strategy, self.settings.fraction_train)
        model = make_model(self.settings.model, image_shape(self.settings.dataset), seed=0)
        approximate(model, parse_outer_products(self.settings.outer_products))
        for seed in self.seeds:
            partition_examples(
                self.settings.dataset, self.settings.partitioner, seed, 0, self.clients, self.settings.subset
            )

    def tuning_jobs(self) -> list[Job]:
        """Return the runs by which learning rates are chosen: the same for each scheme."""
        settings = dataclasses.replace(self.settings, seed=TUNING_SEED, validation=True)
        return [
            Job(scheme, dataclasses.replace(settings, learning_rate=rate), self.clients)
            for rate in self.learning_rates
            for scheme in self.schemes
        ]

    def jobs(self, learning_rates: Mapping[str, float]) -> list[Job]:
        """Return the runs to be reported; a scheme without a learning rate, because no run of it ended, has none."""
        return [
            Job(
                scheme,
                dataclasses.replace(self.settings, seed=seed, learning_rate=learning_rates[scheme.name]),
                self.clients,
                watched=scheme.name == PLAIN and seed == self.seeds[0],
            )
            for seed in self.seeds
            for scheme in self.schemes
            if scheme.name in learning_rates
        ]


def compare(
    plan: Plan, out: Path, console: Console, *, verbose: bool = False, command: str = "", fresh: bool = False
) -> Comparison:
    """Carry out the plan, showing progress. Each finished run is kept in a file, and is not made again.

    A scheme that fails is noted and the others go on; Ctrl-C ends it after the round. Either way the results
    so far are returned and saved.

    Parameters
    ----------
    plan : Plan
        What to compare.
    out : Path
        The folder for results, the finished runs and Flower's log.
    console : Console
        Where to show progress.
    verbose : bool (default: False)
        Show Flower's log on the terminal rather than write it to a file.
    command : str
        The command line, to be told in the report.
    fresh : bool (default: False)
        Make all runs again, also those that are there.
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
        _memories_in(plan.store),
        Board(console, comparison.labels, plan.settings.rounds, len(plan.learning_rates) + len(plan.seeds)) as board,
    ):
        desk = _Desk(board, RunFiles(out / RUNS_FOLDER), stop, save, fresh)

        def work(execute: Execute) -> None:
            tuning = _Notes(desk, plan.tuning_jobs(), comparison.tuning)
            execute(tuning.waiting, tuning)
            rates = dict.fromkeys(comparison.labels, plan.settings.learning_rate)
            if plan.learning_rates:
                rates = best_learning_rates(comparison.tuning)
            final = _Notes(desk, plan.jobs(rates), comparison.runs, comparison.fits)
            execute(final.waiting, final)

        board.say("Starting the simulated clients …")
        try:
            ENGINES[plan.engine](work, clients=plan.clients, parallel=plan.parallel, verbose=verbose)
        except StopError:
            comparison.problem = _STOPPED
        except SimulationError as error:
            comparison.problem = str(error)
    save()
    return comparison


@contextlib.contextmanager
def _memories_in(folder: Path | None) -> Iterator[None]:
    """Keep the clients' memories in a folder in this one, and delete it in the end; in RAM if there is none."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="memories-", dir=folder.resolve()) as temporary:
        os.environ[STORE] = temporary  # processes that are started from here on have it
        try:
            yield
        finally:
            del os.environ[STORE]


class _Desk(NamedTuple):
    """What all notes are taken with."""

    board: Board
    files: RunFiles
    stop: threading.Event
    save: Callable[[], None]
    fresh: bool


class _Notes:
    """Hears how jobs go, and notes it where it is shown, reported and kept.

    Parameters
    ----------
    desk : _Desk
        What it is done with.
    jobs : list of Job
        Those that are kept already are noted at once, unless all are to be made again.
    runs : list of Run
        Where the runs go, in the order of the jobs.
    fits : list of LayerFit, optional
        Where the fits go.
    """

    def __init__(self, desk: _Desk, jobs: list[Job], runs: list[Run], fits: list[LayerFit] | None = None) -> None:
        self.stop = desk.stop
        self.waiting: list[Job] = []
        self._desk, self._jobs, self._runs, self._fits = desk, jobs, runs, fits
        self._found: dict[Job, Run] = {}
        for job in jobs:
            kept = None if desk.fresh else desk.files.read(job)
            if kept is None:
                self.waiting.append(job)
            else:
                self._note(job, kept)
                desk.board.skip(job.scheme.name)

    def started(self, job: Job) -> None:
        self._found[job] = Run(job.scheme.name, job.settings.seed, [], "stopped", job.settings.learning_rate)
        self._put_down()
        self._desk.board.start(job.scheme.name)

    def advanced(self, job: Job, result: RoundResult) -> None:
        self._found[job].rounds.append(result)
        self._desk.board.show(job.scheme.name, job.settings.seed, result)

    def finished(self, job: Job, outcome: Outcome) -> None:
        self._desk.files.write(job, outcome)
        self._note(job, outcome)
        self._desk.save()

    def failed(self, job: Job, problem: str) -> None:
        self._found[job].problem = problem
        self._desk.board.fail(job.scheme.name, problem)
        self._put_down()
        self._desk.save()

    def _note(self, job: Job, outcome: Outcome) -> None:
        self._found[job] = outcome.run
        if self._fits is not None:
            self._fits.extend(outcome.fits)
        self._put_down()

    def _put_down(self) -> None:
        self._runs[:] = [self._found[job] for job in self._jobs if job in self._found]


def _empty(plan: Plan, command: str) -> Comparison:
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    return Comparison(
        settings=plan.settings,
        clients=plan.clients,
        seeds=plan.seeds,
        learning_rates=list(plan.learning_rates),
        target=plan.target,
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
