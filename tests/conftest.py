"""What tests all over the core share."""

from collections.abc import Iterator

import pytest

from tests.engines import NUMPY, VECTORS, running


@pytest.fixture(scope="module", params=(NUMPY, VECTORS))
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Either form of the hot loops in turn, for modules all of whose tests must hold for both (`usefixtures`)."""
    with running(request.param):
        yield request.param
