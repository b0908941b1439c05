"""Every command at a tiny size: its figures make sense, whatever they are. Times are never judged."""

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from benchmarks import (
    budgets,
    codec,
    directions,
    flower,
    goals,
    loops,
    memory,
    peers,
    quantisers,
    regressions,
    schemes,
    server_memory,
    shannon,
    size,
    startup,
    tensors,
)
from benchmarks.output import Form, Row
from flwr_co3 import kernels
from simulations.presets import PRESETS

SMALL = 5_000


def tables(capsys: pytest.CaptureFixture[str]) -> list[list[Row]]:
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return [table["rows"] for table in found]


def rows(capsys: pytest.CaptureFixture[str], table: int = 0) -> list[Row]:
    return tables(capsys)[table]


def assert_positive(row: Row) -> None:
    for heading, cell in row.items():
        if isinstance(cell, (int, float)):
            assert math.isfinite(cell) and cell > 0, f"{heading} is {cell}"


def test_codec(capsys: pytest.CaptureFixture[str]) -> None:
    codec.main("one tensor,DenseNet-121", SMALL, "fp4,fp8,0.1 bit", 1, "", Form.JSON)

    found = rows(capsys)
    assert [row["setting"] for row in found] == 2 * ["fp4", "fp8", "0.1 bit"]
    for row in found:
        assert_positive(row)
        assert isinstance(row["bits"], float) and row["bits"] < 32
    fp4, fp8, tenth = (row["bits"] for row in found[:3])
    assert isinstance(fp4, float) and isinstance(fp8, float) and isinstance(tenth, float)
    assert tenth <= 0.1 < fp4 < fp8


def test_codec_with_several_numbers_of_threads(capsys: pytest.CaptureFixture[str]) -> None:
    codec.main("one tensor", SMALL, "fp4", 1, "1,2", Form.JSON)

    (gain,) = rows(capsys, table=2)
    assert gain["threads"] == 2
    assert_positive(gain)


def test_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    tensors.main(SMALL, "fp4", 1, Form.JSON)

    found = rows(capsys)
    assert {row["update"]: row["tensors"] for row in found} == {"ResNet-18": 62, "DenseNet-121": 364}
    for row in found:
        assert_positive(row)


def test_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = tmp_path / "net.npz"
    rng = np.random.default_rng(0)
    np.savez(real, weight=rng.laplace(size=(40, 50)).astype("f4"), bias=rng.laplace(size=4).astype("f4"))

    size.main(20_000, "fp4,0.5 bit", str(real), 0, Form.JSON)

    for row in rows(capsys):
        entropy, side = row["over the entropy"], row["over entropy + side"]
        assert isinstance(entropy, float) and isinstance(side, float)
        assert 0.99 < side < entropy < 1.2, "a frame of independent draws is about as large as their entropy"


def test_peers_that_are_missing_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    peers.main("one tensor", SMALL, "fp4", "zstd,nncodec", None, 1, Form.JSON)

    (table,) = json.loads(capsys.readouterr().out)
    ours, theirs = (row for row in table["rows"] if row["codec"] != "nncodec, scalar")
    assert (ours["codec"], theirs["codec"]) == ("flwr-co3", "uniform + zstd -1")
    assert theirs["nMSE"] == pytest.approx(ours["nMSE"], rel=0.05)
    assert "pip install nncodec" in table["note"] or len(table["rows"]) == 3


@pytest.mark.skipif(kernels.engine() != "c", reason="there are no compiled loops")
def test_loops(capsys: pytest.CaptureFixture[str]) -> None:
    before = kernels.compiled()
    # Of small updates a busy machine leaves loops no share that is shown.
    loops.main(300_000, "one tensor", "fp4", 3, Form.JSON)

    assert kernels.compiled() is before
    found = rows(capsys)
    assert {"convert", "rans_encode"} <= {row["loop"] for row in found}
    *parts, whole = found
    assert whole["loop"] == "all" and whole["share %"] == 100
    for row in parts:
        assert isinstance(row["share %"], float) and row["share %"] < 100


def test_startup(capsys: pytest.CaptureFixture[str]) -> None:
    startup.main(1_000, 1, Form.JSON)

    output = capsys.readouterr().out
    for table in json.loads(output):
        for row in table["rows"]:
            assert_positive(row)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are Linux's")
def test_memory(capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(1_000_000, "fp4", "encode;decode", Form.JSON)

    encode, decode = rows(capsys)
    for row in (encode, decode):
        extra = row["of the update"]
        assert isinstance(extra, float) and 0 < extra < 20
    assert isinstance(decode["of the update"], float) and decode["of the update"] > 0.9, "its result is counted"


def test_goals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(goals, "FOLDER", tmp_path)
    monkeypatch.setattr(goals, "TENSOR_ENTRIES", SMALL)
    monkeypatch.setenv("FLWR_CO3_THREADS", "1")

    goals.main(SMALL, 20_000, 2, "", 1, Form.JSON)

    found = {str(row["goal"]): row for row in rows(capsys)}
    missing = {"encode fp4, times as fast as nncodec's scalar", "size over the entropy, resnet18, fp4"}
    for goal, row in found.items():
        assert (row["met"] == "not measured") == (goal in missing | {"size over the entropy, densenet121, fp4"})
        assert row["measured"] is None or row["met"] in ("yes", "no")


def test_flower(capsys: pytest.CaptureFixture[str]) -> None:
    flower.main("20000", "3", "fp4", 10.0, 1, Form.JSON)

    plain, ours = rows(capsys)
    assert plain["our share %"] is None
    assert_positive(plain)
    assert_positive(ours)
    share, real = ours["our share %"], ours["with 10 s of training %"]
    assert isinstance(share, float) and isinstance(real, float)
    assert 0 < real < share < 100
    assert isinstance(plain["a reply kB"], float) and isinstance(ours["a reply kB"], float)
    assert ours["a reply kB"] < plain["a reply kB"] / 5


def test_a_baseline_that_nothing_could_beat_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"one tensor, fp4: encode": 0.2, "one tensor, fp4: decode": 0.3}
    monkeypatch.setattr(regressions, "speeds", lambda entries, runs, only=None: dict(now))
    saved = tmp_path / "baseline.json"

    regressions.save(SMALL, 1, saved)
    regressions.compare(0.25, 2, saved, Form.JSON)  # is as fast as itself

    now["one tensor, fp4: decode"] = 0.2
    with pytest.raises(RuntimeError, match=r"Slower than the baseline by more than 25%: one tensor, fp4: decode\."):
        regressions.compare(0.25, 2, saved, Form.JSON)


def test_what_is_measured_for_the_baseline_is_positive_and_can_be_measured_in_part() -> None:
    speeds = regressions.speeds(SMALL, 1, only=["one tensor, fp4: encode, of memcpy"])

    assert list(speeds) == ["one tensor, fp4: encode, of memcpy", "one tensor, fp4: decode, of memcpy"]
    assert all(speed > 0 for speed in speeds.values())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_server_memory(capsys: pytest.CaptureFixture[str]) -> None:
    server_memory.main(1_000_000, "3,9", "0.1 bit", "FedAvg;FedMedian", Form.JSON)

    found = rows(capsys)
    assert [(row["strategy"], row["replies"]) for row in found] == [
        (name, replies) for name in ("FedAvg", "FedMedian") for replies in (3, 9)
    ]
    for row in found:
        assert_positive(row)
    with pytest.raises(ValueError, match="There is no strategy 'FedSGD'"):
        server_memory.main(1_000_000, "3", "0.1 bit", "FedSGD", Form.JSON)


def test_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    budgets.main("5000", "0.1,1,6", 2, form=Form.JSON)

    for model, rows in zip(
        ("5,000 drawn (2)", "5,000 drawn, one tensor (2)"), zip(*tables(capsys), strict=True), strict=True
    ):
        unused, poor, conversions, coded = rows
        assert [table.pop("model") for table in rows] == 4 * [model]
        assert list(unused) == list(poor) == list(conversions) == list(coded) == ["0.1 bit", "1 bit", "6 bit"]
        for rate, worst in unused.items():
            assert isinstance(worst, float) and 0 <= worst < 20
            assert (poor[rate] == 0) is (worst <= 3) and conversions[rate] in (1, 2, 3) and coded[rate] in (1, 2, 3)


def test_budgets_of_what_a_training_sends(capsys: pytest.CaptureFixture[str]) -> None:
    with patch.dict(PRESETS, {"short": {"rounds": 3}}):
        budgets.main("", "0.2,1", trainings="0.5", task="short", form=Form.JSON)

    (unused,), *_ = tables(capsys)
    assert unused.pop("model") == "trained at 0.5 bit (3)"
    assert all(isinstance(worst, float) and 0 <= worst < 20 for worst in unused.values())


def test_schemes(capsys: pytest.CaptureFixture[str]) -> None:
    schemes.main("one tensor", SMALL, "0.3,2", "co3,topk,qsgd,sign", 1, Form.JSON)

    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [[row["scheme"] for row in table["rows"]] for table in found] == [*2 * [["co3", "topk", "qsgd"]], ["sign"]]
    for budget, table in zip((0.3, 2.0), found, strict=False):
        for row in table["rows"]:
            assert_positive(row)
            assert row["bits"] <= budget and 90 < row["used %"] <= 100 and row["nMSE"] < 1
            assert (row["unbiased"] == "yes") is (row["undamped nMSE"] is not None) is (row["scheme"] == "qsgd")


def test_quantisers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shannon, "_BINS", 120)  # a coarse bound is quick
    monkeypatch.setattr(quantisers, "_SLOPES", quantisers._SLOPES[::2])
    monkeypatch.setattr(quantisers, "_STEPS", quantisers._STEPS[::3])
    quantisers.main("0.8", 10_000, "", "0.243,0.6", None, Form.JSON)

    for row in rows(capsys):
        assert_positive(row)
        bound, nearest, best = row["R(D)"], row["nearest"], row["rd + centroid"]
        assert isinstance(bound, float) and isinstance(nearest, float) and isinstance(best, float)
        assert bound < best < nearest
        assert isinstance(row["trellis, ideal"], float) and bound < row["trellis, ideal"] < nearest


def test_shannon_s_bound_is_that_of_a_normal_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shannon, "_BINS", 300)
    distortions, bits = shannon.rate_distortion(2.0, [1.0, 2.0, 8.0])
    np.testing.assert_allclose(bits, -0.5 * np.log2(distortions), rtol=0.02)


def test_directions(capsys: pytest.CaptureFixture[str]) -> None:
    with patch.dict(PRESETS, {"digits": PRESETS["digits"] | {"rounds": 4}}):
        directions.main("0.05,0.5", 0.1, "digits", "", "ResNet-18", 1e-3, 1, Form.JSON)
    losses, times = tables(capsys)
    for row in losses:
        assert_positive(row)
        assert row["with known ones"] < row["entry by entry"]  # type: ignore[operator]
    assert losses[1]["with known ones"] < losses[0]["with known ones"]  # type: ignore[operator]
    for row in times:
        assert_positive(row)
