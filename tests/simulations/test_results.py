import csv
import json
from pathlib import Path

import pytest

from simulations.results import Comparison, problems


def test_what_is_saved_can_be_loaded(comparison: Comparison, tmp_path: Path) -> None:
    comparison.save(tmp_path)

    assert Comparison.load(tmp_path) == comparison


def test_the_rounds_stand_in_a_table(comparison: Comparison, tmp_path: Path) -> None:
    comparison.save(tmp_path)

    with (tmp_path / "rounds.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4
    assert (rows[1]["scheme"], rows[1]["seed"], rows[1]["round"], rows[1]["uplink_bytes"]) == (
        "fedavg",
        "0",
        "1",
        "4000",
    )


def test_a_summary_is_the_mean_over_seeds_of_the_last_rounds(comparison: Comparison) -> None:
    plain, paper = comparison.summaries()

    assert plain.accuracy == pytest.approx(0.895) and plain.seeds == 2
    assert plain.spread == pytest.approx(0.01 / 2**0.5)
    assert plain.uplink_bytes == 12_000 and plain.uplink_bytes_per_message == 1000
    assert plain.ratio == 1.0 and paper.ratio == 8.0
    assert plain.downlink_bytes == 12_000 and plain.both_ratio == 1.0 and paper.both_ratio == 8.0
    assert plain.nmse is None and paper.nmse == pytest.approx(0.1)


def test_bytes_and_time_count_until_the_target_was_first_reached(comparison: Comparison) -> None:
    assert comparison.target_accuracy == pytest.approx(0.895 - 0.02)
    comparison.target = 0.595  # which one seed reaches in the second round, the other in the third
    plain, paper = comparison.summaries()

    assert (plain.bytes_to_target, paper.bytes_to_target) == ((8000 + 12_000) / 2, (1000 + 1500) / 2)
    assert plain.seconds_to_target is None  # no simulated clock
    comparison.target = 0.9  # which only one reaches
    assert [row.bytes_to_target for row in comparison.summaries()] == [None, None]


def test_without_fedavg_there_is_no_ratio(comparison: Comparison) -> None:
    del comparison.labels["fedavg"]
    comparison.runs = [run for run in comparison.runs if run.scheme != "fedavg"]

    assert [row.ratio for row in comparison.summaries()] == [None]


def test_a_run_that_ended_early_counts_by_the_round_and_is_told(comparison: Comparison) -> None:
    run = comparison.runs.pop()
    comparison.runs[-1].problem = "stopped"
    del comparison.runs[1].rounds[3]
    comparison.runs[1].problem = "RuntimeError: lost"

    assert comparison.summaries()[1].ratio == 8.0
    assert problems(comparison) == [
        "CO3 fp4 (paper), seed 0, ended after round 2: RuntimeError: lost.",
        "FedAvg (float32), seed 1, ended after round 3: stopped.",
        "1 of 4 runs were not started.",
    ]
    assert run.scheme == "co3-fp4"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"There is no results.json in .*: give the folder of a comparison"),
        ("{", "is not a JSON file"),
        ("[]", "not a file of results"),
        (json.dumps({"format": 99}), "not a file of results in format 1"),
    ],
)
def test_what_is_no_result_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Comparison.load(tmp_path)
