"""Error memories on a local disk: they outlive the process, and take no RAM between rounds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from hashlib import blake2b
from logging import getLogger
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flwr_co3.correct.kept import Array, Kept, LastUpdate

FORMAT, VERSION = "flwr_co3 memory", 1
PREFIX, SUFFIX = "co3-", ".npz"
SET_ASIDE, TEMPORARY = ".damaged", ".tmp"
DAY = 24 * 60 * 60  # seconds

logger = getLogger("flwr.co3")


class MemoryStore:
    """Folder with one file for each memory.

    A file is replaced as a whole, and only after the new one is on the disk: a process that is killed at any instant
    leaves the old file or the new one. A file that is damaged, or not what is looked for, is renamed with a warning,
    and the memory starts empty.

    Parameters
    ----------
    folder : str or Path
        Where the files are; made when the first is written. ``~`` is the user's home. Processes and stores may
        share a folder, as long as each key has one writer at a time.
    max_bytes : int (default: 16 GiB)
        Most bytes of all files together. When a new file comes above it, those that were not written for longest are
        deleted, with a warning.
    max_days : float (default: 30)
        Files that were not written for so long are deleted when a new file is written.

    Notes
    -----
    A file is a numpy archive (``.npz``) that anyone can read with ``numpy.load``. Zip's checksums protect its members:
    ``about``, bytes of JSON with the format, its version, the key, the tensors' names, and the number and base of the
    last update; ``frame``, the bytes of that update's frame; and the errors ``0``, ``1``, ... in the order of the
    names, as `ErrorMemory.state` has them. Files are readable by their owner only.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> store = MemoryStore(tempfile.mkdtemp())
    >>> store.save("run 1, node 7", Kept({"w": np.ones(3, "float32")}, last=None))
    >>> store.load("run 1, node 7").errors["w"].tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = 16 * 2**30, max_days: float = 30.0) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
            raise ValueError(f"MemoryStore's folder must be a path, not {folder!r}.")
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
            raise ValueError(f"MemoryStore's max_bytes must be an integer of at least 1, not {max_bytes!r}.")
        if isinstance(max_days, bool) or not isinstance(max_days, (int, float)) or not isfinite(max_days):
            raise ValueError(f"MemoryStore's max_days must be a finite number, not {max_days!r}.")
        if max_days <= 0:
            raise ValueError(f"MemoryStore's max_days must be above 0, not {max_days!r}.")
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self.max_days = max_days

    def __repr__(self) -> str:
        return f"MemoryStore({str(self.folder)!r}, max_bytes={self.max_bytes}, max_days={self.max_days})"

    def path(self, key: str) -> Path:
        """Return where the memory of this key is, or would be."""
        return self.folder / f"{PREFIX}{blake2b(key.encode(), digest_size=16).hexdigest()}{SUFFIX}"

    def load(self, key: str) -> Kept | None:
        """Return what was saved under a key; None if nothing was, or nothing that can be used."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                return _read(file, key)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever is wrong with it, training goes on
            self._set_aside(path, str(error) or repr(error))
            return None

    def save(self, key: str, kept: Kept) -> None:
        """Write a memory to the disk; when this returns, it is there.

        Raises
        ------
        OSError
            If it cannot be written. What was there before stays.
        """
        path = self.path(key)
        temporary = path.with_name(path.name + TEMPORARY)
        is_new = not path.exists()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with open(temporary, "wb", opener=_private) as file:
                _write(file, key, kept)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(self.folder)
        if is_new:
            self._prune(path)

    def delete(self, key: str) -> None:
        """Delete the memory of this key, if there is one."""
        self.path(key).unlink(missing_ok=True)

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_name(path.name + SET_ASIDE)
        logger.warning("The error memory in %s cannot be used, and starts empty: %s", path, reason)
        try:
            path.replace(aside)
        except OSError as error:
            logger.warning("It could not be renamed either: %s", error)
        else:
            logger.warning("The file was renamed to %s.", aside.name)

    def _prune(self, written: Path) -> None:
        """Delete old files, then the oldest until all fit; never the one that was just written."""
        files = sorted(self._files(), key=lambda file: file[1])
        total = sum(size for _, _, size in files)
        oldest = time.time() - self.max_days * DAY
        for path, changed, size in files:
            is_recent = changed >= oldest
            in_use = path == written or path.name.endswith(TEMPORARY)  # perhaps by another process
            if is_recent and (in_use or total <= self.max_bytes):
                continue
            if is_recent:
                logger.warning(
                    "The error memory in %s was deleted: the folder holds %d bytes, more than the %d allowed.",
                    path,
                    total,
                    self.max_bytes,
                )
            path.unlink(missing_ok=True)
            total -= size

    def _files(self) -> Iterator[tuple[Path, float, int]]:
        """Yield path, time of the last change and size of all files that are this store's."""
        for path in self.folder.glob(f"{PREFIX}*{SUFFIX}*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process has deleted or replaced it
                continue
            yield path, status.st_mtime, status.st_size


def _write(file: BinaryIO, key: str, kept: Kept) -> None:
    last = kept.last
    about = {
        "format": FORMAT,
        "version": VERSION,
        "key": key,
        "tensors": list(kept.errors),
        "last": last and {"turn": last.turn, "base": None if last.base is None else last.base.hex()},
    }
    arrays: dict[str, Array] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "frame": np.frombuffer(last.frame if last else b"", np.uint8),
    }
    if last is not None and last.directions is not None:
        arrays["directions"] = np.frombuffer(last.directions, np.uint8)
    arrays |= {str(index): error for index, error in enumerate(kept.errors.values())}
    np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs take them for its own options


def _read(file: BinaryIO, key: str) -> Kept:
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("It is no archive of arrays.")
    with archive:
        about = json.loads(archive["about"].tobytes())
        if about["format"] != FORMAT or about["version"] != VERSION:
            raise ValueError(f"It is of format {about['format']!r}, version {about['version']!r}.")
        if about["key"] != key:
            raise ValueError(f"It belongs to {about['key']!r}, not to {key!r}.")
        errors = {name: archive[str(index)] for index, name in enumerate(about["tensors"])}
        directions = archive["directions"].tobytes() if "directions" in archive else None
        return Kept(errors, _last(about["last"], archive["frame"].tobytes(), directions))


def _last(about: dict[str, Any] | None, frame: bytes, directions: bytes | None) -> LastUpdate | None:
    if about is None:
        return None
    base = about["base"]
    return LastUpdate(about["turn"], None if base is None else bytes.fromhex(base), frame, directions)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(folder: Path) -> None:
    """Make a renaming in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
