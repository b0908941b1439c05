"""The figures: accuracy against bytes and against rounds, and distributions over real updates."""

import itertools
import re
import textwrap
from collections.abc import Callable

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from simulations.fits import LayerFit
from simulations.report.labels import End, label_above, label_right
from simulations.report.panels import panels_of
from simulations.report.style import GRID, RC, SERIES, Series
from simulations.results import Comparison, Run
from simulations.units import as_bytes

_SIZE = (5.4, 4.4)  # inches; small, so that the text is still legible when a phone shrinks it
_WIDE, _HIGH, _LEGEND_LETTERS = 7.6, 3.2, 34  # where panels with legends share a figure: inches, and letters of a line
_MODEL_LOOKS = {"GenNorm": (SERIES[1], "-"), "Laplace": (SERIES[2], "--"), "normal": (SERIES[3], ":")}

_DEVIATIONS = (-6, -3, 0, 3, 6)


def accuracy_by_bytes(comparison: Comparison) -> Figure:
    """Draw accuracy against the bytes that all clients have sent, on a logarithmic axis."""

    def cumulated(run: Run) -> list[float]:
        return list(itertools.accumulate(float(result.uplink_bytes) for result in run.rounds))[1:]

    def prepare(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"\.0+ ", " ", as_bytes(value))))
        axes.set_xlabel("sent by all clients together")

    return _accuracies(comparison, cumulated, prepare, label_above)


def accuracy_by_time(comparison: Comparison) -> Figure:
    """Draw accuracy against the simulated clock, on a logarithmic axis."""

    def clock(run: Run) -> list[float]:
        return (run.simulated_seconds or [])[1:]

    def prepare(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
        axes.set_xlabel("simulated time")

    return _accuracies(comparison, clock, prepare, label_above)


def accuracy_by_round(comparison: Comparison) -> Figure:
    """Draw accuracy against rounds."""

    def numbers(run: Run) -> list[float]:
        return [float(result.round) for result in run.rounds[1:]]

    def prepare(axes: Axes) -> None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("round")

    return _accuracies(comparison, numbers, prepare, label_right)


def layer_fit(fit: LayerFit) -> Figure:
    """Draw the histogram of a layer's update and the fitted densities over it, on a logarithmic axis."""
    with rc_context(RC):
        figure = Figure(figsize=(3.6, 2.7))
        axes = figure.subplots()
        edges, density = np.array(fit.edges), np.array(fit.density)
        floor = 0.5 * density[density > 0].min()
        axes.stairs(np.maximum(density, floor), edges, baseline=floor, fill=True, color=GRID)
        x = np.linspace(edges[0], edges[-1], 600)
        for model in fit.models:
            series, line = _MODEL_LOOKS[model.name]
            axes.plot(x, model.distribution.pdf(x), line, color=series.light, label=model.name, zorder=3)
        axes.set_yscale("log")
        axes.set_ylim(floor, 3 * density.max())
        axes.set_xticks(_DEVIATIONS)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("update / its standard deviation")
        axes.set_ylabel("density")
        axes.set_title(f"{fit.layer}, round {fit.round}")
        axes.legend(frameon=False, fontsize=8, loc="upper right", handlelength=1.8)
    return figure


def _accuracies(
    comparison: Comparison,
    positions: Callable[[Run], list[float]],
    prepare: Callable[[Axes], None],
    put_labels: Callable[[Figure, Axes, list[End]], None],
) -> Figure:
    panels = panels_of(comparison)
    few = not panels[0].title
    with rc_context(RC):
        figure = Figure(figsize=_SIZE if few else (_WIDE, _HIGH * len(panels)))
        rows = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)[:, 0]
        for panel, axes in zip(panels, rows, strict=True):
            prepare(axes)
            axes.label_outer()
            ends = [
                End(*_curve(axes, comparison.runs_of(name), positions, look), comparison.labels[name], look.light)
                for name, look in panel.looks.items()
            ]
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_ylabel("accuracy on the test data")
            axes.set_title(panel.title)
            if not few:
                _put_legend(axes, [end.label for end in ends], list(panel.looks.values()))
        rows[0].set_ylim(*_accuracy_limits(comparison))
        if few:
            put_labels(figure, rows[0], ends)
    return figure


def _put_legend(axes: Axes, labels: list[str], looks: list[Series]) -> None:
    """Say right of the axes what is drawn."""
    lines = [Line2D([], [], color=look.light, linestyle=look.line, marker=look.marker) for look in looks]
    wrapped = [textwrap.fill(label, _LEGEND_LETTERS) for label in labels]
    axes.legend(lines, wrapped, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _curve(axes: Axes, runs: list[Run], positions: Callable[[Run], list[float]], series: Series) -> tuple[float, float]:
    """Draw the mean over the runs, and a band of one standard deviation; return where it ends."""
    length = min(len(run.rounds) for run in runs) - 1
    x = np.mean([positions(run)[:length] for run in runs], axis=0)
    y: NDArray[np.float64] = np.array([[result.accuracy for result in run.rounds[1 : length + 1]] for run in runs])
    mean = y.mean(axis=0)
    axes.plot(x, mean, series.line, color=series.light, zorder=3)
    axes.plot(x[-1:], mean[-1:], series.marker, color=series.light, zorder=4)
    if len(runs) > 1:
        spread = y.std(axis=0, ddof=1)
        axes.fill_between(x, mean - spread, mean + spread, color=series.light, alpha=0.14, linewidth=0)
    return float(x[-1]), float(mean[-1])


def _accuracy_limits(comparison: Comparison) -> tuple[float, float]:
    """Return limits that leave out none of the curves and little else."""
    accuracies = [result.accuracy for run in comparison.runs for result in run.rounds[1:]]
    low, high = min(accuracies), max(accuracies)
    margin = 0.04 * max(high - low, 0.05)
    return max(0.0, low - margin), min(1.0, high + margin) if high < 0.995 else 1.005
