"""`python -m simulations`, with the schemes of this folder among the others.

They are registered as another package's would be: by an entry point that is found on the path.
"""

import importlib
import sys
import tempfile
from pathlib import Path

from flwr_co3.schemes import GROUP

SCHEMES = {
    "dependent": "benchmarks.experiments.dependent:Dependent",
    "saturating": "benchmarks.experiments.saturating:Saturating",
}


def register(folder: Path) -> None:
    """Write into a folder what a package's installation would, and put it on the path."""
    metadata = folder / "experiments-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: experiments\nVersion: 1\n", encoding="utf-8")
    lines = [f"[{GROUP}]", *(f"{name} = {place}" for name, place in SCHEMES.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    sys.path.append(str(folder))
    importlib.invalidate_caches()


def main() -> None:
    """Run the simulations' command line."""
    from simulations.cli import main as simulate

    with tempfile.TemporaryDirectory() as folder:
        register(Path(folder))
        simulate()


if __name__ == "__main__":
    main()
