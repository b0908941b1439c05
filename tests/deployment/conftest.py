"""What the tests on real processes share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.federation import Federation, Run
from benchmarks.federation.deployment import Values

APPS = Path(__file__).parent / "apps"

Start = Callable[..., tuple[Run, Path]]


def start(federation: Federation, app: str, name: str, config: Values | None = None) -> tuple[Run, Path]:
    """Submit a run of one of the apps here, with a folder of its own for what it writes."""
    folder = federation.folder / name
    folder.mkdir(exist_ok=True)
    return federation.submit(APPS / app, {"folder": str(folder), **(config or {})}), folder


@pytest.fixture(scope="session")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that makes torch unimportable where it is on the path."""
    folder = tmp_path_factory.mktemp("no-torch")
    (folder / "torch.py").write_text('raise ImportError("There is no torch here.")\n')
    return folder
