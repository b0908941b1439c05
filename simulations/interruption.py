"""Ending a simulation from outside without losing what it found."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console

from simulations.runtime import SIGNALS, end_ray


@contextlib.contextmanager
def stoppable(stop: threading.Event, console: Console, last_wish: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM set ``stop``; a second one calls ``last_wish`` and ends the process at once.

    Flower's runtime waits for its threads when it is interrupted, and these for the server: a plain Ctrl-C
    would hang.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            console.print("[yellow]Stopping after this round; press Ctrl-C again to stop at once.[/yellow]")
            return
        last_wish()
        end_ray()
        os._exit(128 + number)

    before = [signal.signal(number, on_signal) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
