"""Every scheme, given whatever arrays numpy can make."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flwr_co3 import CO3Config, Codec, RateLimit
from tests.samples import Array, assert_same_update
from tests.schemes.variants import VARIANTS
from tests.strategies import UPDATES


@given(update=UPDATES, limit=st.none() | st.integers(1, 3000), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("name", VARIANTS)
def test_any_update_comes_back(name: str, update: dict[str, Array], limit: int | None, seed: int) -> None:
    rate = None if limit is None else RateLimit(bytes_per_round=limit)
    encoded = Codec(CO3Config(scheme=VARIANTS[name], rate=rate), seed=seed).compress(update)
    assert limit is None or len(encoded.frame) <= limit
    assert list(encoded.sent) == list(update)
    assert all(np.all(np.isfinite(tensor)) for tensor in encoded.sent.values())
    if decoded := Codec().decode(encoded.frame):
        assert_same_update(decoded, encoded.sent)
