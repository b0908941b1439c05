"""Where a client keeps its error memory between rounds: in Flower's state, or in a store on its disk."""

from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict

from flwr_co3.correct import Kept, LastUpdate, MemoryStore

MEMORY_KEY = "co3-memory"  # in the client's state: what was not sent yet, by tensor
RUN_KEY = "co3-run"  # beside it: the run that it belongs to, and the last update
HELD_KEY = "co3-held"  # in the client's state: the model that the server's frames start from
HELD_RUN_KEY = "co3-held-run"  # beside it: the run that it belongs to, and its version

Store: TypeAlias = MemoryStore | str | Path


class Keeper(Protocol):
    """Keeps one client's memory."""

    def load(self, run: str) -> Kept | None:
        """Return what was kept in this run; None if nothing was. Raise any Exception if it cannot be read."""

    def save(self, run: str, kept: Kept | None) -> None:
        """Keep this in place of what was kept before; None forgets it."""


class StateKeeper:
    """Keeps the memory in ``context.state``, which Flower carries to the client app and back.

    Parameters
    ----------
    state : RecordDict
        The client's state.
    key, run_key : str
        Where in it.
    """

    def __init__(self, state: RecordDict, key: str = MEMORY_KEY, run_key: str = RUN_KEY) -> None:
        self._state = state
        self._key = key
        self._run_key = run_key

    def load(self, run: str) -> Kept | None:
        """Return what the state holds, if it is of this run."""
        record = self._state.get(self._run_key)
        if not isinstance(record, ConfigRecord) or record.get("token") != run:
            return None
        memory = self._state.array_records[self._key]
        return Kept({name: array.numpy() for name, array in memory.items()}, _last(record))

    def save(self, run: str, kept: Kept | None) -> None:
        """Put this into the state."""
        stored = kept and ArrayRecord({name: Array(np.asarray(error)) for name, error in kept.errors.items()})
        for key in (self._key, self._run_key):
            self._state.pop(key, None)
        if kept is not None and stored is not None:
            self._state[self._key] = stored
            self._state[self._run_key] = _record(run, kept.last)


class StoreKeeper:
    """Keeps the memory in a store.

    Parameters
    ----------
    store : MemoryStore
        The store; nodes may share it.
    node : int
        The client's node.
    what : str
        Said of what is not a memory, to tell its files from memories.
    """

    def __init__(self, store: MemoryStore, node: int, what: str = "") -> None:
        self._store = store
        self._node = node
        self._what = what

    def load(self, run: str) -> Kept | None:
        """Read this run's file."""
        return self._store.load(self._key(run))

    def save(self, run: str, kept: Kept | None) -> None:
        """Write this run's file."""
        if kept is None:
            self._store.delete(self._key(run))
        else:
            self._store.save(self._key(run), kept)

    def _key(self, run: str) -> str:
        return f"{self._what}run {run}, node {self._node}"


def store_of(store: Store | None, owner: str) -> MemoryStore | None:
    """Make a store of what a user gave as one.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if store is None or isinstance(store, MemoryStore):
        return store
    if not isinstance(store, (str, Path)):
        raise ValueError(f"{owner}'s store must be a folder, a MemoryStore or None, but is {store!r}.")
    return MemoryStore(store)


def keeper_of(context: Context, store: MemoryStore | None) -> Keeper:
    """Return where the client with this context keeps its memory."""
    return StateKeeper(context.state) if store is None else StoreKeeper(store, context.node_id)


def model_keeper_of(context: Context, store: MemoryStore | None) -> Keeper:
    """Return where the client with this context keeps the model that the server's frames start from."""
    if store is None:
        return StateKeeper(context.state, HELD_KEY, HELD_RUN_KEY)
    return StoreKeeper(store, context.node_id, "model of ")


def _record(run: str, last: LastUpdate | None) -> ConfigRecord:
    record = ConfigRecord({"token": run})
    if last is not None:
        record["turn"], record["frame"] = last.turn, last.frame
        if last.base is not None:
            record["base"] = last.base
        if last.directions is not None:
            record["directions"] = last.directions
    return record


def _last(record: ConfigRecord) -> LastUpdate | None:
    turn, base, frame, directions = (record.get(key) for key in ("turn", "base", "frame", "directions"))
    if not isinstance(turn, int) or not isinstance(frame, bytes):
        return None
    return LastUpdate(turn, _bytes(base), frame, _bytes(directions))


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None
