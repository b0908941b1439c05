"""What the tests on real processes share."""

from pathlib import Path

from benchmarks.federation import Federation, Run
from benchmarks.federation.deployment import Values

APPS = Path(__file__).parent / "apps"


def start(federation: Federation, app: str, name: str, config: Values | None = None) -> tuple[Run, Path]:
    """Submit a run of one of the apps here, with a folder of its own for what it writes."""
    folder = federation.folder / name
    folder.mkdir(exist_ok=True)
    return federation.submit(APPS / app, {"folder": str(folder), **(config or {})}), folder
