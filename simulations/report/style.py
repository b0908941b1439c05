"""Colours and marks of the figures, and how figures become parts of a page that may be light or dark."""

import io
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib import rc_context
from matplotlib.figure import Figure

matplotlib.use("Agg")


class Series(NamedTuple):
    """How one scheme is drawn: by colour, marker and line, so that colour alone carries nothing."""

    light: str
    dark: str
    marker: str
    line: Literal["-", "--"]


# Okabe and Ito's colour-blind-safe set, darkened for white paper until text in them is legible (4.5 : 1 and
# more).
SERIES = (
    Series("#4a5160", "#c3cad6", "o", "--"),
    Series("#0069a8", "#5ab4f0", "s", "-"),
    Series("#b34700", "#ff9a57", "^", "-"),
    Series("#00755a", "#3fcf9f", "D", "-"),
    Series("#9a3f7d", "#e58fc4", "v", "-"),
    Series("#7d6200", "#e3bd4f", "P", "-"),
    Series("#2b7a9e", "#7fd0e8", "X", "-"),
    Series("#6b4fb3", "#b6a1f2", "*", "-"),
)
INK, MUTED, GRID = "#1b1f27", "#5c6470", "#e3e6eb"
_THEMED = {INK: "ink", MUTED: "muted", GRID: "line"}

RC: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "flwr-co3",  # the same figure gives the same file
    "axes.facecolor": "none",
    "legend.labelcolor": MUTED,
}


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write ``name``.svg and ``name``.png, and return the SVG element to put into a page.

    Parameters
    ----------
    name : str
        Also makes the ids in the element unique in its page.
    """
    with rc_context(RC):
        return _saved(figure, folder, name)


def _saved(figure: Figure, folder: Path, name: str) -> str:
    figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white")
    text = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(text, format="svg", metadata=metadata, facecolor="none")
    (folder / f"{name}.svg").write_text(text.getvalue(), encoding="utf-8")
    return _for_page(text.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """Drop what only a file needs, make ids unique and colours follow the page's theme."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg xmlns:xlink="http://www.w3.org/1999/xlink" \1>',
        svg,
        count=1,
    )
    svg = re.sub(r"font: (\S+) [^;\"]*", r"font-size: \1", svg)
    for colour, variable in _THEMED.items():
        svg = svg.replace(colour, f"var(--{variable})")
    for number, series in enumerate(SERIES):
        svg = svg.replace(series.light, f"var(--series-{number})")
    return svg.strip()
