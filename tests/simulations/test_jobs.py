"""Runs as files: a comparison that was killed goes on where it was, with the same results."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulations.federation import RoundResult
from simulations.jobs import Job, Outcome, RunFiles
from simulations.results import Comparison, Run
from simulations.schemes import make_scheme
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
        *(dataclasses.replace(JOB, settings=dataclasses.replace(JOB.settings, **change)) for change in
          ({"seed": 1}, {"learning_rate": 0.1}, {"validation": True}, {"rounds": 3})),
    ]  # fmt: skip

    assert len({job.key for job in [JOB, *others]}) == 1 + len(others)
    assert dataclasses.replace(JOB).key == JOB.key


@pytest.mark.ray
def test_a_comparison_that_was_killed_goes_on_and_ends_in_the_same_results(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait() == 0

    process = start(broken)
    while len(list((broken / "runs").glob("*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (broken / "runs").glob("*.json")}
    assert 3 <= len(kept) < len(list((whole / "runs").glob("*.json"))) == 8
    assert start(broken).wait() == 0

    assert told(broken) == told(whole)
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())


def start(out: Path) -> "subprocess.Popen[bytes]":
    """Tune two schemes with two learning rates, and run each with two seeds: eight runs."""
    command = [sys.executable, "-m", "simulations", "compare", "--engine", "inline", "--parallel", "1",
               "--clients", "3", "--rounds", "4", "--schemes", "fedavg,co3", "--bits", "0.5",
               "--learning-rates", "0.02,0.05",
               "--seeds", "2", "--out", str(out)]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


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
