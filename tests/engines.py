"""The forms of the hot loops, which must write the same bytes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flwr_co3 import kernels

#: numpy is the reference; of the compiled loops there are two, one of which needs a processor with AVX2.
NUMPY, PLAIN, VECTORS = "numpy", "c without AVX2", "c"
ENGINES = (NUMPY, PLAIN, VECTORS)


def require(name: str) -> None:
    """Skip a test whose engine is not there. Where all must be built, that fails instead."""
    if name == NUMPY:
        return
    try:
        kernels.use("c")
    except RuntimeError as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"In CI the compiled loops must be there: {error}")
        pytest.skip(str(error))


@contextmanager
def running(name: str, threads: int | None = None) -> Iterator[None]:
    """Run a block on one of `ENGINES`."""
    with kernels.using("auto"):  # whatever `require` chooses ends here
        require(name)
        with kernels.using("numpy" if name == NUMPY else "c", threads):
            loops = kernels.compiled()
            if loops is not None:
                loops.use(name == VECTORS)
            try:
                yield
            finally:
                if loops is not None:
                    loops.use(True)
