"""What goes wrong at clients: drawn from a seed, the run's own, and the same in each process that asks."""

import os
import random
import signal
import threading
import time

FAULTS = (
    *("is killed in training", "is killed at any instant", "is killed before its reply leaves"),
    *("is late", "finds its memory damaged", "fails in training", "damages its reply"),
)
NONE = "none"
_LONGEST = 0.05  # seconds until a kill "at any instant": compressing and storing take some 10 ms


def fault(seed: str, node: int, server_round: int, calm_from: int) -> str:
    """Say what happens to a node in a round: nothing, half of the time."""
    if not seed or server_round >= calm_from:
        return NONE
    return _random(seed, node, server_round).choice([*FAULTS, *[NONE] * len(FAULTS)])


def kill() -> None:
    """``kill -9`` of the process that calls it."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_soon(seed: str, node: int, server_round: int) -> None:
    """Let the process be killed at some instant of what it does now, and wait for it should it be over before."""
    delay = _random(seed, node, server_round).uniform(0, _LONGEST)
    threading.Timer(delay, kill).start()


def wait_for_the_end() -> None:
    """Wait to be killed."""
    time.sleep(60)


def _random(seed: str, node: int, server_round: int) -> random.Random:
    return random.Random(f"{seed}, node {node}, round {server_round}")
