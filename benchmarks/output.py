"""Tables of figures: for the terminal, as GitHub's Markdown, or as JSON for another process."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import machine

Cell: TypeAlias = str | int | float | None  # None where there is nothing to say
Row: TypeAlias = dict[str, Cell]  # by heading


class Form(StrEnum):
    """How tables are written."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    JSON = "json"


class Table(NamedTuple):
    """Rows under a title; the first row's keys are the headings of all."""

    title: str
    rows: Sequence[Row]
    note: str = ""


def show(tables: Sequence[Table], form: Form) -> None:
    """Print tables, with the command that made them and the machine."""
    if form is Form.JSON:
        print(json.dumps([table._asdict() for table in tables]))
        return
    if form is Form.MARKDOWN:
        print(f"    {command()}\n\n{machine.line()}.")
        for table in tables:
            print(f"\n{markdown(table)}")
        return
    console = Console(highlight=False)
    console.print(machine.line(), soft_wrap=True)
    for table in tables:
        rich = _terminal(table)
        # No figure is cut: where the terminal is too narrow, it breaks the lines.
        console.width = max(console.width, console.measure(rich, options=console.options.update(width=1000)).maximum)
        console.print(rich)


def markdown(table: Table) -> str:
    """Write one table as GitHub's Markdown."""
    headings = _headings(table)
    numeric = [any(isinstance(row.get(heading), (int, float)) for row in table.rows) for heading in headings]
    lines = [
        _line(headings),
        "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
        *(_line([written(row.get(heading)) for heading in headings]) for row in table.rows),
    ]
    note = f"\n\n{table.note}" if table.note else ""
    return f"**{table.title}**\n\n" + "\n".join(lines) + note


def written(cell: Cell) -> str:
    """Write a cell: numbers with three digits.

    >>> written(1234567), written(0.012345), written(12.345), written(1234.5), written(None)
    ('1,234,567', '0.0123', '12.3', '1,234', '–')
    """
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 999.5:
        return f"{cell:,.0f}"
    if 0 < abs(cell) < 1e-3:
        return f"{cell:.2e}"
    digits = 5 if 0.95 < cell < 1.05 else 3  # ratios near 1 differ in the digits behind
    return f"{cell:#.{digits}g}".rstrip(".")


def command() -> str:
    """The command line that was given, with the variables that matter, and less the form of its output."""
    variables = [f"{name}={os.environ[name]}" for name in (machine.KERNELS, machine.THREADS) if name in os.environ]
    words = [word for word in sys.argv[1:] if word not in {"--form", *Form}]
    return shlex.join([*variables, "python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *words])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _headings(table: Table) -> list[str]:
    return list(table.rows[0]) if table.rows else []


def _terminal(table: Table) -> RichTable:
    rich = RichTable(title=table.title, title_justify="left", caption=table.note or None, caption_justify="left")
    rich.box, rich.pad_edge = SIMPLE_HEAD, False
    for index, heading in enumerate(_headings(table)):
        words = heading.replace(", ", ",\n")
        rich.add_column(words, justify="left" if index == 0 else "right", no_wrap=True)
    for row in table.rows:
        rich.add_row(*(written(row.get(heading)) for heading in _headings(table)))
    return rich
