"""What tests in several folders share."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.engines import NUMPY, VECTORS, running

# The same examples at each call, so that what fails comes from the change at hand; `make explore` draws others.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collections: Flower's strategies collect after each message."""
    gc.freeze()


@pytest.fixture(scope="module", params=(NUMPY, VECTORS))
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Either form of the hot loops in turn, for modules all of whose tests must hold for both (`usefixtures`)."""
    with running(request.param):
        yield request.param


@pytest.fixture
def task() -> Iterator[None]:
    """Let strategies make messages outside a run."""
    from simulations.inline import outside_a_run  # here: the core's tests also run where there are no simulations

    with outside_a_run():
        yield
