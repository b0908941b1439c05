import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from simulations.report import write_report
from simulations.report.figures import accuracy_by_round
from simulations.report.labels import End, label_above
from simulations.report.page import headline
from simulations.report.panels import panels_of
from simulations.results import Comparison, Run
from simulations.schemes import PLAIN
from simulations.tables import terminal_table

NO_END = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects tags and what they point to, and checks that they close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in NO_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in NO_END:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def written(comparison: Comparison, folder: Path) -> tuple[str, Page]:
    text = write_report(comparison, folder).read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_holds_everything_and_needs_nothing(comparison: Comparison, tmp_path: Path) -> None:
    text, page = written(comparison, tmp_path)

    assert page.open == []
    assert page.tags.count("svg") == 4  # two curves, two layers in one round
    assert page.targets and all(target.startswith("#") for target in page.targets)
    assert {target[1:] for target in page.targets} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(r"url\((?!#)|@import|<script|<link", text)
    assert {"http://www.w3.org/1999/xlink"} >= set(re.findall(r"https?://[^\s\"'<>)]+", text))


def test_the_figures_are_files_too(comparison: Comparison, tmp_path: Path) -> None:
    written(comparison, tmp_path)

    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"accuracy-by-bytes.png", "accuracy-by-bytes.svg", "accuracy-by-round.png", "accuracy-by-round.svg"} <= names
    assert (tmp_path / "figures" / "accuracy-by-bytes.png").read_bytes().startswith(b"\x89PNG")


def test_it_names_the_schemes_at_their_curves_and_tells_the_numbers(comparison: Comparison, tmp_path: Path) -> None:
    text, _ = written(comparison, tmp_path)

    assert text.count("CO3 fp4 (paper)") >= 3  # both figures and the table
    assert "8.00×" in text and "89.5\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.7\N{NO-BREAK SPACE}%" in text
    assert "python -m simulations compare --seeds 2" in text


def test_a_simulated_clock_has_a_figure_and_a_column(comparison: Comparison, tmp_path: Path) -> None:
    comparison.settings = dataclasses.replace(comparison.settings, links="3g")
    for run in comparison.runs:
        seconds = 8.0 if run.scheme == "fedavg" else 2.0
        run.rounds = [
            dataclasses.replace(each, simulated_seconds=seconds if each.round else 0.0) for each in run.rounds
        ]
    text, page = written(comparison, tmp_path)

    assert page.tags.count("svg") == 5 and (tmp_path / "figures" / "accuracy-by-time.svg").exists()
    assert "24.0 s</td>" in text and "6.00 s (4.00×)" in text  # in the third round, 87.5 % are reached
    assert "6.00 s (4.00×)" in [str(cell) for cell in terminal_table(comparison).columns[-1].cells]


def test_the_same_results_give_the_same_page(comparison: Comparison, tmp_path: Path) -> None:
    assert written(comparison, tmp_path)[0] == written(comparison, tmp_path)[0]


def test_a_partial_comparison_is_reported_with_what_is_missing(comparison: Comparison, tmp_path: Path) -> None:
    del comparison.runs[1:]
    comparison.runs.append(Run("co3-fp4", 0, [], "ValueError: <broken>"))
    comparison.fits = []
    text, page = written(comparison, tmp_path)

    assert page.tags.count("svg") == 2
    assert "ended after round 0: ValueError: &lt;broken&gt;" in text and "2 of 4 runs were not started" in text


def test_the_headline_says_what_was_saved(comparison: Comparison) -> None:
    assert headline(comparison).replace("\N{NO-BREAK SPACE}", " ") == (
        "CO3 fp4 (paper) reached 89.5 ± 0.7 % with 1.50 kB sent by all clients; "
        "FedAvg 89.5 ± 0.7 % with 12.0 kB: 8.00 times less."
    )
    for run in comparison.runs_of("co3-fp4"):
        run.rounds = run.rounds[:2]
    assert "no other scheme came within 2 points" in headline(comparison)


def test_the_terminal_shows_a_row_for_each_scheme(comparison: Comparison) -> None:
    table = terminal_table(comparison)

    assert table.row_count == 2 and len(table.columns) == 6


def test_where_a_downlink_is_compressed_the_terminal_shows_both_ways(comparison: Comparison) -> None:
    for run in comparison.runs_of("co3-fp4"):
        run.rounds = [dataclasses.replace(each, downlink_bytes=each.downlink_bytes // 4) for each in run.rounds]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(terminal_table(comparison))
    shown = console.export_text()

    assert "Downlink" in shown and "12.8×" in shown.replace(" ", "") and "…" not in shown


def test_a_run_that_ended_early_is_not_taken_for_a_compressed_downlink(comparison: Comparison) -> None:
    for run in comparison.runs:
        run.rounds = [dataclasses.replace(each, downlink_bytes=4000 if each.round else 0) for each in run.rounds]
    comparison.runs[-1].rounds = comparison.runs[-1].rounds[:2]
    assert "Sent\nin all" in [column.header for column in terminal_table(comparison).columns]


def test_a_long_label_ends_at_its_own_line_and_crosses_no_other() -> None:
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    axes.set_xlim(0, 1)
    label_above(figure, axes, [End(0.45, 0.5, "a label of some thirty letters", "red"), End(0.5, 0.5, "next", "blue")])
    long, _ = axes.texts
    assert long.get_window_extent().x1 < axes.transData.transform((0.5, 0.5))[0]


def test_no_number_is_cut_in_a_narrow_terminal(comparison: Comparison) -> None:
    comparison.labels = {name: f"{label}, with quite some settings" for name, label in comparison.labels.items()}
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(terminal_table(comparison))

    assert "…" not in console.export_text()


@pytest.mark.parametrize("schemes", [1, 9, 30])
def test_any_number_of_schemes_can_be_drawn(comparison: Comparison, schemes: int, tmp_path: Path) -> None:
    rounds = comparison.runs[0].rounds
    comparison.labels = {f"co3-{number}": f"CO3 number {number}" for number in range(schemes)}
    comparison.runs = [Run(name, 0, rounds) for name in comparison.labels]

    assert written(comparison, tmp_path)[1].tags.count("svg") == 4


def test_schemes_beyond_eight_are_drawn_in_a_panel_for_each_budget(comparison: Comparison) -> None:
    rounds = comparison.runs[0].rounds
    names = [
        PLAIN,
        *(f"co3:step_ahead=0.{n},bits_per_parameter={bits}" for bits in (0.1, 0.5) for n in range(8)),
        "sign",
    ]
    comparison.labels = {name: name for name in names}
    comparison.runs = [Run(name, 0, rounds) for name in names]
    panels = panels_of(comparison)
    assert [panel.title for panel in panels] == [
        *["At most 0.1 bit a parameter"] * 2,
        *["At most 0.5 bit a parameter"] * 2,
        "No budget in bits",
    ]
    assert sorted({name for panel in panels for name in panel.looks}) == sorted(names)
    for panel in panels:
        assert next(iter(panel.looks)) == PLAIN
        assert len(set(panel.looks.values())) == len(panel.looks)
    comparison.runs = comparison.runs[1:]
    assert all(PLAIN not in panel.looks for panel in panels_of(comparison)), "what has no runs is not drawn"


def test_a_label_too_long_for_a_curves_end_stands_in_a_legend(comparison: Comparison) -> None:
    name = next(iter(comparison.labels))
    assert not panels_of(comparison)[0].title
    comparison.labels[name] = "a scheme with many settings, each of which has its name and its value"
    (panel, *_) = panels_of(comparison)
    assert panel.title
    width = accuracy_by_round(comparison).axes[0].get_position().width
    assert width > 0.4, "the curves have room"
