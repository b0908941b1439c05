"""No update is lost or counted twice, whatever happens to messages, clients and server."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_co3.config import CO3Config
from flwr_co3.rate import RateLimit
from flwr_co3.schemes import make_scheme
from tests.flower.faults import CLIENT, DOWN, SERVER, UP, EstimatingWorld, Round, Turn, World

CONFIGS = [
    CO3Config(memory_decay=decay, rate=rate, memory_dtype="float32")
    for decay in (1.0, 0.9, 0.5)
    for rate in (None, RateLimit(bytes_per_round=1), RateLimit(bytes_per_round=70))
] + [CO3Config(rate=RateLimit(bytes_per_round=70), subspace=4, memory_decay=decay) for decay in (1.0, 0.9)]
CONFIGS += [CO3Config(scheme=make_scheme("topk", share=0.2), memory_decay=decay) for decay in (1.0, 0.9)]

ESTIMATING = [
    CO3Config(scheme=make_scheme("ef21", share=share), rate=rate)
    for share in (0.1, 1.0)
    for rate in (None, RateLimit(bytes_per_round=1), RateLimit(bytes_per_round=90))
]
RESUMING = ("dies before it aggregates", "dies before it saves")  # EF21's server can't


def mostly(usual: str, others: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.one_of(st.just(usual), st.sampled_from(others))


TURNS = st.one_of(st.none(), st.builds(Turn, mostly("arrives", DOWN), mostly("trains", CLIENT), mostly("arrives", UP)))


@pytest.fixture(autouse=True, scope="module")
def without_warnings() -> Iterator[None]:
    """All goes wrong here, and each fault has its line in the log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@st.composite
def schedules(draw: st.DrawFn, nodes: int, server: tuple[str, ...] = SERVER) -> list[Round]:
    rounds = st.builds(Round, st.lists(TURNS, min_size=nodes, max_size=nodes), mostly("goes on", server))
    return draw(st.lists(rounds, min_size=2, max_size=7))


SCHEDULES = given(
    config=st.sampled_from(CONFIGS),
    steady=st.booleans(),
    downlink=st.sampled_from([None, CO3Config(scale=2.0), CO3Config(rate=RateLimit(bytes_per_round=70))]),
    schedule=schedules(nodes=2),
)


@pytest.mark.parametrize("part", range(4))  # so that several processes share them
@settings(max_examples=120, deadline=None)
@SCHEDULES
def test_no_update_is_lost_or_counted_twice_with_memory_in_flowers_state(
    part: int, config: CO3Config, steady: bool, downlink: CO3Config | None, schedule: list[Round]
) -> None:
    world = World(config, 2, None, steady, downlink)
    world.play(schedule)
    world.calm_down()


@pytest.mark.parametrize("part", range(2))
@settings(max_examples=120, deadline=None)
@SCHEDULES
def test_no_update_is_lost_or_counted_twice_with_memory_on_disk(
    part: int, config: CO3Config, steady: bool, downlink: CO3Config | None, schedule: list[Round]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(config, 2, Path(folder), steady, downlink)
        world.play(schedule)
        world.calm_down()


@settings(max_examples=100, deadline=None)
@given(
    config=st.sampled_from(ESTIMATING),
    steady=st.booleans(),
    on_disk=st.booleans(),
    schedule=schedules(nodes=2, server=tuple(event for event in SERVER if event not in RESUMING)),
)
def test_ef21s_ends_hold_the_same_estimates(
    config: CO3Config, steady: bool, on_disk: bool, schedule: list[Round]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = EstimatingWorld(config, 2, Path(folder) if on_disk else None, steady, None)
        world.play(schedule)
        world.calm_down()
