import re

import pytest
from rich.console import Console

from simulations.aop import Job, Outcome, cells, reproduce, train_once


def test_the_published_table_has_an_entry_for_each_selection_memory_and_k() -> None:
    table = {cell.outer_products: cell.published for cell in cells()}

    assert len(table) == 1 + 3 * 2 * 3
    assert table["exact"] == 0.867
    assert table["topk:k=16,memory_decay=1"] == 0.872
    assert table["random:k=8,memory_decay=1"] == 0.179
    assert table["weighted:k=8,memory_decay=0"] == 0.311


def test_a_run_learns_saves_and_can_be_repeated() -> None:
    once = Job("digits", "topk:k=16,memory_decay=1", epochs=8, twice=False, seed=1)

    outcome = train_once(once)

    assert outcome == train_once(once)
    assert outcome.accuracy > 0.7
    # Of 64 rows 16 are multiplied; the last batch of 1347 examples has 3 rows, and may choose 16 of the slots.
    batches, inputs, outputs = 22, 64, 10
    done = batches * (16 * inputs * outputs + 64 * (inputs + outputs))
    assert outcome.saved == pytest.approx(1 - done / (1347 * inputs * outputs))


def test_a_second_softmax_is_another_loss() -> None:
    twice = train_once(Job("digits", "exact", epochs=2, twice=True, seed=0))
    once = train_once(Job("digits", "exact", epochs=2, twice=False, seed=0))

    assert twice.accuracy != once.accuracy and twice.saved == once.saved == 0
    assert isinstance(once, Outcome)


def test_the_table_stands_beside_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    table = reproduce("digits", rows="exact; random, memory", runs=2, epochs=1, twice=True, parallel=1)

    Console(width=120).print(table)
    row = re.compile(r"^ *(\S+) +(0\.\d{3}) +(0\.\d{3}) ± 0\.\d{3} +([+-]0\.\d{3})", re.MULTILINE)
    rows = row.findall(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["exact", *(f"random:k={k},memory_decay=1" for k in (32, 16, 8))]
    for _, published, here, difference in rows:
        assert abs(float(here) - float(published) - float(difference)) < 0.0016


@pytest.mark.parametrize(
    ("rows", "runs", "message"),
    [
        ("exact", 0, "0 runs are none at all"),
        ("topk; best", 1, "There is no row 'best'. Choose one of: exact, topk, mem"),
    ],
)
def test_what_cannot_be_trained_is_refused(rows: str, runs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reproduce("digits", rows=rows, runs=runs, epochs=1, twice=True, parallel=1)
