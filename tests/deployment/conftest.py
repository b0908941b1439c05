"""No test here leaves processes behind, even where it is ended itself."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def tidy() -> Iterator[None]:
    """Let SIGTERM be an exception, as Ctrl-C is, so that what was started is ended."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)
