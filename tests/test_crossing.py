"""The search for where a rising function crosses zero."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_co3.crossing import LEVEL, NEAR, crossing

LOW, HIGH = -55.0, 5.0


def found(function: Callable[[float], float], start: float) -> tuple[float, int]:
    """Where a function crosses zero, and in how many evaluations."""
    places: list[float] = []

    def counted(x: float) -> float:
        assert LOW < x < HIGH
        places.append(x)
        return function(x)

    return crossing(counted, LOW, HIGH, function(HIGH), start), len(places)


@pytest.mark.parametrize("slope", [0.3, 1.0, 7.0])
@given(root=st.floats(LOW + 1, HIGH - 0.01), start=st.floats(LOW - 5, HIGH + 5))
def test_lines(slope: float, root: float, start: float) -> None:
    where, evaluations = found(lambda x: slope * (x - root), start)
    assert abs(where - root) <= max(NEAR, LEVEL / slope)
    assert evaluations < 12


@given(root=st.floats(-8, HIGH - 0.01), start=st.floats(-10, HIGH))
def test_what_grows_ever_faster(root: float, start: float) -> None:
    """As sizes do where most levels are 0."""
    where, evaluations = found(lambda x: math.exp(-root) - math.exp(-x), start)
    assert abs(where - root) <= NEAR or abs(math.exp(-root) - math.exp(-where)) <= LEVEL
    assert evaluations < 30


@given(
    root=st.floats(LOW + 1, HIGH - 0.01), start=st.floats(LOW, HIGH), up=st.floats(1e-3, 1e3), down=st.floats(1e-3, 1e3)
)
def test_jumps_end_below(root: float, start: float, up: float, down: float) -> None:
    where, evaluations = found(lambda x: up if x > root else -down, start)
    assert root - NEAR <= where <= root
    assert evaluations < 45


@given(start=st.floats(LOW, HIGH))
def test_where_nothing_is_below_it_is_the_lower_end(start: float) -> None:
    where, _ = found(lambda x: 1.0, start)
    assert where == LOW
