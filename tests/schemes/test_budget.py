"""The search over a scheme's knob."""

import dataclasses

import pytest

from flwr_co3 import CO3Config, Codec, RateLimit
from flwr_co3.schemes import make_scheme
from flwr_co3.schemes.budget import largest_within
from flwr_co3.schemes.scheme import Scheme
from tests.samples import gennorm


@dataclasses.dataclass
class Encoder:
    """Frames whose size is some power of the knob."""

    power: float
    fixed: int
    calls: int = 0

    def __call__(self, scheme: Scheme) -> bytes:
        self.calls += 1
        return bytes(self.fixed + round(1e6 * getattr(scheme, "share") ** self.power))  # noqa: B009


@pytest.mark.parametrize("budget", [30, 100, 999, 12_345, 10**5, 10**6, 10**7])
@pytest.mark.parametrize("power", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("start", [1e-9, 0.01, 1.0])
def test_the_budget_is_used_and_never_exceeded(budget: int, power: float, start: float) -> None:
    encode = Encoder(power, 20)
    frame = largest_within(budget, make_scheme("topk", share=start), encode)
    least = len(Encoder(power, 20)(make_scheme("topk", share=1e-9)))
    if budget < least:
        assert frame is None
    else:
        assert frame is not None
        assert min(0.95 * budget, 10**6 + 20) <= len(frame) <= budget or len(frame) <= 1.05 * least
    assert encode.calls <= 16


def test_what_does_not_fit_at_all_is_none() -> None:
    assert largest_within(19, make_scheme("topk"), Encoder(1.0, 20)) is None


def test_a_scheme_without_a_knob_fits_or_does_not() -> None:
    for budget, fits in ((50, True), (49, False)):
        frame = largest_within(budget, make_scheme("none"), lambda _: bytes(50))
        assert (frame is not None) is fits


@pytest.mark.parametrize("bits", [0.3, 1.0, 2.0, 3.0, 4.5])
@pytest.mark.parametrize("scheme", [make_scheme("m22"), make_scheme("m22", bits=1, weight=0), make_scheme("lruvq")])
def test_levels_become_finer_where_all_is_kept_and_there_is_room(scheme: Scheme, bits: float) -> None:
    update = {"w": gennorm(1.0, 6000)}
    encoded = [
        Codec(CO3Config(scheme=scheme, rate=RateLimit(bits_per_parameter=rate))).compress(update)
        for rate in (0.7 * bits, bits)
    ]
    assert 0.9 * bits * 6000 / 8 <= len(encoded[1].frame) <= bits * 6000 / 8
    assert encoded[1].nmse < encoded[0].nmse


def test_one_bit_stays_one_bit() -> None:
    update = {"w": gennorm(1.0, 6000)}
    frame = Codec(CO3Config(scheme="onebit", rate=RateLimit(bits_per_parameter=4))).encode(update)
    assert len(frame) <= 1.6 * 6000 / 8
