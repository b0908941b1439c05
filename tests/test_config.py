"""CO3Config and RateLimit: JSON there and back, and an error in a full sentence for whatever is wrong."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_co3.config import BATCH_NORM_STATISTICS, CO3Config
from flwr_co3.convert import FloatFormat
from flwr_co3.rate import RateLimit
from tests.samples import FORMATS

RATES = st.one_of(
    st.builds(RateLimit, bits_per_parameter=st.floats(1e-6, 32)),
    st.builds(RateLimit, bytes_per_round=st.integers(1, 1 << 40)),
    st.builds(RateLimit, bits_per_second=st.floats(1e-3, 1e12), seconds=st.floats(1e-3, 1e6)),
)
FORMAT_OBJECTS = st.builds(
    FloatFormat,
    exponent=st.integers(1, 4),
    mantissa=st.integers(1, 2),
    bias=st.integers(-9, 9),
    top_exponent=st.booleans(),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "format": st.sampled_from(FORMATS) | FORMAT_OBJECTS,
    "coder": st.sampled_from(["rans", "huffman"]),
    "memory_decay": st.floats(0, 1),
    "step_ahead": st.floats(0, 1),
    "rounding": st.sampled_from(["nearest", "rd"]),
    "contexts": st.booleans(),
    "reconstruction": st.sampled_from(["level", "centroid"]),
    "exact": st.lists(st.text()).map(tuple),
    "weights": st.dictionaries(st.text(), st.floats(1e-6, 1e6)),
    "exact_below": st.integers(0, 1 << 40),
    "memory_dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
}
SCALE = {"scale": st.just("optimal") | st.floats(1e-300, 1e300), "weights": st.just(())}
CONFIGS = st.one_of(
    st.fixed_dictionaries({}, optional=FIELDS | SCALE),
    st.fixed_dictionaries({"rate": RATES}, optional=FIELDS | {"subspace": st.integers(0, 255)}),
).map(lambda fields: CO3Config(**fields))


@given(CONFIGS)
def test_json_there_and_back(config: CO3Config) -> None:
    text = config.to_json()
    assert text and "\n" not in text
    assert CO3Config.from_json(text) == config
    assert CO3Config.from_json(json.dumps(json.loads(text), indent=2)) == config


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert CO3Config().to_json() == "{}"
    assert CO3Config.from_json("{}") == CO3Config()
    assert CO3Config(coder="huffman", exact=("a", "b*")).to_json() == '{"coder":"huffman","exact":["a","b*"]}'
    assert CO3Config(weights={"a*": 4, "b": 0.5}).to_json() == '{"weights":{"a*":4,"b":0.5}}'
    assert CO3Config(rate=RateLimit(bytes_per_round=9)).to_json() == '{"rate":{"bytes_per_round":9}}'
    assert json.loads(CO3Config(format=FloatFormat("fp8")).to_json()) == {
        "format": {"exponent": 5, "mantissa": 2, "bias": 15, "top_exponent": False, "reserved": 0}
    }


def test_the_defaults_are_what_a_newcomer_wants() -> None:
    config = CO3Config()
    assert (config.format, config.coder, config.rate, config.memory_decay) == ("auto", "rans", None, 1.0)
    assert config.exact == BATCH_NORM_STATISTICS
    assert config.float_format == FloatFormat("fp4")


def test_a_list_of_patterns_will_do_and_configs_can_be_compared() -> None:
    config = CO3Config(exact=["*.bias"])  # type: ignore[arg-type]
    assert config == CO3Config(exact=("*.bias",))
    assert hash(config) == hash(CO3Config(exact=("*.bias",)))


def test_weights_may_be_given_as_a_mapping() -> None:
    config = CO3Config(weights={"*.bias": 4.0})
    assert config == CO3Config(weights=(("*.bias", 4.0),))
    assert hash(config) == hash(CO3Config(weights={"*.bias": 4}))
    assert CO3Config(weights={}) == CO3Config()
    with pytest.raises(ValueError, match="weights is for the scheme co3, and the scheme is qsgd"):
        CO3Config(scheme="qsgd", weights={"*.bias": 4.0})


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format", "fp5", "Unknown format 'fp5': choose one of fp4"),
        ("format", FloatFormat(exponent=5, mantissa=4, bias=15), "levels, and the entropy coder takes 255 at most"),
        ("coder", "zip", "coder must be one of rans, huffman, not 'zip'"),
        ("rounding", "up", "rounding must be one of nearest, stochastic, rd, not 'up'"),
        ("memory_dtype", "float64", "memory_dtype must be one of float32, bfloat16, float16, not 'float64'"),
        ("memory_decay", 1.5, "memory_decay must lie within 0 to 1, not be 1.5"),
        ("memory_decay", math.nan, "memory_decay must lie within 0 to 1, not be nan"),
        ("memory_decay", True, "memory_decay must lie within 0 to 1, not be True"),
        ("memory_decay", "0.5", "memory_decay must lie within 0 to 1, not be '0.5'"),
        ("step_ahead", 1.5, "step_ahead must lie within 0 to 1, not be 1.5"),
        ("scale", 0, 'scale must be "optimal" or a finite number above 0, not 0'),
        ("scale", math.inf, 'scale must be "optimal" or a finite number above 0, not inf'),
        ("scale", math.nan, 'scale must be "optimal" or a finite number above 0, not nan'),
        ("scale", "best", "scale must be \"optimal\" or a finite number above 0, not 'best'"),
        ("scale", 10**400, 'scale must be "optimal" or a finite number above 0'),
        ("subspace", -1, "subspace must be a whole number within 0 to 255, not -1"),
        ("subspace", 256, "subspace must be a whole number within 0 to 255, not 256"),
        ("subspace", 4.0, "subspace must be a whole number within 0 to 255, not 4.0"),
        ("subspace", True, "subspace must be a whole number within 0 to 255, not True"),
        ("subspace", 16, "subspace is for budgets: give a rate too"),
        ("rate", 0.5, "rate must be a RateLimit, a function of round and node, or None, not 0.5"),
        ("exact", "*.bias", "exact must be a tuple of shell patterns, not '\\*.bias'"),
        ("exact", ("*.bias", 3), "exact must be a tuple of shell patterns"),
        ("exact", 3, "exact must be a tuple of shell patterns, not 3"),
        ("weights", 3, "weights must map shell patterns to numbers, as in {'\\*.bias': 4.0}, and not be 3"),
        ("weights", ("ab", "cd"), "weights must map shell patterns to numbers"),
        ("weights", {3: 1.0}, "weights must map shell patterns to numbers"),
        ("weights", {"*.bias": 0}, "weights must lie within 1e-06 to 1e\\+06, and '\\*.bias' has 0"),
        ("weights", {"*.bias": -1.0}, "and '\\*.bias' has -1.0"),
        ("weights", {"*.bias": math.nan}, "and '\\*.bias' has nan"),
        ("weights", {"*.bias": "much"}, "and '\\*.bias' has 'much'"),
        ("weights", {"*.bias": True}, "and '\\*.bias' has True"),
        ("exact_below", -1, "exact_below must be an integer of at least 0, not -1"),
        ("exact_below", 8.0, "exact_below must be an integer of at least 0, not 8.0"),
        ("exact_below", True, "exact_below must be an integer of at least 0, not True"),
    ],
)
def test_a_bad_value_is_refused_in_a_sentence(field: str, value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{reason}.*\\.$"):
        CO3Config(**{field: value})  # type: ignore[arg-type]


def test_a_step_ahead_needs_a_memory_of_what_was_not_sent() -> None:
    assert CO3Config(scheme="topk", step_ahead=0.3).step_ahead == 0.3
    with pytest.raises(ValueError, match="clients of the scheme ef21 don't remember: leave it out"):
        CO3Config(scheme="ef21", step_ahead=0.3)


def test_a_rate_and_a_scale_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="takes weights or a scale, not both"):
        CO3Config(weights={"*": 2.0}, scale=1.0)
    with pytest.raises(ValueError, match="takes a rate or a scale, not both"):
        CO3Config(rate=RateLimit(bytes_per_round=9), scale=1.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "can't be read"),
        ("fp4", "can't be read"),
        ("[]", "can't be read"),
        ("null", "can't be read"),
        ("7", "can't be read"),
        ('"coder"', "can't be read"),
        ('{"speed":9}', "unknown option speed"),
        ('{"coder":"zip"}', "coder must be one of"),
        ('{"coder":null}', "coder must be one of"),
        ('{"format":7}', "Unknown format 7"),
        ('{"format":{"exponent":2}}', "FloatFormat needs"),
        ('{"format":{"bits":2}}', "can't be read"),
        ('{"rate":{"bytes_per_round":0}}', "must be finite and above 0"),
        ('{"rate":{"megabytes":1}}', "can't be read"),
        ('{"rate":[]}', "rate must be a RateLimit"),
        ('{"exact":5}', "can't be read"),
        ('{"scale":1e999}', "scale must be"),
        ('{"memory_decay":[1]}', "memory_decay must"),
    ],
)
def test_text_that_is_no_config_is_refused_in_a_sentence(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{reason}.*the same flwr-co3\\?$"):
        CO3Config.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "scale", "rate"]), JSON, max_size=3))
def test_any_json_is_a_config_or_refused(fields: dict[str, Any]) -> None:
    try:
        config = CO3Config.from_json(json.dumps(fields))
    except ValueError as error:
        assert "can't be read" in str(error)
    else:
        assert CO3Config.from_json(config.to_json()) == config


# -- RateLimit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "parameters", "expected"),
    [
        (RateLimit(bits_per_parameter=0.5), 1000, 62),
        (RateLimit(bits_per_parameter=0.001), 100, 1),
        (RateLimit(bytes_per_round=65536), 10**9, 65536),
        (RateLimit(bits_per_second=1e6, seconds=0.5), 3, 62500),
        (RateLimit(bits_per_parameter=1.0), 0, 1),
        (RateLimit(bits_per_parameter=1e299), 10**6, None),
    ],
)
def test_bytes_of_a_limit(limit: RateLimit, parameters: int, expected: int | None) -> None:
    found = limit.bytes_for(parameters)
    assert found == expected if expected is not None else found > 1 << 60


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "not nothing"),
        ({"seconds": 1.0}, "not seconds"),
        ({"bits_per_second": 1.0}, "not bits_per_second"),
        ({"bits_per_parameter": 1.0, "bytes_per_round": 1}, "not bits_per_parameter and bytes_per_round"),
        ({"bits_per_parameter": 1.0, "seconds": 1.0}, "not bits_per_parameter and seconds"),
        ({"bits_per_parameter": 0.0}, "bits_per_parameter must be finite and above 0, not 0.0"),
        ({"bytes_per_round": -5}, "bytes_per_round must be finite and above 0, not -5"),
        ({"bits_per_parameter": math.nan}, "bits_per_parameter must be finite and above 0, not nan"),
        ({"bits_per_second": math.inf, "seconds": 1.0}, "bits_per_second must be finite and above 0, not inf"),
        ({"bytes_per_round": "9"}, "bytes_per_round must be a number, or a schedule of numbers, not '9'"),
        ({"bits_per_parameter": True}, "bits_per_parameter must be a number, or a schedule of numbers, not True"),
        ({"bytes_per_round": 10**400}, "bytes_per_round must be finite and above 0"),
    ],
)
def test_limits_that_are_none_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RateLimit(**fields)
