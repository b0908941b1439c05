"""The table as files: ``table.csv`` with all numbers, ``table.tex`` for papers."""

import dataclasses
from pathlib import Path

import pandas as pd

from simulations.results import Comparison
from simulations.standings import standings
from simulations.tables import accuracy
from simulations.units import as_bits, as_bytes, as_seconds

CSV_FILE, LATEX_FILE = "table.csv", "table.tex"


def write_tables(comparison: Comparison, folder: Path) -> None:
    """Write both files: a row for each scheme, in the comparison's order."""
    standing = standings(comparison)
    rows = comparison.summaries()
    numbers = pd.DataFrame([{**dataclasses.asdict(row), "standing": standing[row.scheme]} for row in rows])
    numbers.to_csv(folder / CSV_FILE, index=False)
    written = pd.DataFrame(
        {
            "Scheme": [_escaped(row.label) for row in rows],
            "Accuracy": [_marked(_escaped(accuracy(row)), standing[row.scheme]) for row in rows],
            "Bits per parameter": [as_bits(row.bits_per_parameter) for row in rows],
            "Sent in all": [as_bytes(row.uplink_bytes) for row in rows],
            "Sent to target": ["--" if row.bytes_to_target is None else as_bytes(row.bytes_to_target) for row in rows],
            "Time to target": [
                "--" if row.seconds_to_target is None else as_seconds(row.seconds_to_target) for row in rows
            ],
        }
    )
    (folder / LATEX_FILE).write_text(written.to_latex(index=False, column_format="lrrrrr"), encoding="utf-8")


def _marked(text: str, standing: str) -> str:
    return {"best": f"\\textbf{{{text}}}", "tied": f"{text}$^=$"}.get(standing, text)


def _escaped(text: str) -> str:
    for sign, latex in {
        "_": "\\_",
        "%": "\\%",
        "&": "\\&",
        "~": "$\\sim$",
        "|": "$|$",
        "±": "$\\pm$",
        "\N{NO-BREAK SPACE}": "~",
    }.items():
        text = text.replace(sign, latex)
    return text
