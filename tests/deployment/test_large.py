"""A model of a gigabyte through Flower's own transport, both directions: opt-in, with FLWR_CO3_LARGE=1."""

import json
import os
import re
from pathlib import Path

import pytest

from benchmarks.federation import Federation
from tests.deployment.starting import start

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.xdist_group("first worker"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("FLWR_CO3_LARGE") != "1", reason="FLWR_CO3_LARGE=1 asks for it: 12 GiB, minutes"),
]

BYTES = 4 * 25 * 10_000_000


def peak(process: int) -> str:
    """The most memory that a process has had; Linux alone tells."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return f"{int(found[1]) / 2**20:.1f} GiB" if found else "unknown"


def test_a_model_of_a_gigabyte_travels_whole_once_and_then_in_frames(tmp_path: Path) -> None:
    with Federation(tmp_path, secure=False) as federation:
        node = federation.add_node().connect()
        run, folder = start(federation, "large", "large")
        assert run.wait(1500) == "finished:completed", run.log()[-3000:]
        print(f"SuperLink: {peak(federation.superlink.pid)}, SuperNode: {peak(node.process.pid)}")

    first, second = json.loads((folder / "metrics.json").read_text())
    for each in (first, second):
        print(each)
        assert (each["co3-replies"], each["co3-quarantined"], each["co3-uncompressed"]) == (1, 0, 0)
        assert each["co3-uplink-payload-bytes"] <= BYTES / 320  # 0.1 bit for 32
    assert first["co3-downlink-payload-bytes"] > BYTES / 2  # whole, without what compresses losslessly
    assert second["co3-downlink-payload-bytes"] <= BYTES / 320
