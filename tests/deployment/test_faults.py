"""The invariant of docs/deployment.md on real processes, with kill -9 of ClientApps, a SuperNode and a ServerApp."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.federation import Federation
from benchmarks.federation.processes import until
from tests.deployment.apps.message.message.faults import FAULTS, NONE
from tests.deployment.bookkeeping import check
from tests.deployment.starting import start

pytestmark = [pytest.mark.deployment, pytest.mark.xdist_group("first worker"), pytest.mark.timeout(900)]

NODES, ROUNDS = 10, 3  # a SuperNode does one message at a time, and waits a minute for a ClientApp that was killed
# By run; one schedule for each run and node. The seeds are such that each fault happens in the first round already.
DECAYS = {"seed-381": 1.0, "seed-382": 0.5}
KILLED = 0  # the SuperNode that is
RESTARTED = "seed-381"  # the run whose ServerApp is killed
COMMON: dict[str, str | float] = {"rounds": ROUNDS, "bits": 1.0, "timeout": 30}  # seconds: what is later is too late


def test_no_update_is_lost_or_counted_twice_in_twenty_schedules_of_faults(tmp_path: Path) -> None:
    with Federation(tmp_path) as federation:
        nodes = [federation.add_node() for _ in range(NODES)]
        for node in nodes:
            node.connect()
        runs = {}
        for name, decay in DECAYS.items():
            config = {**COMMON, "faults": name, "decay": decay, "dies": 2 if name == RESTARTED else 0}
            runs[name] = start(federation, "message", name, config)

        folder = tmp_path / RESTARTED
        until((folder / "server-died").exists, 200, "No ServerApp kills itself")
        nodes[KILLED].process.kill()
        config = {**COMMON, "faults": "seed-381, resumed", "rounds": ROUNDS - 1, "decay": 1.0, "resume": True}
        resumed, _ = start(federation, "message", RESTARTED, config)
        nodes[KILLED].restart()

        for name, (run, _) in runs.items():
            expected = "finished:failed" if name == RESTARTED else "finished:completed"
            assert run.wait(500) == expected, run.log()[-3000:]
        assert resumed.wait(500) == "finished:completed", resumed.log()[-3000:]

    happened: Counter[str] = Counter()
    aggregated = kept = 0
    for name, decay in DECAYS.items():
        for number in range(NODES):
            account = check(tmp_path / name, number, decay)
            faults = [entry.fault for entry in account.entries]
            print(f"{name}, node {number}: {account.kept} kept, {account.aggregated} aggregated: {', '.join(faults)}")
            happened.update(faults)
            kept, aggregated = kept + account.kept, aggregated + account.aggregated
    print(json.dumps(happened), f"{kept} updates kept, {aggregated} aggregated")
    assert happened.keys() == {*FAULTS["store"], NONE}
    assert kept > aggregated > 0
