"""Which scheme is best at each budget, and which ones can't be told from it."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from scipy import stats

from simulations.results import Comparison, Run
from simulations.schemes import budget_of

Standing = Literal["best", "tied", "", "alone"]
_SIGNIFICANT = 0.05


def standings(comparison: Comparison) -> dict[str, Standing]:
    """Compare the final accuracies of the schemes that have the same budget.

    The best of a budget has the highest mean over the seeds. Another one is tied with it unless a paired t-test over
    the seeds that both have, in which partitions, initial weights and batches are the same for both, finds a
    difference (p < 0.05, two-sided, not corrected for the number of schemes). One seed can't tell: nothing is
    tied then.

    Returns
    -------
    dict
        "best", "tied" or "" for each scheme that has results; "alone" where nothing else has its budget.
    """
    groups: dict[float | str | None, list[str]] = defaultdict(list)
    for row in comparison.summaries():
        groups[budget_of(row.scheme)].append(row.scheme)
    found: dict[str, Standing] = {}
    for budget, schemes in groups.items():
        if budget is None or len(schemes) == 1:
            found |= dict.fromkeys(schemes, "alone")
            continue
        accuracies = {scheme: _by_seed(comparison.runs_of(scheme)) for scheme in schemes}
        best = max(schemes, key=lambda scheme: statistics.fmean(accuracies[scheme].values()))
        for scheme in schemes:
            found[scheme] = "best" if scheme == best else _against(accuracies[best], accuracies[scheme])
    return found


def _by_seed(runs: Iterable[Run]) -> dict[int, float]:
    return {run.seed: run.final_accuracy for run in runs}


def _against(best: dict[int, float], other: dict[int, float]) -> Standing:
    seeds = sorted(best.keys() & other.keys())
    differences = [best[seed] - other[seed] for seed in seeds]
    if len(seeds) < 2:
        return ""
    if len(set(differences)) == 1:  # no spread, of which the test could make nothing
        return "tied" if differences[0] == 0 else ""
    p = float(stats.ttest_rel([best[seed] for seed in seeds], [other[seed] for seed in seeds]).pvalue)
    return "tied" if p >= _SIGNIFICANT else ""
