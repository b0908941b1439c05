"""docs/frame.md says enough: a decoder written from it reads what the package writes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flwr_co3 import CO3Config, Codec, FrameReader, RateLimit
from flwr_co3.frame import _DICTIONARY, LAYERED
from flwr_co3.schemes import Scheme, make_scheme
from tests import frame_by_the_book
from tests.kinds import uneven

FORMATS = ["fp4", "fp8", "fp8_143", "e2m1", "e4m3", "uniform"]


def model(size: int, scale: float) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(size)
    return {
        "layer1.0.conv1.weight": (scale * rng.laplace(size=(size, 3, 3))).astype(np.float32),
        "layer1.0.conv1.bias": (scale * rng.normal(size=size)).astype(np.float16),
        "layer1.0.bn1.running_mean": rng.normal(size=size).astype(np.float32),
        "layer1.0.bn1.num_batches_tracked": np.array(17),
        "fc.weight": (0.1 * scale * rng.standard_t(2, size=(10, size))) * (rng.random((10, size)) < 0.3),
        "uneven": uneven((50, 60)),
        "frozen": np.zeros((40, 50), np.float32),
        "all the same": np.full(3000, scale, np.float32),
        "few": np.where(rng.random(5000) < 0.001, np.float32(scale), np.float32(0)),
        "sparse": np.where(rng.random(90_000) < 0.01, np.float32(scale) * rng.laplace(size=90_000), 0.0),
        "half dead": np.where(rng.random(1500) < 0.6, 0, scale * rng.laplace(size=1500)),
        "none": np.zeros((0, 7), np.float32),
        "flags": rng.random(9) < 0.5,
    }


CONFIGS = [
    *(CO3Config(format=name, coder=coder) for name in FORMATS for coder in ("rans", "huffman")),
    *(CO3Config(scale=s, coder=coder) for s in (0.5, 3.0, 50.0) for coder in ("rans", "huffman")),
    *(CO3Config(rate=RateLimit(bits_per_parameter=bits)) for bits in (0.01, 0.7, 1.0, 2.0, 3.0)),
    CO3Config(rounding="stochastic", exact=("*bias",), exact_below=0),
    *(CO3Config(rounding="rd", reconstruction="centroid", format=name, scale=2.0) for name in ("fp4", "uniform")),
    *(
        CO3Config(rounding="rd", reconstruction="centroid", rate=RateLimit(bits_per_parameter=bits))
        for bits in (0.05, 1.0)
    ),
    *(CO3Config(scale=scale, contexts=True) for scale in (0.1, 1.0)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.to_json())
@pytest.mark.parametrize("size", [40, 700])
def test_a_decoder_written_from_the_document_reads_every_kind_of_frame(config: CO3Config, size: int) -> None:
    codec = Codec(config, seed=1)
    for scale in (1.0, 1e-3):
        encoded = codec.compress(model(size, scale))
        read = frame_by_the_book.decode(encoded.frame, _DICTIONARY)
        assert list(read) == (list(encoded.sent) if len(encoded.frame) > 1 else [])
        for name, array in read.items():
            assert array.dtype == encoded.sent[name].dtype
            np.testing.assert_array_equal(array, encoded.sent[name], strict=True)


def test_these_frames_show_every_model_and_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: set[str] = set()
    flags = 0
    read_model = frame_by_the_book.read_model

    def noting(*args: Any) -> tuple[Any, ...]:
        first = args[0].data[args[0].at]
        kinds.add(f"{first % 16}{' packed' if first >= 16 else ''}")
        return read_model(*args)

    monkeypatch.setattr(frame_by_the_book, "read_model", noting)
    for config in CONFIGS:
        frame = Codec(config, seed=1).encode(model(700, 1.0))
        flags |= frame[4] if len(frame) > 1 and frame[3] != LAYERED else 0
        frame_by_the_book.decode(frame, _DICTIONARY)
    assert kinds >= {"0", "1", "1 packed", "2", "2 packed", "3", "3 packed", "4", "5", "6", "7", "8"}, kinds
    assert flags == 31 | 64


SCHEMES = [
    *((scheme, False) for scheme in (make_scheme("qsgd", levels=9000), make_scheme("qsgd", levels=2))),
    *((scheme, True) for scheme in (make_scheme("topk"), make_scheme("topk", share=0.6))),
    (make_scheme("none"), None),
]


@pytest.mark.parametrize(("scheme", "together"), SCHEMES, ids=lambda value: str(value))
@pytest.mark.parametrize("size", [40, 700])
def test_the_document_says_how_other_schemes_are_framed(scheme: Scheme, together: bool | None, size: int) -> None:
    for scale in (1.0, 1e-3, 1e30):
        frame = Codec(CO3Config(scheme=scheme), seed=0).encode(
            model(size, 1.0) | {"w": scale * np.arange(-9.0, 1100.0)}
        )
        read = frame_by_the_book.read_scheme(frame, _DICTIONARY, together)
        body = FrameReader(frame).body
        assert body is not None
        parts = body.parts()
        assert (read.name, read.exponent, read.fresh) == (scheme.name, body.exponent, True)
        assert read.numbers == parts.numbers.tolist() and read.raw == parts.raw
        assert read.levels == [levels.tolist() for levels in parts.levels]
