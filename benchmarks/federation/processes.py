"""Processes that are started, watched, killed and ended; each ends with all that it started."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_POLL = 0.05  # seconds
_GRACE = 3.0  # seconds that a process has to end by itself; pytest-xdist gives a worker that it stops 5 for everything


class TimeLimitError(RuntimeError):
    """Something did not happen in time."""


class Process:
    """One process, whose output goes to a file.

    Parameters
    ----------
    command : Sequence[str]
        Program and arguments.
    log : Path
        File for its output; what is there already stays.
    env : Mapping[str, str]
        Its environment.
    """

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        self._name = Path(command[0]).name
        self._start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Its id, and that of its group."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def output(self) -> str:
        """Return what it and its children have printed so far."""
        return self.log.read_bytes()[self._start :].decode(errors="replace")

    def wait(self, seconds: float) -> int:
        """Wait for its end, and return its exit status.

        Raises
        ------
        TimeLimitError
            If it still runs after so many seconds.
        """
        until(lambda: not self.is_running, seconds, f"{self._name} does not end. It printed:\n{self.output()[-3000:]}")
        return int(self._popen.returncode)

    def wait_for(self, text: str, seconds: float) -> None:
        """Wait until it has printed a text.

        Raises
        ------
        TimeLimitError
            If it has not after so many seconds, or ended before.
        """
        until(lambda: text in self.output() or not self.is_running, seconds, f"{self._name} does not print {text!r}")
        if text not in self.output():
            raise TimeLimitError(f"{self._name} ended before it printed {text!r}. It printed:\n{self.output()[-3000:]}")

    def kill(self) -> None:
        """Kill it, and not what it started: ``kill -9``."""
        self._popen.kill()
        self._popen.wait()

    def end(self) -> None:
        """End it and all that it started."""
        end_all([self])


def end_all(processes: Sequence[Process]) -> None:
    """End processes and all that they started: first they are asked to."""
    groups = _groups({process.pid for process in processes if process.is_running})
    _signal(groups, signal.SIGTERM)
    with suppress(TimeLimitError):
        until(lambda: not any(process.is_running for process in processes), _GRACE, "Some still run")
    _signal(groups | {process.pid for process in processes}, signal.SIGKILL)
    for process in processes:
        process.wait(_GRACE)


def _groups(pids: set[int]) -> set[int]:
    """Return the process groups of processes and of all that they started: a SuperLink's SuperExec has its own."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid="], check=True, capture_output=True, text=True).stdout
    rows = [tuple(map(int, line.split())) for line in table.splitlines()]
    found, more = set(pids), set(pids)
    while more:
        more = {pid for pid, parent, _ in rows if parent in more}
        found |= more
    return {group for pid, _, group in rows if pid in found}


def _signal(groups: set[int], number: int) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):  # macOS: of a group whose processes are all dead
            os.killpg(group, number)


def until(happened: Callable[[], bool], seconds: float, complaint: str) -> None:
    """Wait until something has happened.

    Raises
    ------
    TimeLimitError
        If it has not after so many seconds.
    """
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeLimitError(f"{complaint} (after {seconds:g} s).")
        time.sleep(_POLL)


def free_port() -> int:
    """Return a TCP port of loopback that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
