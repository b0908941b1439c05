"""Names written at the ends of curves, moved apart where they would overlap."""

from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

_FONT = 9  # points
_LINE = 14.0  # points from one line of labels to the next
_LETTER = 0.58 * _FONT  # points; the mean width of one


class End(NamedTuple):
    """Where a curve ends, in data coordinates, and what is to be written there."""

    x: float
    y: float
    label: str
    colour: str


def label_right(figure: Figure, axes: Axes, ends: list[End]) -> None:
    """Write the labels in a column to the right of the axes, each as near to its curve's end as can be."""
    _lay_out(figure)
    height = axes.bbox.height / figure.dpi * 72
    ordered = sorted(ends, key=lambda end: end.y)
    wanted = [_fraction(axes, end)[1] * height for end in ordered]
    for end, position in zip(ordered, spread(wanted, _LINE, height), strict=True):
        axes.annotate(
            end.label,
            (end.x, end.y),
            (1.05, position / height),
            textcoords="axes fraction",
            va="center",
            **_look(end.colour, (0.0, 0.5)),
        )


def label_above(figure: Figure, axes: Axes, ends: list[End]) -> None:
    """Write the labels above the axes in rising rows, each with a line up from its curve's end."""
    _lay_out(figure)
    width, margin = (points / figure.dpi * 72 for points in (axes.bbox.width, axes.bbox.x0))
    axes.set_xlim(axes.get_xlim())
    ordered = sorted(ends, key=lambda end: end.x)
    places = [_fraction(axes, end)[0] * width for end in ordered]
    lengths = [_LETTER * len(end.label) for end in ordered]
    for end, place, length, row in zip(ordered, places, lengths, rows(places, lengths), strict=True):
        right = max(place, length - margin)  # above the axes, the margin to their left is free
        above = ScaledTranslation(0, (row * _LINE + 6) / 72, figure.dpi_scale_trans)
        axes.annotate(
            end.label,
            (end.x, end.y),
            (right / width, 1.0),
            textcoords=blended_transform_factory(axes.transAxes, axes.transAxes) + above,
            ha="right",
            va="bottom",
            **_look(end.colour, (1 - (right - place) / length, 0.0)),
        )


def spread(positions: list[float], gap: float, ceiling: float) -> list[float]:
    """Move ascending positions at least ``gap`` apart, upwards first, then down from the ceiling.

    >>> spread([0.0, 1.0, 50.0], gap=10, ceiling=55)
    [0.0, 10.0, 50.0]
    >>> spread([49.0, 50.0], gap=10, ceiling=55)
    [45, 55]
    """
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + gap) if placed else position)
    for number in reversed(range(len(placed))):
        placed[number] = min(placed[number], ceiling)
        ceiling = placed[number] - gap
    return placed


def rows(places: list[float], lengths: list[float]) -> list[int]:
    """Choose rows for labels that end at ascending places, so that none hides another or its line.

    >>> rows([100.0, 110.0, 300.0], [50.0, 50.0, 50.0])
    [0, 1, 0]
    """
    chosen: list[int] = []
    for place, length in zip(places, lengths, strict=True):
        beside = [row for row, earlier in zip(chosen, places, strict=False) if earlier > place - length - _LETTER]
        chosen.append(max(beside, default=-1) + 1)
    return chosen


def _lay_out(figure: Figure) -> None:
    """Draw the figure once: only then is it known where things are."""
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]


def _fraction(axes: Axes, end: End) -> tuple[float, float]:
    x, y = axes.transAxes.inverted().transform(axes.transData.transform((end.x, end.y)))
    return float(x), float(y)


def _look(colour: str, foot: tuple[float, float]) -> dict[str, Any]:
    """Return the options of a label whose line starts at ``foot`` of its box."""
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3, "relpos": foot}
    return {"color": colour, "fontsize": _FONT, "annotation_clip": False, "arrowprops": line}
