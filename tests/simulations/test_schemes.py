import pytest

from flwr_co3 import CO3Config, RateLimit, schedules
from flwr_co3.schemes import make_scheme as make_other_scheme
from flwr_co3.schemes import scheme_names
from simulations.choices import split_choices
from simulations.schemes import DEFAULT_SCHEMES, at_budgets, budget_of, make_scheme, make_schemes
from tests.schemes.variants import MISSING


def test_fedavg_compresses_nothing() -> None:
    assert make_scheme("fedavg").config is None


def test_the_papers_schemes_are_the_papers() -> None:
    for name, number_format in (("co3-fp4", "fp4"), ("co3-fp8", "fp8")):
        expected = CO3Config(format=number_format, coder="huffman", scale="optimal", memory_decay=0.9)
        assert make_scheme(name).config == expected


def test_settings_become_fields_of_the_config() -> None:
    scheme = make_scheme("co3:format=fp8,scale=40,memory-decay=0.9,exact=*.bias|bn.*")

    assert scheme.config == CO3Config(format="fp8", scale=40, memory_decay=0.9, exact=("*.bias", "bn.*"))
    weighted = make_scheme("co3:weights=conv*=4|*.bias=0.5,memory_decay=1").config
    assert weighted == CO3Config(weights={"conv*": 4, "*.bias": 0.5})
    assert make_scheme("co3-fp4:memory_decay=0.5").config == CO3Config(format="fp4", coder="huffman", memory_decay=0.5)


def test_a_budget_becomes_the_rate() -> None:
    scheme = make_scheme("co3:bits_per_parameter=0.1")

    assert scheme.config is not None and scheme.config.rate == RateLimit(bits_per_parameter=0.1)


def test_a_budget_may_be_a_schedule() -> None:
    text = "co3:bits_per_parameter=linear|start=1|end=0.05|rounds=25,memory_decay=1"
    scheme = make_scheme(text)

    expected = CO3Config(rate=RateLimit(bits_per_parameter=schedules.linear(1, 0.05, rounds=25)))
    assert scheme.config == expected
    assert scheme.label == "CO3, bits per parameter linear|start=1|end=0.05|rounds=25, memory decay 1"
    assert split_choices(f"fedavg,{text},co3") == ["fedavg", text, "co3"]
    assert at_budgets([text], [0.1]) == [text]
    assert budget_of(text) == "linear|start=1|end=0.05|rounds=25"
    assert make_scheme("co3", {"bits-per-parameter": "steps|1=1|3=0.1"}).config == CO3Config(
        rate=RateLimit(bits_per_parameter=schedules.steps({1: 1, 3: 0.1}))
    )


def test_a_downlink_has_a_budget_and_perhaps_a_format_for_the_whole_model() -> None:
    scheme = make_scheme("co3:bits_per_parameter=0.2,downlink_bits=0.1,downlink_whole=fp8")

    assert scheme.config == CO3Config(rate=RateLimit(bits_per_parameter=0.2))
    assert scheme.downlink == CO3Config(rate=RateLimit(bits_per_parameter=0.1))
    assert scheme.whole == CO3Config(format="fp8")
    assert make_scheme("co3", {"downlink-bits": 0.2}).downlink == CO3Config(rate=RateLimit(bits_per_parameter=0.2))
    centroids = make_scheme("co3:downlink_bits=0.2,downlink_reconstruction=centroid").downlink
    assert centroids == CO3Config(rate=RateLimit(bits_per_parameter=0.2), reconstruction="centroid")
    assert make_scheme("co3").downlink is None


@pytest.mark.parametrize("name", ["fedavg", "co3-fp4"])
def test_a_scheme_may_have_outer_products_of_its_own(name: str) -> None:
    scheme, plain = make_scheme(f"{name}:outer_products=topk|k=8|memory_decay=0.5"), make_scheme(name)

    assert scheme.outer_products == "topk:k=8,memory_decay=0.5"
    assert scheme.config == plain.config and plain.outer_products is None
    assert scheme.label == f"{plain.label}, outer products topk|k=8|memory_decay=0.5"


def test_the_run_config_overrides_what_it_sets() -> None:
    overrides = {"memory-decay": 0.5, "format": "", "scale": "", "coder": "rans", "rounds": 3}
    scheme = make_scheme("co3-fp8", overrides)

    assert scheme.config == CO3Config(format="fp8", coder="rans", memory_decay=0.5)
    assert "memory decay 0.5" in scheme.label


def test_every_other_scheme_can_be_chosen_with_its_options() -> None:
    config = make_scheme("qsgd:levels=16,memory_decay=0").config
    assert config == CO3Config(scheme=make_other_scheme("qsgd", levels=16), memory_decay=0)
    config = make_scheme("topk:bits_per_parameter=0.1").config
    assert config == CO3Config(scheme=make_other_scheme("topk"), rate=RateLimit(bits_per_parameter=0.1))
    assert make_scheme("cast:dtype=float16").label == "cast, dtype float16"
    for name in set(scheme_names()) - MISSING:
        config = make_scheme(name).config
        assert config is not None and config.other_scheme == make_other_scheme(name)


def test_default_stands_for_the_default_ones_and_none_comes_twice() -> None:
    names = [scheme.name for scheme in make_schemes(["co3-fp4", "default", "co3-fp4-0.1bit-no-memory"])]

    assert names == ["co3-fp4", *(set_aside for set_aside in DEFAULT_SCHEMES if set_aside != "co3-fp4"),
                     "co3-fp4-0.1bit-no-memory"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qsdg", "There is no scheme 'qsdg'. Choose one of: fedavg, co3, "),
        ("fedavg:scale=3", "'fedavg' sends weights as they are and has no setting 'scale'"),
        ("fedavg:outer_products=topk", "don't say how many are computed"),
        ("co3:scales=3", "has no setting 'scales'; settings: format, "),
        ("qsgd:level=3", "has no setting 'level'; settings: levels, format, "),
        ("qsgd:levels=0", "cannot be used: The scheme qsgd's levels must be a number within 1 to "),
        ("qsgd:format=fp8", "cannot be used: CO3Config format is for the scheme co3"),
        ("co3:format=fp99", "The scheme 'co3:format=fp99' cannot be used: "),
        ("co3:memory_decay=2", "The scheme 'co3:memory_decay=2' cannot be used: "),
        ("co3:weights=conv*", "cannot be used: CO3Config weights must lie within"),
        ("co3:bits_per_parameter=-1", "cannot be used: "),
        ("co3:bits_per_parameter=often", "cannot be used: There is no schedule 'often'. Choose one of: linear, cosine"),
        ("co3:downlink_bits=0", "cannot be used: "),
        ("co3:downlink_bits=1,downlink_whole=fp99", "cannot be used: "),
        ("co3:downlink_whole=fp8", "has downlink_whole, and no downlink_bits: give both"),
        ("co3:downlink_reconstruction=centroid", "has downlink_reconstruction, and no downlink_bits: give both"),
        ("fedavg:downlink_bits=1", "has no setting 'downlink_bits'"),
    ],
)
def test_what_is_no_scheme_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make_schemes([text])
    assert message in str(error.value)


def test_no_scheme_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one scheme"):
        make_schemes([])
