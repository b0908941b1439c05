"""Every scheme of the package passes the checks that third parties' schemes are held to."""

from collections.abc import Callable

import pytest

from flwr_co3.conformance import CHECKS
from flwr_co3.schemes import Scheme
from tests.schemes.variants import VARIANTS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_scheme_conforms(name: str, check: Callable[[Scheme], None]) -> None:
    check(VARIANTS[name])
