"""What the commands are made of."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import layouts, output, sources
from benchmarks.levels import entropy_bits, levels_of, packed_codes
from benchmarks.settings import choose
from benchmarks.timing import Times, take_turns
from flwr_co3 import GenNorm


@pytest.mark.parametrize(
    ("layout", "tensors", "entries"),
    [("ResNet-18", 62, 11_689_512), ("DenseNet-121", 364, 7_978_856)],  # torchvision's own counts
)
def test_layouts_are_those_of_the_models(layout: str, tensors: int, entries: int) -> None:
    shapes = layouts.LAYOUTS[layout]()

    assert len(shapes) == tensors
    assert sum(math.prod(shape) for shape in shapes) == entries


def test_a_shrunk_layout_keeps_its_small_tensors() -> None:
    shrunk = layouts.shrunk(layouts.resnet18(), 200_000)

    assert len(shrunk) == 62
    assert min(math.prod(shape) for shape in shrunk) == 64
    assert 200_000 <= sum(math.prod(shape) for shape in shrunk) < 210_000


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_draws_follow_the_generalised_normal(shape: float) -> None:
    (tensor,) = layouts.draw([(300, 1000)], shape=shape).values()

    fit = GenNorm.fit(tensor)
    assert tensor.shape == (300, 1000)
    assert fit.shape == pytest.approx(shape, rel=0.03)
    assert fit.scale == pytest.approx(layouts.WIDTH, rel=0.06)
    assert abs(np.mean(tensor > 0) - 0.5) < 0.01


def test_entropy_and_packed_codes_of_known_levels() -> None:
    tensor = np.array([[-1, 0, 0, 1], [0, 0, 0, 0]], np.float32)

    share = np.array([1, 6, 1]) / 8
    assert levels_of(tensor).counts.tolist() == [1, 6, 1]
    assert entropy_bits({"w": tensor}) == pytest.approx(-8 * np.sum(share * np.log2(share)))
    assert len(packed_codes({"w": tensor})) == 2, "five ternary codes fit one byte"
    assert entropy_bits({"w": np.zeros(9, np.float32)}) == 0


def test_ratios_are_those_of_the_same_run() -> None:
    times = Times({"a": [1.0, 10.0, 100.0], "b": [2.0, 20.0, 200.0]})

    assert times.median("b") == 20.0
    assert times.ratio("a", "b") == 0.5


def test_actions_take_turns_and_the_quick_are_repeated() -> None:
    calls = {"a": 0, "b": 0}

    def count(name: str) -> None:
        calls[name] += 1

    times = take_turns({name: lambda name=name: count(name) for name in calls}, runs=3)  # type: ignore[misc]

    assert {name: len(each) for name, each in times.runs.items()} == {"a": 3, "b": 3}
    assert min(calls.values()) > 100


def test_settings_are_chosen_by_name() -> None:
    assert list(choose("budgets")) == ["2 bit", "0.5 bit", "0.1 bit", "0.05 bit", "0.01 bit"]
    with pytest.raises(ValueError, match=r"no setting 'fp5'. Choose from: fp4, "):
        choose("fp4,fp5")


def test_updates_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "net.npz", w=np.ones(3, np.float32))

    assert list(sources.load(f"one tensor,{tmp_path / 'net.npz'}", 100)) == ["one tensor", "net, trained"]
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    assert list(sources.load("real", None)) == ["net, trained"]
    monkeypatch.setattr(sources, "FOLDER", tmp_path / "none")
    with pytest.raises(ValueError, match=r"Make them: python -m benchmarks\.updates"):
        sources.load("real", None)
    with pytest.raises(ValueError, match="'VGG' is no file and no layout"):
        sources.load("VGG", None)


def test_tables_as_markdown() -> None:
    table = output.Table("Speeds", [{"what": "fp4", "ms": 1.5}, {"what": "fp8", "ms": None}], note="On one thread.")

    assert output.markdown(table) == (
        "**Speeds**\n\n| what | ms |\n|---|---:|\n| fp4 | 1.50 |\n| fp8 | – |\n\nOn one thread."
    )
