"""A ClientApp that learns least squares, keeps a journal of what it did, and dies when it is told to."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from flwr_co3 import CO3Mod, MemoryStore
from flwr_co3._keeping import StateKeeper

from .faults import FAULTS, fault, kill, kill_before_the_state_is_kept, kill_soon, wait_for_the_end

Next = Callable[[Message, Context], Message]


def witness(message: Message, context: Context, call_next: Next) -> Message:
    """Write down what is stored before each train message, and let happen what shall happen."""
    happens = fault_of(message, context)
    with alone(context):
        entry = next_entry(context)
        before = remembered(message, context)
        about = {
            "key": f"{context.run_id}/{round_of(message)}",
            "node": context.node_id,
            "turn": message.content.config_records["config"].get("co3-turn"),
            "fault": happens,
        }
        entry.with_suffix(".json").write_text(json.dumps(about))
        if before is not None:
            entry.with_suffix(".before.npz").write_bytes(before.read_bytes())
            if happens == "finds its memory damaged":
                before.write_bytes(before.read_bytes()[:-30])
        reply = call_next(message, context)
    if happens == "is killed before its state is kept":
        kill_before_the_state_is_kept()
    if happens == "is killed at any instant":
        wait_for_the_end()
    if happens == "is killed before its reply leaves":
        kill()
    if happens == "is late":
        time.sleep(float(context.run_config["timeout"]) + 2)
    return damaged(reply) if happens == "damages its reply" else reply


def co3(message: Message, context: Context, call_next: Next) -> Message:
    """CO3, with the run's kind of memory; nothing where the node has no mod."""
    if context.node_config.get("without-co3"):
        return call_next(message, context)
    store = None if context.run_config["memory"] == "state" else own_folder(context) / "store"
    return CO3Mod(store=store)(message, context, call_next)


app = ClientApp()


@app.train(mods=[witness, co3])
def train(message: Message, context: Context) -> Message:
    """Take some steps of least squares, whose solution is 1, 1, 1, ..."""
    happens = fault_of(message, context)
    arrays = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
    new = arrays | {"w": descend(arrays["w"], int(context.node_config["node"])), "rounds": arrays["rounds"] + 1}
    if happens == "is killed in training":
        kill()
    if happens == "fails in training":
        raise RuntimeError("The disk with the data is gone.")
    np.save(last_entry(context).with_suffix(".update.npy"), new["w"] - arrays["w"])
    if happens == "is killed at any instant":
        kill_soon(str(context.run_config["faults"]), int(context.node_config["node"]), round_of(message))
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(np.asarray(array)) for name, array in new.items()}),
            "metrics": MetricRecord({"num-examples": 10, "loss": float(np.linalg.norm(new["w"] - 1))}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate(mods=[co3])
def evaluate(message: Message, context: Context) -> Message:
    """Say how far the model is from the solution."""
    w = message.content.array_records["arrays"]["w"].numpy()
    metrics = MetricRecord({"num-examples": 10, "distance": float(np.linalg.norm(w - 1))})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def descend(w: NDArray[Any], node: int) -> NDArray[Any]:
    """Take five steps on the node's own data."""
    features = np.random.default_rng(node).normal(size=(2 * w.size, w.size)).astype(np.float32)
    targets = features @ np.ones(w.size, np.float32)
    for _ in range(5):
        w = w - 0.3 * features.T @ (features @ w - targets) / len(targets)
    return np.asarray(w, np.float32)


def damaged(reply: Message) -> Message:
    """Flip a bit of the frame."""
    frame = bytearray(reply.content.array_records["arrays"]["co3"].data)
    frame[-1] ^= 1
    reply.content["arrays"] = of_frame(frame)
    return reply


def of_frame(frame: bytearray) -> ArrayRecord:
    return ArrayRecord({"co3": Array("uint8", (len(frame),), "flwr_co3", bytes(frame))})


def round_of(message: Message) -> int:
    return int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]  # FedAvg's own entry


def fault_of(message: Message, context: Context) -> str:
    config = context.run_config
    calm_from = int(config["rounds"]) - int(config["calm"]) + 1
    happening = FAULTS[str(config["memory"])]
    return fault(str(config["faults"]), happening, int(context.node_config["node"]), round_of(message), calm_from)


def own_folder(context: Context) -> Path:
    folder = Path(str(context.run_config["folder"])) / f"node-{context.node_config['node']}"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def alone(context: Context) -> Iterator[None]:
    """Wait until no other process of this node and run is between reading its memory and having written it."""
    with (own_folder(context) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def last_entry(context: Context) -> Path:
    """The journal's last entry."""
    return max(own_folder(context).glob("entry-*.json")).with_suffix("")


def next_entry(context: Context) -> Path:
    entries = len(list(own_folder(context).glob("entry-*.json")))
    return own_folder(context) / f"entry-{entries:03d}"


def remembered(message: Message, context: Context) -> Path | None:
    """A file with this run's memory: the store's own, or what is in the state written as one."""
    token = str(message.content.config_records["config"].get("co3-run"))
    if context.run_config["memory"] == "state":
        kept, key = StateKeeper(context.state).load(token), f"run {token}, node {context.node_id}"
        if kept is None:
            return None
        copy = MemoryStore(own_folder(context) / "copy")
        copy.save(key, kept)
        return copy.path(key)
    for file in (own_folder(context) / "store").glob("*.npz"):
        with np.load(file) as archive:
            about = json.loads(archive["about"].tobytes())
        if about["key"].startswith(f"run {token},"):
            return file
    return None
