"""The store on disk: what comes back, what a kill at any instant leaves, and what becomes of bad and old files."""

import json
import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flwr_co3.correct import MEMORY_DTYPES, ErrorMemory, Kept, LastUpdate, MemoryStore
from tests.samples import assert_same, gennorm

ROOT = Path(__file__).parent.parent.parent
KEY = "run 8f3a, node 17"
ERRORS = {
    "conv.weight": gennorm(0.8, (6, 5), 0.1, 1).astype("f4"),
    "scalar": np.array(0.25, "f4"),
    "empty": np.zeros((0, 3), "f4"),
    "half": gennorm(0.8, 9, 0.1, 2).astype("f2"),
    "bfloat16": np.arange(5, dtype="u2"),
    "file": np.ones(2, "f4"),
    "../../größe": np.ones(2, "f4"),
}
LAST = LastUpdate(1764000000000000, b"\x01" * 8, b"CO3 and so on")


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "deep" / "folder")


def files_of(store: MemoryStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def assert_kept(found: Kept | None, expected: Kept) -> None:
    assert found is not None
    assert found.last == expected.last
    assert list(found.errors) == list(expected.errors)
    for name, error in expected.errors.items():
        assert_same(found.errors[name], error)


# What comes back


@pytest.mark.parametrize("last", [None, LAST, LAST._replace(base=None), LAST._replace(frame=b"")])
def test_what_was_saved_comes_back(store: MemoryStore, last: LastUpdate | None) -> None:
    kept = Kept(ERRORS, last)
    store.save(KEY, kept)
    assert_kept(MemoryStore(store.folder).load(KEY), kept)


def test_a_memory_without_tensors_comes_back(store: MemoryStore) -> None:
    store.save(KEY, Kept({}, LAST))
    assert store.load(KEY) == Kept({}, LAST)


@pytest.mark.parametrize("dtype", MEMORY_DTYPES)
def test_an_error_memory_goes_on_from_it(store: MemoryStore, dtype: str) -> None:
    memory = ErrorMemory(0.9, dtype)
    memory.keep({"w": gennorm(1, (20, 3))}, {"w": np.zeros((20, 3))})
    store.save(KEY, Kept(memory.state, None))
    found = store.load(KEY)
    assert found is not None
    again = ErrorMemory(0.9, dtype, found.errors)
    assert_same(again.state["w"], memory.state["w"])


def test_what_was_never_saved_is_nothing(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    assert store.load(KEY) is None
    store.delete(KEY)
    assert not caplog.records and not store.folder.exists()


def test_the_last_one_saved_counts_and_keys_do_not_mix(store: MemoryStore) -> None:
    for index in range(3):
        store.save(KEY, Kept({"w": np.full(2, index, "f4")}, None))
        store.save("another", Kept({"w": np.full(2, 10 + index, "f4")}, None))
    mine, other = store.load(KEY), store.load("another")
    assert mine is not None and other is not None
    assert (mine.errors["w"][0], other.errors["w"][0]) == (2, 12)
    assert len(files_of(store)) == 2


def test_what_is_deleted_is_gone(store: MemoryStore) -> None:
    store.save(KEY, Kept(ERRORS, LAST))
    store.delete(KEY)
    assert store.load(KEY) is None and files_of(store) == []


def test_anyone_can_read_a_file_with_numpy_alone(store: MemoryStore) -> None:
    store.save(KEY, Kept(ERRORS, LAST))
    with np.load(store.path(KEY), allow_pickle=False) as archive:
        about = json.loads(archive["about"].tobytes())
        assert about == {
            "format": "flwr_co3 memory",
            "version": 1,
            "key": KEY,
            "tensors": list(ERRORS),
            "last": {"turn": LAST.turn, "base": "01" * 8},
        }
        assert archive["frame"].tobytes() == LAST.frame
        for index, error in enumerate(ERRORS.values()):
            assert_same(archive[str(index)], error)


def test_files_are_their_owners_alone_and_stay_in_the_folder(store: MemoryStore) -> None:
    store.save("../../etc/passwd", Kept(ERRORS, LAST))
    (name,) = files_of(store)
    assert name == store.path("../../etc/passwd").name
    assert stat.S_IMODE(store.path("../../etc/passwd").stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert MemoryStore("~/memories").folder == tmp_path / "memories"


def test_a_store_travels_between_processes(store: MemoryStore) -> None:
    again = pickle.loads(pickle.dumps(store))  # as Ray does with a client app
    assert repr(again) == repr(store)
    store.save(KEY, Kept({}, LAST))
    assert again.load(KEY) == Kept({}, LAST)


# Killed at any instant


def test_a_process_killed_while_it_writes_leaves_the_old_file_or_the_new_one(store: MemoryStore) -> None:
    code = f"""
import itertools, numpy as np
from flwr_co3.correct import Kept, LastUpdate, MemoryStore
store = MemoryStore({str(store.folder)!r})
for turn in itertools.count(1):
    store.save({KEY!r}, Kept({{"w": np.full(200_000, turn, "f4")}}, LastUpdate(turn, None, b"")))
    print(turn, flush=True)
"""
    rng = np.random.default_rng(0)
    total = 0
    for _ in range(8):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            assert writer.stdout is not None
            written = [int(writer.stdout.readline()) for _ in range(rng.integers(1, 4))]
            time.sleep(rng.uniform(0, 0.03))
            writer.send_signal(signal.SIGKILL)
            written += [int(line) for line in writer.stdout.read().split()]
        kept = store.load(KEY)
        assert kept is not None and kept.last is not None
        assert kept.last.turn in (written[-1], written[-1] + 1), "what was reported as written is not there"
        assert (kept.errors["w"] == kept.last.turn).all()
        total += len(written)
    assert total > 8
    assert set(files_of(store)) <= {store.path(KEY).name, store.path(KEY).name + ".tmp"}
    store.save(KEY, Kept({}, LAST))
    assert files_of(store) == [store.path(KEY).name]


def test_a_write_that_fails_leaves_what_was_there(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(KEY, Kept(ERRORS, LAST))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(KEY, Kept({}, None))
    monkeypatch.undo()
    assert_kept(store.load(KEY), Kept(ERRORS, LAST))
    assert files_of(store) == [store.path(KEY).name]


def test_the_file_is_on_the_disk_before_it_takes_the_old_ones_place(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def seen_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    store.save(KEY, Kept(ERRORS, LAST))
    assert steps == ["file", "rename", "folder"]


# Bad files


def foreign(**changes: Any) -> bytes:
    """A file whose description differs in something."""
    about = {"format": "flwr_co3 memory", "version": 1, "key": KEY, "tensors": [], "last": None, **changes}
    about = {name: value for name, value in about.items() if value is not ...}
    buffer = BytesIO()
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), np.uint8), frame=np.zeros(0, np.uint8))
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


BAD_FILES = {
    "empty": b"",
    "text": b"not an archive",
    "a pickle": pickle.dumps({"w": 1}),
    "one array": npy(np.ones(3)),
    "pickled objects": npy(np.array([{}])),
    "of another format": foreign(format="a shopping list"),
    "of a later version": foreign(version=2),
    "of another node": foreign(key="run 8f3a, node 18"),
    "without a key": foreign(key=...),
    "without a tensor": foreign(tensors=["w"]),
    "with an odd update": foreign(last={"turn": 3, "base": "xyz"}),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_renamed_with_a_warning(
    store: MemoryStore, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store.folder.mkdir(parents=True)
    path = store.path(KEY)
    path.write_bytes(content)
    assert store.load(KEY) is None
    assert files_of(store) == [path.name + ".damaged"]
    assert (store.folder / (path.name + ".damaged")).read_bytes() == content
    assert str(path) in caplog.text and "starts empty" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    store.save(KEY, Kept(ERRORS, LAST))
    assert_kept(store.load(KEY), Kept(ERRORS, LAST))


def test_the_description_that_the_bad_files_differ_from_is_a_good_one(store: MemoryStore) -> None:
    store.folder.mkdir(parents=True)
    store.path(KEY).write_bytes(foreign())
    assert store.load(KEY) == Kept({}, None)


def test_no_damage_goes_unseen(store: MemoryStore) -> None:
    """Any one byte changed, and any cut: the same memory, or none."""
    kept = Kept({"w": np.arange(6, dtype="f4"), "v": np.ones((2, 2), "f2")}, LAST)
    store.save(KEY, kept)
    path = store.path(KEY)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    seen = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        found = store.load(KEY)
        seen += found is None
        if found is not None:  # a date, or other padding of the archive
            assert_kept(found, kept)
    assert seen > len(whole) / 2
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert store.load(KEY) is None


def test_a_file_that_cannot_be_read_is_not_fatal(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    store.path(KEY).mkdir(parents=True)
    assert store.load(KEY) is None
    assert "cannot be used" in caplog.text


def test_a_file_that_cannot_be_renamed_is_not_fatal(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    store.folder.mkdir(parents=True)
    store.path(KEY).write_bytes(b"bad")
    aside = store.folder / (store.path(KEY).name + ".damaged")
    aside.mkdir()
    assert store.load(KEY) is None
    assert "could not be renamed" in caplog.text


# Limits


def aged(store: MemoryStore, name: str, days: float) -> Path:
    path = store.folder / name
    if not path.exists():
        path.write_bytes(b"old")
    then = time.time() - days * 24 * 60 * 60
    os.utime(path, (then, then))
    return path


def test_files_of_old_runs_go_away(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    store.save(KEY, Kept(ERRORS, LAST))
    ours = store.path(KEY).name
    old = [aged(store, f"co3-{index}{end}", 31) for index, end in enumerate((".npz", ".npz.tmp", ".npz.damaged"))]
    young = [aged(store, "co3-young.npz", 29), aged(store, "notes.txt", 400), aged(store, "mine.npz", 400)]
    store.save(KEY, Kept(ERRORS, LAST))
    assert all(path.exists() for path in old), "only a new file makes room"
    aged(store, ours, 31)
    store.save("a new run", Kept(ERRORS, LAST))
    assert not any(path.exists() for path in old) and not (store.folder / ours).exists()
    assert all(path.exists() for path in young), "other people's files, and young ones, stay"
    assert not caplog.records


def test_the_oldest_go_when_the_folder_is_full(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    small = Kept({"w": np.zeros(1000, "f4")}, None)
    store.save("0", small)
    size = store.path("0").stat().st_size
    full = MemoryStore(store.folder, max_bytes=3 * size + 100)
    aged(store, store.path("0").name, 3)
    for index in (1, 2, 3):
        full.save(str(index), small)
        aged(store, store.path(str(index)).name, 3 - index / 2)
    assert [full.load(str(index)) is not None for index in range(4)] == [False, True, True, True]
    (warning,) = caplog.records
    assert str(store.path("0")) in warning.getMessage() and "was deleted" in warning.getMessage()
    full.save("large", Kept({"w": np.zeros(10_000, "f4")}, None))
    assert full.load("large") is not None, "what was just written stays, whatever the limit"
    assert len(files_of(full)) == 1


def test_what_another_process_writes_stays(store: MemoryStore) -> None:
    store.save("0", Kept(ERRORS, LAST))
    writing = aged(store, "co3-another.npz.tmp", 0.001)
    MemoryStore(store.folder, max_bytes=1).save("1", Kept(ERRORS, LAST))
    assert writing.exists() and store.load("0") is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folder": 3}, "must be a path"),
        ({"folder": ""}, "must be a path"),
        ({"max_bytes": 0}, "max_bytes must be an integer of at least 1, not 0"),
        ({"max_bytes": 1.5}, "max_bytes"),
        ({"max_bytes": True}, "max_bytes"),
        ({"max_days": 0}, "max_days must be above 0"),
        ({"max_days": float("nan")}, "max_days must be a finite number"),
        ({"max_days": "a week"}, "max_days"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MemoryStore(**{"folder": "memories", **arguments})
