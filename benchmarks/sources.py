"""Updates to measure on: drawn for a layout, or read from a file that ``benchmarks.updates`` wrote."""

from pathlib import Path

import numpy as np

from benchmarks.layouts import LAYOUTS, draw_layout
from benchmarks.pipeline import Update

FOLDER = Path(".benchmarks/updates")


def load(names: str, entries: int | None) -> dict[str, Update]:
    """Load updates by names separated by commas: layouts, files, or "real" for all of `FOLDER`.

    Parameters
    ----------
    names : str
        Such as ``one tensor,ResNet-18,.benchmarks/updates/resnet18.npz``.
    entries : int, optional
        Size of the drawn ones, by default that of the models; files are taken as they are.

    Raises
    ------
    ValueError
        If a name is neither a layout nor a file, or there are no real updates yet.
    """
    updates: dict[str, Update] = {}
    for name in (part.strip() for part in names.split(",")):
        if name in LAYOUTS:
            updates[name] = draw_layout(name, entries)
        elif name == "real":
            updates |= {title(path): read(path) for path in real_files()}
        elif Path(name).is_file():
            updates[title(Path(name))] = read(Path(name))
        else:
            raise ValueError(f"{name!r} is no file and no layout. Choose from: {', '.join([*LAYOUTS, 'real'])}.")
    return updates


def real_files() -> list[Path]:
    """Files of real updates.

    Raises
    ------
    ValueError
        If there are none.
    """
    files = sorted(FOLDER.glob("*.npz"))
    if not files:
        raise ValueError(f"There are no updates in {FOLDER}. Make them: python -m benchmarks.updates")
    return files


def read(path: Path) -> Update:
    """Read an update's tensors."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def title(path: Path) -> str:
    """What tables call the update of a file."""
    return f"{path.stem}, trained"
