"""Apps that are deployed: TLS, node authentication, SuperNodes that have no torch, and all runs at the same time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.federation import Federation, Run
from tests.deployment.bookkeeping import check
from tests.deployment.conftest import start

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(400)]

NODES, ROUNDS, SIZE = 2, 3, 1000
HEADER = 8 * 128 / SIZE  # bits a parameter of numpy's own header, in which the older API wraps a frame
RUNS: dict[str, tuple[str, dict[str, float]]] = {
    "first": ("message", {"bits": 2.0, "decay": 1.0}),
    "second": ("message", {"bits": 0.9, "decay": 0.5}),
    "both ways": ("message", {"bits": 2.0, "downlink": 4.0}),
    "NumPyClient": ("legacy", {}),
    "scikit-learn": ("scikit", {}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, no_torch: Path) -> Iterator[dict[str, tuple[Run, Path]]]:
    """All runs, begun at once on the same SuperNodes."""
    with Federation(tmp_path_factory.mktemp("federation")) as federation:
        environment = {"PYTHONPATH": f"{no_torch}:{federation.environment()['PYTHONPATH']}"}
        nodes = [federation.add_node(env=environment) for _ in range(NODES)]
        for node in nodes:
            node.connect()
        yield {name: start(federation, app, name, {"rounds": ROUNDS, **config}) for name, (app, config) in RUNS.items()}


def metrics(begun: tuple[Run, Path]) -> list[dict[str, Any]]:
    """Wait for a run, and return its rounds' metrics."""
    run, folder = begun
    status = run.wait(300)
    assert status == "finished:completed", run.log()[-3000:]
    rounds = json.loads((folder / "metrics.json").read_text())
    assert list(rounds) == [str(number) for number in range(1, ROUNDS + 1)]
    for each in rounds.values():
        assert (each["co3-replies"], each["co3-quarantined"], each["co3-uncompressed"]) == (NODES, 0, 0)
    return list(rounds.values())


@pytest.mark.parametrize("name", ["first", "second"])
def test_two_runs_at_once_each_keep_account_of_their_own(name: str, runs: dict[str, tuple[Run, Path]]) -> None:
    rounds = metrics(runs[name])

    config = RUNS[name][1]
    for each in rounds:
        assert 0 < each["co3-bits-per-parameter"] <= config["bits"]
        assert each["co3-memory-norm"] > 0
    for node in range(NODES):
        account = check(runs[name][1], node, config["decay"])
        assert account.kept == account.aggregated == len(rounds)
    with np.load(runs[name][1] / "checkpoint.npz") as archive:
        distance = np.linalg.norm(archive["w"] - 1)
    assert distance < 0.75 * np.sqrt(SIZE)  # where it was at the start, about


def test_both_directions(runs: dict[str, tuple[Run, Path]]) -> None:
    rounds = metrics(runs["both ways"])

    whole, *frames = [each["co3-downlink-payload-bytes"] for each in rounds]
    assert whole > NODES * 4 * SIZE
    assert all(sent <= NODES * 4 * SIZE / 8 for sent in frames)  # 4 bits a parameter
    for node in range(NODES):
        assert check(runs["both ways"][1], node, 1.0).aggregated == len(rounds)


def test_a_numpy_client_and_a_strategy_of_the_older_api(runs: dict[str, tuple[Run, Path]]) -> None:
    rounds = metrics(runs["NumPyClient"])

    assert all(0 < each["co3-bits-per-parameter"] <= 2 + HEADER for each in rounds)
    distances = [each["distance"] for each in rounds]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.75 * np.sqrt(SIZE)


def test_scikit_learn_where_torch_cannot_be_imported(runs: dict[str, tuple[Run, Path]]) -> None:
    rounds = metrics(runs["scikit-learn"])

    assert all(0 < each["co3-bits-per-parameter"] <= 4 for each in rounds)
    assert rounds[-1]["accuracy"] > 0.85
