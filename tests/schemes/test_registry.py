"""Schemes by name, and those of other packages."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, ClassVar

import pytest

from flwr_co3.config import CO3Config
from flwr_co3.schemes import GROUP, make_scheme, registry, scheme_class, scheme_names
from flwr_co3.schemes.qsgd import QSGD
from tests.schemes.variants import MISSING, VARIANTS


@dataclass(frozen=True)
class Other(QSGD):
    name: ClassVar = "other"


@pytest.fixture
def other_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if packages with these entry points were installed."""
    places = {"other": f"{__name__}:Other", "broken": "no_such_module:X", "misnamed": f"{__name__}:Other"}
    installed = EntryPoints(EntryPoint(name, place, GROUP) for name, place in places.items())
    monkeypatch.setattr(registry, "entry_points", lambda **query: installed.select(**query))
    scheme_class.cache_clear()
    yield
    scheme_class.cache_clear()


def test_every_scheme_is_tested() -> None:
    assert {scheme.name for scheme in VARIANTS.values()} | {"nncodec"} | MISSING == set(scheme_names())


def test_every_scheme_says_what_it_is_and_where_it_comes_from() -> None:
    for name in scheme_names():
        kind = scheme_class(name)
        assert kind.name == name and kind.source and kind.__doc__


def test_every_scheme_goes_through_json() -> None:
    for scheme in VARIANTS.values():
        config = CO3Config(scheme=scheme)
        assert CO3Config.from_json(config.to_json()) == config


@pytest.mark.usefixtures("other_packages")
def test_a_scheme_of_another_package_is_found_by_its_entry_point() -> None:
    assert "other" in scheme_names()
    assert make_scheme("other", levels=3) == Other(levels=3)
    assert CO3Config(scheme="other").other_scheme == Other()


@pytest.mark.usefixtures("other_packages")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("qsdg", {}, "There is no scheme 'qsdg'. Choose one of: co3, none, cast, "),
        ("broken", {}, "The scheme 'broken' of no_such_module:X can't be loaded: "),
        ("misnamed", {}, "must be a Scheme of this name"),
        ("qsgd", {"level": 3}, "The scheme qsgd has no option 'level'; its options: levels."),
        ("sign", {"level": 3}, "its options: none."),
        ("qsgd", {"levels": 0}, "levels must be a number within 1 to"),
        ("qsgd", {"levels": True}, "levels must be a number within 1 to"),
        ("qsgd", {"levels": float("nan")}, "levels must be a number within 1 to"),
        ("orq", {"bits": 2.5}, "bits must be a whole number within 1 to 6"),
        ("cast", {"dtype": "float8"}, "dtype must be one of bfloat16, float16"),
        ("countsketch", {"rows": 4}, "rows must be odd"),
        ("adaquantfl", {"loss": ""}, "must be the name of a metric"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make_scheme(name, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("option", ["format", "coder", "scale", "rounding"])
def test_cos_own_options_are_refused(option: str) -> None:
    values: dict[str, Any] = {"format": "fp8", "coder": "huffman", "scale": 2.0, "rounding": "stochastic"}
    with pytest.raises(ValueError, match=f"CO3Config {option} is for the scheme co3"):
        CO3Config(scheme="qsgd", **{option: values[option]})


def test_ef21_takes_no_decay() -> None:
    with pytest.raises(ValueError, match="takes memory_decay=1"):
        CO3Config(scheme="ef21", memory_decay=0.9)
    with pytest.raises(ValueError, match="must be a name or a Scheme, not 3"):
        CO3Config(scheme=3)  # type: ignore[arg-type]


def test_a_codec_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr_co3.schemes.nncodec.NNCodec.module", "no_such_package")
    with pytest.raises(ValueError, match="The scheme nncodec needs the package nncodec: pip install nncodec"):
        CO3Config(scheme="nncodec")
