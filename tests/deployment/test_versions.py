"""One run of clients that are not alike: two as the server, one without CO3, and two of other versions.

The newer client has a flwr_co3 of its own: a copy of this one that writes frames of a later version, first on its path.
The older one is as the others; the server asks it alone for an option that none of them knows.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import flwr_co3
from benchmarks.federation import Federation, Run
from benchmarks.federation.deployment import Values
from tests.deployment.bookkeeping import check
from tests.deployment.starting import start

pytestmark = [pytest.mark.deployment, pytest.mark.xdist_group("second worker"), pytest.mark.timeout(400)]

ALIKE, WITHOUT, NEWER, OLDER = (0, 1), 2, 3, 4  # the SuperNodes
CONFIGS: dict[int, Values] = {WITHOUT: {"without-co3": True}}
ROUNDS = 2
LATER = """
VERSION = 99
_FLAGS = (*_FLAGS, *[_FLAGS[-1]] * (VERSION - len(_FLAGS)))


def _version_for(flags: int) -> int:
    return VERSION
"""  # at the end of flwr_co3/frame.py, where it replaces what stands above


class Mixed(NamedTuple):
    """The run, when it is over."""

    federation: Federation
    run: Run
    folder: Path


def newer_package(folder: Path) -> str:
    """Make a copy of the package as it may be one day, and return the path on which a process finds it first."""
    package = Path(flwr_co3.__file__).parent
    copy = shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "frame.py").open("a") as frame:
        frame.write(LATER)
    return f"{folder}:{package.parent}"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    with Federation(tmp_path_factory.mktemp("federation"), secure=False) as federation:
        newer = {NEWER: {"PYTHONPATH": newer_package(tmp_path_factory.mktemp("newer"))}}
        for number in (*ALIKE, WITHOUT, NEWER, OLDER):
            federation.add_node(CONFIGS.get(number), env=newer.get(number))
        for node in federation.nodes:
            node.connect()
        run, folder = start(
            federation, "message", "mixed", {"rounds": ROUNDS, "asked": str(federation.nodes[OLDER].id)}
        )
        assert run.wait(300) == "finished:completed", run.log()[-3000:]
        yield Mixed(federation, run, folder)


def test_the_rounds_go_on_without_what_cannot_be_used(mixed: Mixed) -> None:
    rounds = json.loads((mixed.folder / "metrics.json").read_text())
    assert len(rounds) == ROUNDS
    for metrics in rounds.values():
        assert (metrics["co3-replies"], metrics["co3-quarantined"], metrics["co3-uncompressed"]) == (4, 1, 1)
    for number in ALIKE:
        assert check(mixed.folder, number, decay=1.0).aggregated == ROUNDS


def test_a_server_that_is_older_names_the_node_and_both_versions_of_the_frame(mixed: Mixed) -> None:
    log = mixed.run.log()
    assert log.count("The frame has version 99") >= ROUNDS
    assert str(mixed.federation.nodes[NEWER].id) in log
    assert "update the older side" in log
    assert mixed.federation.nodes[NEWER].log().count("CO3 put the last update back") == ROUNDS - 1


def test_a_client_that_is_older_says_what_it_does_not_know_before_it_trains(mixed: Mixed) -> None:
    said = "unknown option sparkle. Do server and client run the same flwr-co3?"
    assert mixed.federation.nodes[OLDER].log().count(said) == ROUNDS
    assert mixed.run.log().count(said) >= ROUNDS
    account = check(mixed.folder, OLDER, decay=1.0)
    assert (account.kept, account.aggregated) == (0, 0)
