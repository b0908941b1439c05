"""What goes wrong at clients: drawn from a seed, the run's own, and the same in each process that asks."""

import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

STATE_IS_LOST = "is killed before its state is kept"  # its reply has left
FAULTS = {  # by where the memory is
    "store": (
        *("is killed in training", "is killed at any instant", "is killed before its reply leaves"),
        *("is late", "finds its memory damaged", "fails in training", "damages its reply"),
    ),
    "state": ("is killed in training", "is killed before its reply leaves", STATE_IS_LOST),
}
NONE = "none"
_LONGEST = 0.05  # seconds until a kill "at any instant": compressing and storing take some 10 ms


def fault(seed: str, faults: Sequence[str], node: int, server_round: int, calm_from: int) -> str:
    """Say what happens to a node in a round: nothing, half of the time."""
    if not seed or server_round >= calm_from:
        return NONE
    return _random(seed, node, server_round).choice([*faults, *[NONE] * len(faults)])


def kill() -> None:
    """``kill -9`` of the process that calls it."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_soon(seed: str, node: int, server_round: int) -> None:
    """Let the process be killed at some instant of what it does now, and wait for it should it be over before."""
    delay = _random(seed, node, server_round).uniform(0, _LONGEST)
    threading.Timer(delay, kill).start()


def kill_before_the_state_is_kept() -> None:
    """Let the process be killed between the two messages in which Flower 1.41 takes its reply and its state."""
    from flwr.supernode.runtime import run_clientapp

    def dies(**output: Any) -> None:
        kill()

    run_clientapp.push_task_output = dies  # type: ignore[assignment]  # it needs none of what it is given


def wait_for_the_end() -> None:
    """Wait to be killed."""
    time.sleep(60)


def _random(seed: str, node: int, server_round: int) -> random.Random:
    return random.Random(f"{seed}, node {node}, round {server_round}")
