"""The MNIST table of Mem-AOP-GD, trained again: one dense layer, all data at one client, each way to choose products.

The set-up is that of the authors' published code (github.com/HernandezEduin/Mem-AOP-GD, mnist_simulations.py):
784 inputs in -1 .. 1, 10 outputs, SGD with rate 0.01, batches of 64, 30 epochs, the accuracy on the test split after
the last. Their network ends in a softmax, and their loss, which takes logits, applies another. That is why exact
gradients give .867 rather than the .92 of a softmax regression. They skip an epoch's last batch, of 32 examples.
"""

import itertools
import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from rich.box import SIMPLE_HEAD
from rich.progress import track
from rich.table import Table
from torch import nn

from simulations.approximate_gradients import approximate, share_saved
from simulations.choices import look_up
from simulations.outer_products import EXACT, SELECTIONS, parse_outer_products
from simulations.settings import Settings
from simulations.tasks import evaluation_examples, image_shape, partition_examples
from simulations.training import evaluate, train

_PUBLISHED_RUNS = 10
_KS = (32, 16, 8)
_PUBLISHED = {
    EXACT: (0.867,),
    "topk, memory": (0.882, 0.872, 0.838),
    "topk": (0.675, 0.479, 0.332),
    "weighted, memory": (0.897, 0.856, 0.838),
    "weighted": (0.676, 0.470, 0.311),
    "random, memory": (0.859, 0.810, 0.179),
    "random": (0.868, 0.820, 0.778),
}


@dataclass(frozen=True)
class Cell:
    """One entry of the published table.

    Attributes
    ----------
    label : str
        Its row.
    outer_products : str
        The option that makes it.
    published : float
        Mean of ten runs' validation accuracies.
    """

    label: str
    outer_products: str
    published: float


def cells(rows: str = "") -> list[Cell]:
    """Return the entries of the table, row by row; of all rows, or of those named, separated by semicolons.

    Raises
    ------
    ValueError
        If there is no such row.
    """
    named = [row.strip() for row in rows.split(";") if row.strip()]
    for row in named:
        look_up(_PUBLISHED, row, "row")
    return [cell for cell in _all_cells() if not named or cell.label in named]


def _all_cells() -> list[Cell]:
    table = [Cell(EXACT, EXACT, *_PUBLISHED[EXACT])]
    for selection, decay in itertools.product(SELECTIONS, (1, 0)):
        label = f"{selection}, memory" if decay else selection
        for k, published in zip(_KS, _PUBLISHED[label], strict=True):
            table.append(Cell(label, f"{selection}:k={k},memory_decay={decay}", published))
    return table


@dataclass(frozen=True)
class Job:
    """One training run; see :func:`train_once`."""

    dataset: str
    outer_products: str
    epochs: int
    twice: bool
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a run gave: accuracy on the test split, and the share of its weight gradients' multiplications saved."""

    accuracy: float
    saved: float


def train_once(job: Job) -> Outcome:
    """Train one dense layer on all of the data."""
    torch.set_num_threads(1)  # a step is too small to divide
    settings = Settings(
        dataset=job.dataset,
        outer_products=job.outer_products,
        local_epochs=job.epochs,
        batch_size=64,
        learning_rate=0.01,
        momentum=0.0,
        seed=job.seed,
    )
    shape = image_shape(job.dataset)
    torch.manual_seed(job.seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape.channels * shape.height * shape.width, shape.classes))
    if job.twice:
        model.append(nn.Softmax(dim=1))
    memories = approximate(model, parse_outer_products(job.outer_products))
    train(model, partition_examples(job.dataset, "iid", 0, 0, 1), settings, server_round=1, partition=0)
    return Outcome(evaluate(model, evaluation_examples(job.dataset)).accuracy, share_saved(memories))


def reproduce(dataset: str, *, rows: str, runs: int, epochs: int, twice: bool, parallel: int | None) -> Table:
    """Train the entries of the table, showing progress, and return them beside the published ones.

    Parameters
    ----------
    dataset : str
        MNIST, as a local folder or by its name on the Hub.
    rows : str
        See :func:`cells`.
    runs : int
        Runs of each entry, with the seeds 0, 1, ... One alone has no spread to judge the difference by.
    epochs : int
        The published table has 30.
    twice : bool
        Whether the softmax is applied twice, as published, or once.
    parallel : int or None
        Runs at once; None for as many as there are processors.

    Raises
    ------
    ValueError
        If the data set can't be read, or there is nothing to run.
    """
    if runs < 1:
        raise ValueError(f"{runs} runs are none at all: give at least one.")
    chosen = cells(rows)
    evaluation_examples(dataset)  # before any process starts: an error is told once
    jobs = [Job(dataset, cell.outer_products, epochs, twice, seed) for cell in chosen for seed in range(runs)]
    outcomes = iter(track(_all(jobs, parallel), "Training", total=len(jobs)))
    return _table([(cell, list(itertools.islice(outcomes, runs))) for cell in chosen])


def _all(jobs: list[Job], parallel: int | None) -> Iterator[Outcome]:
    if parallel == 1:
        yield from map(train_once, jobs)
        return
    # A fork would share the locks of torch's threads.
    with ProcessPoolExecutor(parallel, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(train_once, jobs)


def _table(rows: list[tuple[Cell, list[Outcome]]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Outer products", no_wrap=True)
    for heading in ("Published", "Here", "Difference", "Standard\nerrors", "Multiplications\nsaved"):
        table.add_column(heading, justify="right")
    for cell, outcomes in rows:
        accuracies = [outcome.accuracy for outcome in outcomes]
        mean = statistics.fmean(accuracies)
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        error = (spread or 0.0) * (1 / len(accuracies) + 1 / _PUBLISHED_RUNS) ** 0.5
        table.add_row(
            cell.outer_products,
            f"{cell.published:.3f}",
            f"{mean:.3f}" if spread is None else f"{mean:.3f} ± {spread:.3f}",
            f"{mean - cell.published:+.3f}",
            f"{abs(mean - cell.published) / error:.1f}" if error else "–",
            f"{statistics.fmean(outcome.saved for outcome in outcomes):.0%}",
        )
    return table
