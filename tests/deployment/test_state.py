"""Memory in ``context.state``, which SuperNodes keep, while ClientApps are killed: what lasts, and what is lost."""

from pathlib import Path

import pytest

from benchmarks.federation import Federation
from tests.deployment.apps.message.message.faults import FAULTS, NONE
from tests.deployment.bookkeeping import check
from tests.deployment.starting import start

pytestmark = [pytest.mark.deployment, pytest.mark.xdist_group("second worker"), pytest.mark.timeout(600)]

ROUNDS = 4
# The seed is such that all faults happen in the second round: a SuperNode whose ClientApp was killed waits a minute.
CONFIG: dict[str, str | float] = {
    "rounds": ROUNDS,
    "bits": 1.0,
    "memory": "state",
    "faults": "seed-12854",
    "timeout": 60,
}
BEHIND, *OTHERS = range(3)  # the SuperNodes; the first loses its state after its reply has left


def test_no_update_is_counted_twice_and_none_lost_but_with_its_state(tmp_path: Path) -> None:
    with Federation(tmp_path, secure=False) as federation:
        for _ in (BEHIND, *OTHERS):
            federation.add_node()
        for node in federation.nodes:
            node.connect()
        run, folder = start(federation, "message", "state", CONFIG)
        assert run.wait(400) == "finished:completed", run.log()[-3000:]

    accounts = [check(folder, number, decay=1.0, in_state=True) for number in (BEHIND, *OTHERS)]
    happened = [entry.fault for account in accounts for entry in account.entries if entry.fault != NONE]
    assert sorted(happened) == sorted(FAULTS["state"])
    # Each has two updates in the state, those of the first round and of the third: that of the second never came there.
    assert [account.kept for account in accounts] == [2, 2, 2]
    assert [account.aggregated for account in accounts] == [3, 2, 2]
    logs = [node.log() for node in federation.nodes]
    assert ["is not of the update that the server aggregated last, and starts empty" in log for log in logs] == [
        True,
        False,
        False,
    ]
