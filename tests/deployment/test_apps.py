"""Apps that are deployed: TLS, node authentication, SuperNodes that cannot import torch, two runs at a time."""

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

pytestmark = [pytest.mark.deployment, pytest.mark.xdist_group("first worker"), pytest.mark.timeout(400)]

NODES, SIZE = 2, 1000
ROUNDS, FEW = 3, 2  # of the test of the memory, and of the others
START = 0.75 * np.sqrt(SIZE)  # how far a model may be from 1, 1, 1, ... at the end; at first it is 4/3 of it
HEADER = 8 * 128 / SIZE  # bits a parameter of numpy's own header, in which the older API wraps a frame
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
Begun = tuple[Run, Path]  # a run, and the folder for what it writes


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


def metrics(begun: Begun, count: int) -> list[dict[str, Any]]:
    """Wait for a run, and return its rounds' metrics."""
    run, folder = begun
    assert run.wait(300) == "finished:completed", run.log()[-3000:]
    rounds = json.loads((folder / "metrics.json").read_text())
    assert list(rounds) == [str(number) for number in range(1, count + 1)]
    for each in rounds.values():
        assert (each["co3-replies"], each["co3-quarantined"], each["co3-uncompressed"]) == (NODES, 0, 0)
    return list(rounds.values())


def test_two_runs_at_once_each_keep_account_of_their_own(federation: Federation) -> None:
    decays, bits = (1.0, 0.5), (2.0, 0.9)
    runs = [
        start(federation, "message", f"decay {decay}", {"rounds": ROUNDS, "bits": limit, "decay": decay})
        for decay, limit in zip(decays, bits, strict=True)
    ]
    for begun, decay, limit in zip(runs, decays, bits, strict=True):
        rounds, folder = metrics(begun, ROUNDS), begun[1]
        for each in rounds:
            assert 0 < each["co3-bits-per-parameter"] <= limit
            assert each["co3-memory-norm"] > 0
        for node in range(NODES):
            account = check(folder, node, decay)
            assert account.kept == account.aggregated == ROUNDS
        with np.load(folder / "checkpoint.npz") as archive:
            assert np.linalg.norm(archive["w"] - 1) < START


def test_both_directions_beside_a_numpy_client_and_a_strategy_of_the_older_api(federation: Federation) -> None:
    both = start(federation, "message", "both ways", {"rounds": FEW, "downlink": 4.0})
    older = start(federation, "legacy", "older API", {"rounds": FEW})

    whole, *frames = [each["co3-downlink-payload-bytes"] for each in metrics(both, FEW)]
    assert whole > NODES * 4 * SIZE * 0.5  # a whole model, perhaps without its redundancy
    assert all(sent <= NODES * SIZE * 4 / 8 for sent in frames)  # 4 bits a parameter
    for node in range(NODES):
        assert check(both[1], node, 1.0).aggregated == FEW

    rounds = metrics(older, FEW)
    assert all(0 < each["co3-bits-per-parameter"] <= 2 + HEADER for each in rounds)
    distances = [each["distance"] for each in rounds]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < START


def test_scikit_learn_where_torch_cannot_be_imported_with_co3_and_without(federation: Federation) -> None:
    runs = {name: federation.submit(EXAMPLES / name, {"rounds": FEW}) for name in ("quickstart", "minimal")}
    for name, run in runs.items():
        assert run.wait(300) == "finished:completed", run.log()[-3000:]
        accuracies = [float(found) for found in re.findall(r"'accuracy': (0\.\d+)", run.log())]
        assert max(accuracies) > 0.8
        compressed = run.log().count(f"'co3-replies': {NODES}, 'co3-quarantined': 0, 'co3-uncompressed': 0")
        assert compressed == (FEW if name == "minimal" else 0)
