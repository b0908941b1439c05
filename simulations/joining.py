"""Several comparisons on one task as one."""

import dataclasses

from simulations.results import Comparison


def join(comparisons: list[Comparison]) -> Comparison:
    """Put the runs of several comparisons together; of a run that is in several, the first counts.

    Raises
    ------
    ValueError
        If they differ in what was trained or how; seeds, schemes and learning rates may differ.
    """
    first = comparisons[0]
    for other in comparisons[1:]:
        mine, theirs = (dataclasses.asdict(each.settings) for each in (first, other))
        differing = [key for key in mine if key not in ("seed", "learning_rate") and mine[key] != theirs[key]]
        if first.clients != other.clients:
            differing.append("clients")
        if differing:
            raise ValueError(
                f"These comparisons are not of one task: they differ in {', '.join(differing)}. Report each by itself."
            )
    labels = {name: label for each in reversed(comparisons) for name, label in each.labels.items()}
    order = dict.fromkeys(name for each in comparisons for name in each.labels)
    runs = {(run.scheme, run.seed): run for each in reversed(comparisons) for run in each.runs}
    return dataclasses.replace(
        first,
        seeds=list(dict.fromkeys(seed for each in comparisons for seed in each.seeds)),
        labels={name: labels[name] for name in order},
        runs=list(runs.values()),
        tuning=[run for each in comparisons for run in each.tuning],
        fits=next((each.fits for each in comparisons if each.fits), []),
        command=" ; ".join(each.command for each in comparisons),
        seconds=sum(each.seconds for each in comparisons),
        problem=" ".join(each.problem for each in comparisons if each.problem),
    )
