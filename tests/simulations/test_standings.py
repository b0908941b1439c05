import csv
from pathlib import Path

import pytest

from simulations.federation import RoundResult
from simulations.joining import join
from simulations.results import Comparison, Run
from simulations.settings import Settings
from simulations.standings import standings
from simulations.table_files import write_tables
from simulations.tables import terminal_table

ACCURACIES = {
    "fedavg": [0.99, 0.99, 0.99],
    "co3:bits_per_parameter=0.1": [0.90, 0.92, 0.94],
    "qsgd:bits_per_parameter=0.1": [0.91, 0.91, 0.93],  # lower in the mean, but not in each seed
    "topk:bits_per_parameter=0.1": [0.80, 0.83, 0.84],  # lower by about as much in each seed
    "co3:bits_per_parameter=0.5": [0.95, 0.95, 0.95],
}


def made(accuracies: dict[str, list[float]], first_seed: int = 0) -> Comparison:
    seeds = list(range(first_seed, first_seed + 3))
    runs = [
        Run(scheme, seed, [RoundResult(0, 0.1, 2.3), RoundResult(1, accuracy, 1.0, uplink_bytes=1000)])
        for scheme, each in accuracies.items()
        for seed, accuracy in zip(seeds, each, strict=False)
    ]
    return Comparison(Settings(rounds=1), 3, seeds, {name: f"{name} & 50 % | 1" for name in accuracies}, runs)


def test_the_best_of_a_budget_and_those_that_cannot_be_told_from_it() -> None:
    assert standings(made(ACCURACIES)) == {
        "fedavg": "alone",
        "co3:bits_per_parameter=0.1": "best",
        "qsgd:bits_per_parameter=0.1": "tied",
        "topk:bits_per_parameter=0.1": "",
        "co3:bits_per_parameter=0.5": "alone",
    }


def test_one_seed_can_tell_no_tie_and_equal_ones_are_tied() -> None:
    one = {name: accuracies[:1] for name, accuracies in ACCURACIES.items()}
    same = {"a:bits_per_parameter=1": [0.5, 0.6], "b:bits_per_parameter=1": [0.5, 0.6]}

    assert "tied" not in standings(made(one)).values()
    assert standings(made(same)) == {"a:bits_per_parameter=1": "best", "b:bits_per_parameter=1": "tied"}


def test_schemes_with_one_schedule_have_one_budget() -> None:
    schedule = "bits_per_parameter=steps|1=1|3=0.1"
    accuracies = {f"a:{schedule}": [0.5, 0.5], f"b:{schedule}": [0.4, 0.4], "c:bits_per_parameter=0.1": [0.3, 0.3]}

    assert standings(made(accuracies)) == dict(zip(accuracies, ["best", "", "alone"], strict=True))


def test_the_table_is_written_as_csv_and_latex(tmp_path: Path) -> None:
    write_tables(made(ACCURACIES), tmp_path)

    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["scheme"] for row in rows] == list(ACCURACIES)
    assert float(rows[1]["accuracy"]) == pytest.approx(0.92) and rows[1]["standing"] == "best"
    latex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert "\\textbf{92.0~$\\pm$~2.0~\\%}" in latex and "\\& 50 \\% $|$ 1" in latex and latex.count("$^=$") == 1
    assert "[bold]92.0" in "".join(str(cell) for cell in terminal_table(made(ACCURACIES)).columns[1].cells)


def test_comparisons_of_one_task_are_joined() -> None:
    some = dict(list(ACCURACIES.items())[:2])
    rest = dict(list(ACCURACIES.items())[1:])
    both = join([made(some), made(rest, first_seed=3), made(rest)])

    assert list(both.labels) == list(ACCURACIES) and both.seeds == list(range(6))
    assert len(both.runs) == 3 + 4 * 6 and len(both.runs_of("co3:bits_per_parameter=0.1")) == 6


def test_comparisons_of_different_tasks_are_not() -> None:
    one, other = made(ACCURACIES), made(ACCURACIES)
    other.settings, other.clients = Settings(rounds=2), 4
    with pytest.raises(ValueError, match="they differ in rounds, clients"):
        join([one, other])
