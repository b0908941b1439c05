"""Which curves share a figure's axes: all of them, or a panel for each budget where they are too many."""

from typing import NamedTuple

from simulations.report.style import SERIES, Series
from simulations.results import Comparison
from simulations.schemes import PLAIN, budget_of

_LONGEST = 48  # letters of a label at the end of a curve; a legend takes any


class Panel(NamedTuple):
    """Curves that share axes, each with a look that no other one there has."""

    title: str
    looks: dict[str, Series]  # by scheme


def panels_of(comparison: Comparison) -> list[Panel]:
    """Divide the schemes among panels; plain FedAvg is in each of them, to compare with.

    One panel without a title has its labels at the curves: as many as there are looks, with short labels.
    """
    names = [name for name in comparison.labels if comparison.runs_of(name)]
    if len(names) <= len(SERIES) and all(len(comparison.labels[name]) <= _LONGEST for name in names):
        return [Panel("", dict(zip(names, SERIES, strict=False)))]
    plain = [name for name in names if name == PLAIN]
    room = len(SERIES) - 1
    panels = []
    for budget in dict.fromkeys(budget_of(name) for name in names if name not in plain):
        members = [name for name in names if name not in plain and budget_of(name) == budget]
        for start in range(0, len(members), room):
            looks = dict(zip(members[start : start + room], SERIES[1:], strict=False))
            panels.append(Panel(_title(budget), dict.fromkeys(plain, SERIES[0]) | looks))
    return panels or [Panel("", dict.fromkeys(plain, SERIES[0]))]


def looks_of(comparison: Comparison) -> dict[str, Series]:
    """Give every scheme its look."""
    return {name: look for panel in panels_of(comparison) for name, look in panel.looks.items()}


def _title(budget: float | str | None) -> str:
    if budget is None:
        return "No budget in bits"
    return f"At most {budget:g} bit a parameter" if isinstance(budget, float) else f"At most {budget} bit a parameter"
