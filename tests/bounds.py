"""Limits that tests hold code to."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bounded_memory(limit: int) -> Iterator[None]:
    """Assert that no more than so many bytes are ever taken at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak} bytes were taken, and {limit} allowed"
