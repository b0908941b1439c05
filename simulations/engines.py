"""How jobs are done: one after the other in Flower's Simulation Runtime, or side by side, each in one process."""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import ray
import torch
from flwr.serverapp import Grid
from ray.util.queue import Queue

from simulations.client_app import app
from simulations.clients import OrderedGrid
from simulations.federation import RoundResult
from simulations.inline import InlineGrid, outside_a_run
from simulations.jobs import Job, Outcome, do
from simulations.runtime import end_ray, gpu_share, processes, simulate, start_ray

_POLL_SECONDS = 0.2


class StopError(Exception):
    """The user asked for the end."""


class Listener(Protocol):
    """Hears how jobs go."""

    stop: threading.Event

    def started(self, job: Job) -> None:
        """Hear that a job was begun."""

    def advanced(self, job: Job, result: RoundResult) -> None:
        """Hear of a round."""

    def finished(self, job: Job, outcome: Outcome) -> None:
        """Hear what a job gave."""

    def failed(self, job: Job, problem: str) -> None:
        """Hear why a job ended early; the others go on."""


Execute = Callable[[list[Job], Listener], None]
"""Does jobs and tells the listener; raises StopError once its ``stop`` is set."""

Work = Callable[[Execute], None]
Engine = Callable[..., None]


def flower(work: Work, *, clients: int, parallel: int | None = None, verbose: bool = False) -> None:
    """Let ``work`` do its jobs one after the other, the clients of each side by side in Flower's Simulation Runtime.

    Parameters
    ----------
    work : Callable
        Is given what does a list of jobs, and may call it several times.
    clients : int
        Number of simulated clients, the same for all jobs.
    parallel : int, optional
        How many train at once; one for each processor unless given.
    verbose : bool (default: False)
        Also show what Ray's processes print.

    Raises
    ------
    StopError
        If the user asked for the end.
    SimulationError
        If the runtime breaks down.
    """

    def serve(grid: Grid) -> None:
        ordered = OrderedGrid(grid)
        ordered.learn_partitions()
        work(lambda jobs, listener: _one_by_one(jobs, listener, lambda job: ordered))

    simulate(serve, clients=clients, parallel=parallel, verbose=verbose)


def _one_by_one(jobs: list[Job], listener: Listener, grid_of: Callable[[Job], Grid]) -> None:
    for job in jobs:
        _check(listener.stop)
        listener.started(job)

        def on_round(result: RoundResult, job: Job = job) -> None:
            listener.advanced(job, result)
            _check(listener.stop)

        try:
            outcome = do(job, grid_of(job), on_round)
        except StopError:
            raise
        except Exception as error:
            listener.failed(job, f"{type(error).__name__}: {error}")
        else:
            listener.finished(job, outcome)


def inline(work: Work, *, clients: int, parallel: int | None = None, verbose: bool = False) -> None:
    """Let ``work`` do its jobs side by side, each in a process with one thread and without a runtime in it.

    Where a model is small, this is many times faster than Flower's runtime, with the same results. Ray spreads the
    processes over this machine, or over the cluster that the variable RAY_ADDRESS names. Takes what :func:`flower`
    takes; ``parallel`` is the number of jobs at once, and each job says its own number of clients. A single one at a
    time needs no Ray: it is done in this process.
    """
    if parallel == 1:
        with outside_a_run():
            work(lambda jobs, listener: _one_by_one(jobs, listener, _inline_grid))
        return
    start_ray(parallel, verbose)
    try:
        work(_side_by_side)
    finally:
        end_ray()


def _inline_grid(job: Job) -> Grid:
    grid = OrderedGrid(InlineGrid(app, job.clients))
    grid.learn_partitions()
    return grid


def _side_by_side(jobs: list[Job], listener: Listener) -> None:
    remote = ray.remote(num_cpus=1, num_gpus=gpu_share())(_do_alone)
    news: Queue = Queue(actor_options={"num_cpus": 0})
    waiting, running = deque(enumerate(jobs)), dict[Any, Job]()
    slots = processes()
    try:
        while waiting or running:
            while waiting and len(running) < slots:
                number, job = waiting.popleft()
                running[remote.remote(number, job, news)] = job
                listener.started(job)
            done, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
            for number, result in _heard(news):
                listener.advanced(jobs[number], result)
            for reference in done:
                job, found = running.pop(reference), ray.get(reference)
                if isinstance(found, Outcome):
                    listener.finished(job, found)
                else:
                    listener.failed(job, found)
            _check(listener.stop)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        news.shutdown()


def _heard(news: Queue) -> Iterator[tuple[int, RoundResult]]:
    while count := news.qsize():
        yield from news.get_nowait_batch(count)


def _do_alone(number: int, job: Job, news: Queue) -> Outcome | str:
    """Do a job in a process of Ray's; return what it gave, or why it ended early."""
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        with outside_a_run():
            return do(job, _inline_grid(job), lambda result: news.put((number, result)))
    except Exception as error:
        logging.getLogger("flwr").error(traceback.format_exc())
        return f"{type(error).__name__}: {error}"


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise StopError


ENGINES: dict[str, Engine] = {"flower": flower, "inline": inline}
