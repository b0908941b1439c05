"""What fuzzing kept, once more: nothing that it found may come back."""

import pytest

from tests.fuzz import corpus
from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_all_engines_agree_on_what_fuzzing_kept(target: str) -> None:
    inputs = corpus.read(target)
    assert inputs
    for data in [*inputs, *SEEDS[target]()]:
        TARGETS[target](data)
