"""No test here leaves processes behind, even where it is ended itself."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def tidy() -> Iterator[None]:
    """Let SIGTERM be an exception, as Ctrl-C is, so that what was started is ended.

    SIGINT too: pytest-xdist ends its workers by it, and a shell lets what it starts in the background ignore it.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
