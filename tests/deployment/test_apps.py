"""Apps that are deployed: TLS, node authentication, SuperNodes that have no torch, and all runs at the same time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.federation import Federation, Run
from tests.deployment.bookkeeping import check
from tests.deployment.starting import start

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(400)]

NODES, ROUNDS, SIZE = 2, 3, 1000
HEADER = 8 * 128 / SIZE  # bits a parameter of numpy's own header, in which the older API wraps a frame
RUNS: dict[str, tuple[str, dict[str, float]]] = {
    "first": ("message", {"bits": 2.0, "decay": 1.0}),
    "second": ("message", {"bits": 0.9, "decay": 0.5}),
    "both ways": ("message", {"bits": 2.0, "downlink": 4.0}),
    "NumPyClient": ("legacy", {}),
}
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


Begun = dict[str, tuple[Run, Path]]  # runs, and the folders for what they write


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation whose SuperNodes cannot import torch."""
    no_torch = tmp_path_factory.mktemp("no-torch")
    (no_torch / "torch.py").write_text('raise ImportError("There is no torch here.")\n')
    with Federation(tmp_path_factory.mktemp("federation")) as federation:
        environment = {"PYTHONPATH": f"{no_torch}:{federation.environment()['PYTHONPATH']}"}
        for number in range(NODES):
            federation.add_node({"partition-id": number, "num-partitions": NODES}, env=environment)
        for node in federation.nodes:
            node.connect()
        yield federation


@pytest.fixture(scope="module")
def runs(federation: Federation) -> Begun:
    """All runs, begun at once on the same SuperNodes."""
    return {name: start(federation, app, name, {"rounds": ROUNDS, **config}) for name, (app, config) in RUNS.items()}


@pytest.fixture(scope="module", autouse=True)
def examples(federation: Federation, runs: Begun) -> dict[str, Run]:
    """The two examples of scikit-learn, begun with the others."""
    return {name: federation.submit(EXAMPLES / name, {"rounds": ROUNDS}) for name in ("quickstart", "minimal")}


def metrics(begun: tuple[Run, Path]) -> list[dict[str, Any]]:
    """Wait for a run, and return its rounds' metrics."""
    run, folder = begun
    assert run.wait(300) == "finished:completed", run.log()[-3000:]
    rounds = json.loads((folder / "metrics.json").read_text())
    assert list(rounds) == [str(number) for number in range(1, ROUNDS + 1)]
    for each in rounds.values():
        assert (each["co3-replies"], each["co3-quarantined"], each["co3-uncompressed"]) == (NODES, 0, 0)
    return list(rounds.values())


@pytest.mark.parametrize("name", ["first", "second"])
def test_two_runs_at_once_each_keep_account_of_their_own(name: str, runs: Begun) -> None:
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


def test_both_directions(runs: Begun) -> None:
    rounds = metrics(runs["both ways"])

    whole, *frames = [each["co3-downlink-payload-bytes"] for each in rounds]
    assert whole > NODES * 4 * SIZE
    assert all(sent <= NODES * 4 * SIZE / 8 for sent in frames)  # 4 bits a parameter
    for node in range(NODES):
        assert check(runs["both ways"][1], node, 1.0).aggregated == len(rounds)


def test_a_numpy_client_and_a_strategy_of_the_older_api(runs: Begun) -> None:
    rounds = metrics(runs["NumPyClient"])

    assert all(0 < each["co3-bits-per-parameter"] <= 2 + HEADER for each in rounds)
    distances = [each["distance"] for each in rounds]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.75 * np.sqrt(SIZE)


@pytest.mark.parametrize("name", ["quickstart", "minimal"])
def test_scikit_learn_where_torch_cannot_be_imported(name: str, examples: dict[str, Run]) -> None:
    assert examples[name].wait(300) == "finished:completed", examples[name].log()[-3000:]

    log = examples[name].log()
    accuracies = [float(found) for found in re.findall(r"'accuracy': (0\.\d+)", log)]
    assert max(accuracies) > 0.8
    compressed = log.count(f"'co3-replies': {NODES}, 'co3-quarantined': 0, 'co3-uncompressed': 0")
    assert compressed == (ROUNDS if name == "minimal" else 0)
