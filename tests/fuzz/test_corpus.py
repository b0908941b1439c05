"""What fuzzing kept, once more: nothing that it found may come back."""

import pytest

from tests.bounds import bounded_memory
from tests.fuzz import corpus
from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import MAX_BYTES, TARGETS

OVERHEAD = 4 << 20  # tables, and what Python itself takes


@pytest.mark.parametrize("target", TARGETS)
def test_all_engines_agree_on_what_fuzzing_kept(target: str) -> None:
    inputs = corpus.read(target)
    assert inputs
    for data in [*inputs, *SEEDS[target]()]:
        TARGETS[target](data)


def test_no_frame_that_fuzzing_kept_takes_much_memory() -> None:
    for data in corpus.read("frames"):
        with bounded_memory(8 * MAX_BYTES + OVERHEAD):
            TARGETS["frames"](data)
