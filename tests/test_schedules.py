"""Schedules: numbers over rounds, and limits and configurations made of them."""

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest

from flwr_co3 import CO3Config, Codec, RateLimit
from flwr_co3.schedules import Loss, Schedule, cosine, follow_loss, linear, steps


@pytest.mark.parametrize("curve", [linear, cosine])
def test_a_curve_goes_from_start_to_end_and_stays(curve: Callable[[float, float, int], Schedule]) -> None:
    bits = curve(0.2, 0.05, 31)
    assert bits(1) == 0.2
    assert bits(16) == pytest.approx(0.125)  # half way
    assert bits(31) == bits(32) == bits(1000) == 0.05
    values = [bits(round) for round in range(1, 32)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 31
    assert curve(3.0, 7.0, 1)(1) == 3.0


def test_a_line_has_equal_steps_and_a_cosine_none_at_its_ends() -> None:
    assert linear(1.0, 2.0, 11)(2) == pytest.approx(1.1)
    assert cosine(1.0, 2.0, 11)(2) == pytest.approx(1 + (1 - math.cos(math.pi / 10)) / 2)


def test_steps_begin_with_their_rounds() -> None:
    bits = steps({10: 0.1, 3: 0.5})
    assert [bits(round) for round in (1, 3, 9, 10, 99)] == [0.5, 0.5, 0.5, 0.1, 0.1]


def test_the_rule_of_adaquantfl() -> None:
    rate = RateLimit(bits_per_parameter=follow_loss(0.1))
    assert rate.at(1) == RateLimit(bits_per_parameter=0.1)
    assert rate.at(5, {"train_loss": Loss(2.0, 0.5)}) == RateLimit(bits_per_parameter=0.2)
    assert rate.at(5, {"train_loss": Loss(2.0, 8.0)}) == RateLimit(bits_per_parameter=0.05)


def test_a_loss_that_nobody_reports_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        limit = RateLimit(bytes_per_round=follow_loss(500, metric="loss")).at(2, {"train_loss": Loss(2.0, 1.0)})
    assert limit == RateLimit(bytes_per_round=500)
    assert "the metric 'loss', which the round's aggregated metrics lack" in caplog.text and "train_loss" in caplog.text


def test_any_function_and_any_field() -> None:
    rate = RateLimit(bits_per_second=lambda round: 1e6 * round, seconds=steps({1: 0.5, 2: 0.25}))
    assert rate.scheduled
    assert rate.at(1).bytes_for(10) == 62500 and rate.at(2).bytes_for(10) == 62500
    assert rate.at(3) == RateLimit(bits_per_second=3e6, seconds=0.25)
    plain = RateLimit(bytes_per_round=7)
    assert plain.at(3) is plain and not plain.scheduled


def test_schedules_can_be_compared_and_shown() -> None:
    assert RateLimit(bits_per_parameter=linear(1, 2, 3)) == RateLimit(bits_per_parameter=linear(1, 2, 3))
    numbers = (linear(1, 2, rounds=3), cosine(1, 2, rounds=3), steps({1: 0.5}), follow_loss(0.1, metric="loss"))
    assert [eval(repr(number)) for number in numbers] == list(numbers)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, True, "many", None])
def test_a_schedule_that_gives_no_limit_is_named_with_its_round(value: Any) -> None:
    with pytest.raises(ValueError, match=r"The schedule of a rate fails in round 4: RateLimit .*\.$"):
        RateLimit(bits_per_parameter=lambda round: value).at(4)


def test_a_limit_of_no_round_has_no_bytes() -> None:
    with pytest.raises(ValueError, match=r"RateLimit\.at\(round\) gives the limit of one round"):
        RateLimit(bits_per_parameter=linear(1, 2, 3)).bytes_for(100)


@pytest.mark.parametrize("curve", [linear, cosine])
def test_curves_need_a_round(curve: Callable[[float, float, int], Schedule]) -> None:
    with pytest.raises(ValueError, match="at least 1 round, not 0"):
        curve(1.0, 2.0, 0)


def test_steps_need_a_number() -> None:
    with pytest.raises(ValueError, match="at least one number"):
        steps({})


# Configurations


def test_a_configuration_of_a_round_is_plain() -> None:
    config = CO3Config(format="fp8", rate=RateLimit(bits_per_parameter=linear(1.0, 2.0, 11)))
    assert config.at(11) == CO3Config(format="fp8", rate=RateLimit(bits_per_parameter=2.0))
    assert CO3Config.from_json(config.at(11).to_json()) == config.at(11)
    plain = CO3Config(rate=RateLimit(bytes_per_round=9))
    assert plain.at(3) is plain


def test_a_rate_for_each_node() -> None:
    slow = RateLimit(bytes_per_round=linear(100, 200, 11))
    config = CO3Config(rate=lambda round, node: slow if node == 7 else None)
    assert config.at(11, 7).limit == RateLimit(bytes_per_round=200)
    assert config.at(11, 8).limit is None
    with pytest.raises(ValueError, match="there is no one node here"):
        config.at(11)


def test_what_a_function_gives_must_be_a_limit() -> None:
    config = CO3Config(rate=lambda round, node: 0.5)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"node 3 in round 2 must be a RateLimit or None.* gave 0\.5\.$"):
        config.at(2, 3)


@pytest.mark.parametrize("rate", [RateLimit(bytes_per_round=linear(9, 8, 7)), lambda round, node: None])
def test_a_schedule_does_not_travel_and_encodes_nothing(rate: Any) -> None:
    config = CO3Config(rate=rate)
    for use in (config.to_json, lambda: Codec(config)):
        with pytest.raises(ValueError, match=r"CO3Config\.at\(round, node\) gives the configuration of one of them"):
            use()
