"""Runs as files: a comparison that was killed goes on where it was, with the same results."""

import dataclasses
import json
import multiprocessing
import time
from pathlib import Path

import pytest
from rich.console import Console

from simulations.compare import Plan, compare
from simulations.federation import RoundResult
from simulations.jobs import Job, Outcome, RunFiles
from simulations.results import Comparison, Run
from simulations.schemes import make_scheme, make_schemes
from simulations.settings import Settings

JOB = Job(make_scheme("co3:bits_per_parameter=0.5"), Settings(), clients=3)


def test_what_is_kept_can_be_read(tmp_path: Path, comparison: Comparison) -> None:
    files, outcome = RunFiles(tmp_path / "runs"), Outcome(comparison.runs[0], comparison.fits)
    assert files.read(JOB) is None

    files.write(JOB, outcome)

    assert files.read(JOB) == outcome
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{JOB.key}.json"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 99}', '{"format": 1}'])
def test_a_file_that_cannot_be_read_is_no_run(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{JOB.key}.json").write_text(content, encoding="utf-8")

    assert RunFiles(tmp_path).read(JOB) is None


def test_a_job_that_differs_in_anything_has_another_file() -> None:
    others = [
        dataclasses.replace(JOB, clients=4),
        dataclasses.replace(JOB, watched=True),
        dataclasses.replace(JOB, scheme=make_scheme("co3:bits_per_parameter=0.25")),
        *(dataclasses.replace(JOB, scheme=make_scheme(f"co3:bits_per_parameter=linear|start=0.5|end={end}|rounds=3"))
          for end in (0.1, 0.2)),
        *(dataclasses.replace(JOB, settings=dataclasses.replace(JOB.settings, **change)) for change in
          ({"seed": 1}, {"learning_rate": 0.1}, {"validation": True}, {"rounds": 3})),
    ]  # fmt: skip

    assert len({job.key for job in [JOB, *others]}) == 1 + len(others)
    assert dataclasses.replace(JOB).key == JOB.key


def test_a_comparison_that_was_killed_goes_on_and_ends_in_the_same_results(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make(whole)

    process = multiprocessing.get_context("fork").Process(target=make, args=(broken,))
    process.start()
    while len(list((broken / "runs").glob("*.json"))) < 3:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    kept = {path: path.stat().st_mtime_ns for path in (broken / "runs").glob("*.json")}
    assert 3 <= len(kept) < len(list((whole / "runs").glob("*.json"))) == 8
    make(broken)

    assert told(broken) == told(whole)
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())


def make(out: Path) -> None:
    """Tune two schemes with two learning rates, and run each with two seeds: eight runs."""
    plan = Plan(
        Settings(rounds=3),
        make_schemes(["fedavg", "co3:bits_per_parameter=0.5"]),
        seeds=[0, 1],
        clients=3,
        parallel=1,
        engine="inline",
        learning_rates=(0.02, 0.05),
    )
    compare(plan, out, Console(quiet=True))


def told(out: Path) -> list[object]:
    content = json.loads((out / "results.json").read_text(encoding="utf-8"))
    clocks = ("seconds", "encode_seconds", "decode_seconds")
    for run in content["tuning"] + content["runs"]:
        for result in run["rounds"]:
            for clock in clocks:
                del result[clock]
    assert content["problem"] == ""
    return [content[key] for key in ("settings", "labels", "learning_rates", "tuning", "runs", "fits")]


def test_a_run_says_with_which_learning_rate_it_was_made() -> None:
    run = Run("co3", 0, [RoundResult(0, 0.1, 2.3)], learning_rate=0.02)

    assert Run.revive(dataclasses.asdict(run)) == run
