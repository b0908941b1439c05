"""The walk-through of examples/deployment: its own commands, one after the other."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.federation import Process
from benchmarks.federation.processes import free_port

pytestmark = [pytest.mark.deployment, pytest.mark.xdist_group("second worker"), pytest.mark.timeout(400)]

ROOT = Path(__file__).parent.parent.parent
WALK = ROOT / "examples" / "deployment"
PORTS = ("8000", "9094", "9095")


def test_every_command_of_the_walk_through_works(tmp_path: Path) -> None:
    if shutil.which("openssl") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("openssl and ssh-keygen are not installed")
    here = shutil.copytree(WALK, tmp_path / "deployment", ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(r"```bash\n(.*?)```", (WALK / "README.md").read_text(encoding="utf-8"), re.S)
    script = "\n".join(blocks)
    for port in PORTS:
        assert port in script
        script = script.replace(port, str(free_port()))
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }
    walk = Process(["bash", "-ec", f"cd '{here}'\n{script}"], log=tmp_path / "walk.log", env=env)
    try:
        assert walk.wait(300) in (0, 143), walk.output()  # the last command ends all, by SIGTERM
    finally:
        walk.end()

    output = walk.output()
    (accuracy,) = re.findall(r"Accuracy after 3 rounds: (\d+\.\d) %", output)
    assert float(accuracy) > 50
    assert output.count("'co3-replies': 2, 'co3-quarantined': 0, 'co3-uncompressed': 0") == 3
    assert all(len(list((here / f"memory-{node}").glob("co3-*.npz"))) == 1 for node in range(2))
