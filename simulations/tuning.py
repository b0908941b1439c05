"""The choice of a learning rate for each scheme.

A fair comparison tunes all schemes with the same effort, and not on what it reports: each scheme is trained once with
each learning rate of the same grid, with a seed of its own (other partitions, initial weights and batches), and is
evaluated on examples that no client has and that are not of the test split.
"""

from collections.abc import Iterable

from simulations.results import Run

TUNING_SEED = 1_000_003


def best_learning_rates(runs: Iterable[Run]) -> dict[str, float]:
    """Return for each scheme the learning rate with the highest final accuracy; the lower of two that are equal.

    A run that ended early has no part in it.
    """
    best: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.learning_rate):
        if not run.problem and (run.scheme not in best or run.final_accuracy > best[run.scheme].final_accuracy):
            best[run.scheme] = run
    return {scheme: run.learning_rate for scheme, run in best.items()}
