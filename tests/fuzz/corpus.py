"""The inputs that fuzzing found to reach something new: one archive a target, ``python -m tests.fuzz.corpus`` packs it.

``unpack TARGET FOLDER`` writes them and the seeds into a folder, ``pack TARGET FOLDER`` keeps what is in the folder.
"""

import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent


def read(target: str) -> list[bytes]:
    """All inputs of a target."""
    path = HERE / f"{target}.zip"
    if not path.exists():
        return []
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


def pack(target: str, inputs: list[bytes]) -> None:
    """Keep these inputs, always as the same bytes."""
    with zipfile.ZipFile(HERE / f"{target}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for k, data in enumerate(sorted(set(inputs), key=lambda data: (len(data), data))):
            archive.writestr(zipfile.ZipInfo(f"{k:04}"), data, zipfile.ZIP_DEFLATED)


def main(command: str, target: str, folder: Path) -> None:
    """See the module."""
    if command == "pack":
        pack(target, [path.read_bytes() for path in folder.iterdir()])
        return
    from tests.fuzz.seeds import SEEDS

    folder.mkdir(parents=True, exist_ok=True)
    for k, data in enumerate([*read(target), *SEEDS[target]()]):
        (folder / f"{k:04}").write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
