"""The invariant of docs/deployment.md, worked out from the files that clients and server left."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flwr_co3 import Codec
from flwr_co3.frame import TensorSpec
from tests.deployment.apps.message.message.faults import STATE_IS_LOST
from tests.deployment.apps.message.message.server_app import INITIAL

Vector = NDArray[np.float64]

TENSOR = "w"  # the one that is not exact
TABLE = {name: TensorSpec(array.dtype.name, array.shape) for name, array in INITIAL.items()}  # frames may refer to it


def about(file: Path) -> dict[str, Any]:
    """Return what a store's file says of itself."""
    with np.load(file) as archive:
        fields: dict[str, Any] = json.loads(archive["about"].tobytes())
    return fields


class Memory(NamedTuple):
    """What a client's store held: read as docs/deployment.md says that anyone can."""

    errors: Vector
    turn: int | None  # of the last update
    sent: Vector  # that update

    @classmethod
    def read(cls, file: Path, like: Vector) -> "Memory | None":
        """Read a file; None if there is none."""
        if not file.exists():
            return None
        with np.load(file) as archive:
            tensors, last = (about(file)[name] for name in ("tensors", "last"))
            errors = np.zeros_like(like)
            if TENSOR in tensors:
                errors = archive[str(tensors.index(TENSOR))].astype(np.float64)
            frame = archive["frame"].tobytes()
        sent = np.asarray(Codec().decode(frame, like=TABLE).get(TENSOR, 0.0) if last else 0.0, np.float64)
        return cls(errors, last and last["turn"], np.broadcast_to(sent, like.shape))


class Entry(NamedTuple):
    """What a client wrote down of one train message."""

    key: str  # run and round
    node: int
    turn: int
    fault: str
    before: Memory | None
    update: Vector | None  # what training gave, if it came so far

    @property
    def name(self) -> str:
        """What the server calls the update that answers it."""
        return f"{self.node}/{self.key}"

    @classmethod
    def read(cls, file: Path, like: Vector) -> "Entry":
        """Read a journal's entry."""
        fields: dict[str, Any] = json.loads(file.read_text())
        stem = file.with_suffix("")
        update = stem.with_suffix(".update.npy")
        return cls(
            **fields,
            before=Memory.read(stem.with_suffix(".before.npz"), like),
            update=np.load(update).astype(np.float64) if update.exists() else None,
        )


class Account(NamedTuple):
    """What became of a node's updates."""

    entries: list[Entry]
    kept: int
    aggregated: int


def check(folder: Path, node: int, decay: float, *, in_state: bool = False) -> Account:
    """Check that nothing of a node's updates was lost or counted twice, at each train message and at the end.

    A memory in the state can only be seen when a message comes: the last message's is the end then. Where a state was
    lost after its update had left, and that was aggregated, all that was still to come is gone.

    Parameters
    ----------
    folder : Path
        The run's.
    node : int
        The SuperNode's number.
    decay : float
        The run's ``memory_decay``.
    in_state : bool (default: False)
        Whether the memory is in ``context.state``, and not in a store.
    """
    with np.load(folder / "checkpoint.npz") as archive:
        server = {name: archive[name].astype(np.float64) for name in archive.files if "/" in name}
        like = np.zeros(archive[TENSOR].shape)
    own = folder / f"node-{node}"
    entries = [Entry.read(file, like) for file in sorted(own.glob("entry-*.json"))]
    memories = [file for file in (own / "store").glob("co3-*.npz") if about(file)["key"].startswith("run ")]
    assert len(memories) <= 1, f"one run and node, and {len(memories)} memories"
    last = Memory.read(memories[0], like) if memories else None
    if entries and in_state:
        *entries, final = entries
        last = final.before
        server.pop(final.name, None)

    if not entries:  # no train message has reached it
        assert last is None
        return Account(entries, 0, 0)
    keys: dict[int | None, str] = {entry.turn: entry.name for entry in entries}
    produced, gone, aggregated = like.copy(), like.copy(), like.copy()
    kept, is_behind = 0, False

    def outstanding(memory: Memory | None) -> Vector:
        if memory is None:
            return np.zeros_like(like)
        return memory.errors + (0 if keys.get(memory.turn) in server else memory.sent)

    for entry, after in zip(entries, [*(entry.before for entry in entries[1:]), last], strict=True):
        what = f"{folder.name}, node {node}, {entry}"
        before = None if is_behind else entry.before
        np.testing.assert_allclose(aggregated + outstanding(before), produced - gone, atol=1e-4, err_msg=what)
        if entry.fault == "finds its memory damaged":
            gone += outstanding(before)
            before = None
        if after is not None and after.turn == entry.turn:
            assert entry.update is not None, f"kept, and never produced: {what}"
            produced += entry.update
            gone += (1 - decay) * outstanding(before)
            kept, is_behind = kept + 1, False
        else:
            unchanged = entry.before if in_state else before
            assert (after and after.turn) == (unchanged and unchanged.turn), f"it changed for no reason: {what}"
        aggregated += server.get(entry.name, 0)
        if entry.fault == STATE_IS_LOST and entry.name in server:
            assert entry.update is not None, f"aggregated, and never produced: {what}"
            produced += entry.update
            gone, is_behind = produced - aggregated, True
    still_to_come = outstanding(None if is_behind else last)
    np.testing.assert_allclose(aggregated + still_to_come, produced - gone, atol=1e-4, err_msg=f"{folder}, {node}")

    counted = [name for name in server if name in keys.values()]
    assert sum(name.startswith(f"{entries[0].node}/") for name in server) == len(counted), "aggregated, and not sent"
    return Account(entries, kept, len(counted))
