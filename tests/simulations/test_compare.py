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

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("second worker")]


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


def test_memories_are_on_disk_while_clients_train_and_gone_in_the_end(tmp_path: Path) -> None:
    schemes = make_schemes(["co3:bits_per_parameter=0.5,downlink_bits=0.5,downlink_whole=fp8"])
    folder = tmp_path / "disk"
    plan = Plan(Settings(rounds=2), schemes, seeds=[0], clients=2, store=folder)
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            seen.update(path.name for path in folder.glob("*/co3-*.npz"))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    found = compare(plan, tmp_path / "out", Console(quiet=True))
    done.set()
    looking.join()

    assert found.problem == "" and [result.failures for result in found.runs[0].rounds] == [0, 0, 0]
    assert len(seen) == 4  # each client's memory, and the model that it holds
    assert list(folder.iterdir()) == []


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
