"""What every scheme must show: checks that need numpy alone, for the package's schemes and anyone's.

A test of a scheme of one's own, with pytest::

    import pytest
    from flwr_co3.conformance import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_scheme_conforms(check):
        check(MyScheme())

Each check takes a scheme, and raises AssertionError with what is wrong. The scheme must be registered under its name
(an entry point of the group ``flwr_co3.schemes``): frames name it, and nothing else tells how to decode them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.correct import ErrorMemory
from flwr_co3.encoded import Encoded
from flwr_co3.errors import FrameError
from flwr_co3.frame import EMPTY, FrameReader
from flwr_co3.rate import RateLimit
from flwr_co3.schemes.levels import ideal_bits
from flwr_co3.schemes.scheme import CLIENT, INCREMENT, Scheme

Array = npt.NDArray[Any]
Update = dict[str, Array]

_DRAWS = 600
_ROUNDING = 1e-5  # of numbers that travel as float32


def inputs() -> dict[str, Update]:
    """Updates of many kinds, by what they are."""
    rng = np.random.default_rng(7)
    heavy = rng.choice([-1.0, 1.0], 3000) * rng.gamma(0.6, size=3000) ** 1.5
    return {
        "a small network": network(),
        "no tensors": {},
        "only exact tensors": {"steps": np.array(3), "mask": np.array([True, False])},
        "zeros": {"w": np.zeros((40, 50), "f4"), "b": np.zeros(20)},
        "constants": {"w": np.full(1500, 0.25, "f4"), "b": np.full((3, 4), -2.0)},
        "one entry": {"w": np.array(0.5), "b": np.array([-3.0], "f4")},
        "an outlier": {"w": np.where(np.arange(1200) == 77, 1e30, 1e-3 * heavy[:1200]).astype("f4")},
        "no range has room for it": {"huge": 1e300 * heavy, "tiny": 1e-310 * heavy[:50], "half": heavy.astype("f2")},
        "denormals": {"w": (1e-42 * heavy).astype("f4")},
        "mostly zeros": {"w": heavy * (rng.random(3000) < 0.02)},
        "layouts": {
            "big endian": heavy[:60].astype(">f4"),
            "strided": heavy[::7].astype("f4"),
            "none": np.zeros((0, 4)),
        },
    }


def network(seed: int = 0) -> Update:
    """What a round of training may send: tensors of several sizes and scales, one of them half dead, one exact."""
    rng = np.random.default_rng(seed)
    dead = rng.random((60, 1)) < 0.4
    return {
        "conv.weight": (1e-2 * rng.standard_t(3, (24, 16, 3, 3))).astype("f4"),
        "conv.bias": (1e-3 * rng.normal(size=24)).astype("f4"),
        "fc.weight": (3e-3 * rng.laplace(size=(60, 50)) * dead).astype("f4"),
        "fc.bias": (2e-2 * rng.normal(size=60)).astype("f8"),
        "bn.num_batches_tracked": np.array(12),
    }


def round_trip(scheme: Scheme) -> None:
    """Decoding needs the frame alone, and gives what `Encoded.sent` says, in the types and shapes that came in."""
    for what, update in inputs().items():
        encoded = _compress(scheme, update)
        decoded = Codec().decode(encoded.frame)
        assert list(decoded) == list(update), f"{what}: tensors are missing"
        for name, tensor in update.items():
            found = decoded[name]
            assert found.dtype == tensor.dtype.newbyteorder("="), f"{what}: {name} became {found.dtype}"
            assert found.shape == tensor.shape, f"{what}: {name} became {found.shape}"
            assert np.all(np.isfinite(found)), f"{what}: {name} is not finite"
            assert np.array_equal(found, encoded.sent[name]), f"{what}: {name} is not what was said to be sent"


def the_same_seed_writes_the_same_frame(scheme: Scheme) -> None:
    """Nothing else is random."""
    assert _compress(scheme, network()).frame == _compress(scheme, network()).frame


def unbiased_where_claimed(scheme: Scheme) -> None:
    """The mean of many draws lies as near to the update as means of so many draws do.

    With ``V = E||q - v||^2`` it is expected at a squared distance of V / n; twice that is allowed, and along v, where a
    wrong scale shows, five standard errors.
    """
    if not scheme.unbiased:
        return
    rng = np.random.default_rng(1)
    vectors = [rng.laplace(size=400), 0.1 * rng.normal(size=200)]
    v = np.concatenate(vectors)
    sizes = [vector.size for vector in vectors]
    draws = np.array(
        [np.concatenate([*scheme.decode(scheme.encode(vectors, rng, False), sizes)]) for _ in range(_DRAWS)]
    )
    variance = float(np.mean(np.sum((draws - v) ** 2, axis=1)))
    bias = float(np.sum((draws.mean(axis=0) - v) ** 2))
    slack = _ROUNDING * float(np.dot(v, v))
    assert bias <= 2 * variance / _DRAWS + slack, f"squared bias {bias}, and {variance / _DRAWS} would be chance"
    along = draws @ v / np.dot(v, v)
    error = 5 * float(along.std()) / math.sqrt(_DRAWS) + _ROUNDING
    assert abs(along.mean() - 1) <= error, f"the update is scaled by {along.mean()}, which is not 1 within {error}"


def contraction_where_claimed(scheme: Scheme) -> None:
    """``||v - decoded||^2 <= ||v||^2`` in each draw; with a memory for unbiased schemes too, since they are damped."""
    for what, update in inputs().items():
        for seed in range(5):
            if scheme.contraction:
                nmse = _compress(scheme, update, seed=seed).nmse
                assert nmse <= 1 + _ROUNDING, f"{what}: the error is {nmse} of the update"
            if scheme.memory == CLIENT and (scheme.contraction or scheme.unbiased):
                nmse = _compress(scheme, update, ErrorMemory(), seed=seed).nmse
                assert nmse <= 1 + _ROUNDING, f"{what}, with a memory: the error is {nmse} of the update"


def bytes_as_claimed(scheme: Scheme) -> None:
    """A frame has the entropy of its levels (their tokens and low bits), its numbers and raw bytes, and little else."""
    update = {f"layer{k}": tensor for k in range(4) for tensor in (network(k)["conv.weight"],)}
    frame = _compress(scheme, update).frame
    body = FrameReader(frame).body
    assert body is not None
    parts = body.parts()
    entropy = sum(map(ideal_bits, parts.levels))
    claimed = entropy / 8 + 4 * parts.numbers.size + len(parts.raw)
    assert len(frame) <= 1.03 * claimed + 150 + 50 * len(parts.levels), f"{len(frame)} bytes, and {claimed} are needed"


def budgets_hold(scheme: Scheme) -> None:
    """No frame is above its limit, and a scheme with a knob uses most of what it is given."""
    update = network()
    parameters = sum(tensor.size for tensor in update.values())
    free = len(_compress(scheme, update).frame)
    for limit in (1, 60, 150, 400, 1000, 3000, free - 1, free + 10_000, 8 * parameters):
        config = CO3Config(scheme=scheme, rate=RateLimit(bytes_per_round=limit))
        memory = ErrorMemory()
        encoded = Codec(config, seed=0).compress(update, memory=memory)
        assert len(encoded.frame) <= limit, f"{len(encoded.frame)} bytes, and {limit} are allowed"
        if scheme.knob is not None and not scheme.knob.whole and 400 <= limit < free:
            assert len(encoded.frame) >= 0.9 * limit, f"{len(encoded.frame)} bytes, and {limit} could be used"
        if encoded.frame == EMPTY and scheme.memory == CLIENT:
            held, all_of_it = memory.state["fc.weight"], update["fc.weight"]
            assert _near(held, all_of_it, all_of_it), "what was not sent is not remembered"


def nothing_is_lost(scheme: Scheme) -> None:
    """What was sent is all that was to be sent but for what the memory holds; or it holds what was sent (EF21)."""
    if scheme.memory not in (CLIENT, INCREMENT):
        return
    for rate in (None, RateLimit(bits_per_parameter=1.0)):
        memory, codec = ErrorMemory(), Codec(CO3Config(scheme=scheme, rate=rate), seed=0)
        produced: dict[str, Any] = {}
        sent: dict[str, Any] = {}
        for seed in range(4):
            update = {name: tensor for name, tensor in network(seed).items() if tensor.dtype.kind == "f"}
            encoded = codec.compress(update, memory=memory)
            for name, tensor in update.items():
                produced[name] = produced.get(name, 0.0) + tensor.astype("f8")
                sent[name] = sent.get(name, 0.0) + encoded.sent[name].astype("f8")
        for name, held in memory.state.items():
            expected = -sent[name] if scheme.memory == INCREMENT else produced[name] - sent[name]
            assert _near(held, expected, produced[name]), f"the memory of {name} does not hold what it should"


def damaged_frames_are_refused(scheme: Scheme) -> None:
    """Whatever the bytes are: FrameError, or finite tensors of the model that the receiver expects."""
    update = network()
    encoded = _compress(scheme, update)
    like = FrameReader(encoded.frame).tensors
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(encoded.frame)
        at = int(rng.integers(4, len(damaged) - 4)) if rng.random() < 0.5 else int(rng.integers(4, 120))
        damaged[at : at + int(rng.integers(1, 4))] = rng.bytes(int(rng.integers(0, 5)))
        _decode_or_refuse(bytes(damaged), like)
        if scheme.hardened:
            _decode_or_refuse(bytes(damaged[:-4]) + zlib.crc32(damaged[:-4]).to_bytes(4, "little"), like)


CHECKS = (
    round_trip,
    the_same_seed_writes_the_same_frame,
    unbiased_where_claimed,
    contraction_where_claimed,
    bytes_as_claimed,
    budgets_hold,
    nothing_is_lost,
    damaged_frames_are_refused,
)


def _compress(scheme: Scheme, update: Mapping[str, Array], memory: ErrorMemory | None = None, seed: int = 0) -> Encoded:
    return Codec(CO3Config(scheme=scheme), seed=seed).compress(update, memory=memory)


def _decode_or_refuse(frame: bytes, like: Mapping[str, Any]) -> None:
    try:
        decoded = Codec().decode(frame, like=like)
    except FrameError:
        return
    assert all(np.all(np.isfinite(tensor)) for tensor in decoded.values()), "a damaged frame decodes to no numbers"


def _near(found: Array, expected: Array, scale: Array) -> bool:
    return bool(np.allclose(found, expected, rtol=1e-4, atol=_ROUNDING * float(np.abs(scale).max(initial=0.0))))
