"""The whole way once: two schemes, three clients, two rounds, in one start of Ray."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from rich.console import Console

from simulations.compare import Plan, compare
from simulations.report import write_report
from simulations.results import Comparison
from simulations.schemes import make_schemes
from simulations.settings import Settings

pytestmark = pytest.mark.ray


def test_a_comparison_from_start_to_report(tmp_path: Path) -> None:
    plan = Plan(Settings(rounds=2), make_schemes(["fedavg", "co3-fp4"]), seeds=[0], clients=3)

    with (tmp_path / "shown.txt").open("w", encoding="utf-8") as file:
        found = compare(plan, tmp_path, Console(file=file, width=200))

    assert found.problem == "" and not any(run.problem for run in found.runs)
    plain, paper = found.runs
    assert plain.rounds[0].accuracy == paper.rounds[0].accuracy  # the same initial weights
    assert [result.replies for result in paper.rounds[1:]] == [3, 3]
    assert paper.uplink_bytes < plain.uplink_bytes / 5
    assert len(found.fits) == 2 * 3
    assert Comparison.load(tmp_path).runs == found.runs
    assert write_report(found, tmp_path).exists()
    assert "[ROUND 2/2]" in (tmp_path / "flower.log").read_text(encoding="utf-8")
    assert not ray.is_initialized()
    assert all(thread is threading.main_thread() or thread.daemon for thread in threading.enumerate())


def test_an_interruption_leaves_what_was_found(tmp_path: Path) -> None:
    plan = Plan(Settings(rounds=500), make_schemes(["fedavg", "co3-fp4"]), seeds=[0], clients=2)

    def interrupt() -> None:
        log = tmp_path / "flower.log"
        while not (log.exists() and "[ROUND 2/" in log.read_text(encoding="utf-8")):
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    found = compare(plan, tmp_path, Console(quiet=True))

    assert found.problem == "It was stopped before its end."
    assert len(found.runs) == 1 and len(found.runs[0].rounds) >= 3
    assert Comparison.load(tmp_path).problem == found.problem
    assert not ray.is_initialized()
