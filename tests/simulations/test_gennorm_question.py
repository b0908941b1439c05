import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from simulations.gennorm_question import COUNTED, TABLE_FILE, ask, judge, tables
from simulations.settings import Settings
from simulations.snapshots import TIMES, Snapshot, take_snapshots

SETTINGS = Settings(rounds=3, partitioner="iid", learning_rate=0.02)


def snapshot(values: np.ndarray) -> Snapshot:
    return Snapshot("network", "layer", "start", "update", values)


def test_the_distribution_that_was_drawn_from_fits_best_and_costs_least() -> None:
    x = np.random.default_rng(0).normal(scale=1e-3, size=(200, 300))
    judgements = {judgement.model: judgement for judgement in judge(snapshot(x))}

    normal, laplace, counted = judgements["normal"], judgements["Laplace"], judgements[COUNTED]
    assert normal.log_likelihood > laplace.log_likelihood and normal.w2 < laplace.w2
    assert normal.rans < laplace.rans
    assert normal.entropy < counted.rans < normal.entropy + 0.01
    assert all(judgement.entropy < judgement.rans <= judgement.huffman for judgement in judgements.values())
    # The normal's own entropy, of values over their root mean square, in bits.
    assert normal.log_likelihood == pytest.approx(-0.5 * np.log2(2 * np.pi * np.e), abs=0.02)
    assert normal.shape == pytest.approx(2.0, rel=0.05)


def test_zeros_are_left_out_and_told() -> None:
    x = np.random.default_rng(0).laplace(size=4000)
    without, with_zeros = judge(snapshot(x)), judge(snapshot(np.append(x, np.zeros(1000))))

    assert with_zeros[0].zeros == pytest.approx(0.2)
    assert [dataclasses.replace(each, zeros=0.0) for each in with_zeros[:-1]] == without[:-1]


def test_a_layer_of_few_values_says_nothing() -> None:
    assert judge(snapshot(np.append(np.ones(200), np.zeros(5000)))) == []


def test_snapshots_are_of_gradients_updates_and_what_is_sent_in_three_rounds() -> None:
    taken = list(take_snapshots("net", SETTINGS, 4))

    by_place = {(each.time, each.kind, each.layer): each.values for each in taken}
    layers = ["conv2.weight", "dense1.weight", "dense2.weight"]
    kinds = ["gradient", "update", "with memory"]
    assert list(by_place) == [(time, kind, layer) for time in TIMES for kind in kinds for layer in layers]
    first = by_place["start", "update", layers[0]]
    assert np.array_equal(first, by_place["start", "with memory", layers[0]])  # the memory is empty yet
    assert not np.array_equal(by_place["end", "update", layers[0]], by_place["end", "with memory", layers[0]])
    # A step goes against the gradient, and so do most of a round's.
    assert np.sum(first * by_place["start", "gradient", layers[0]]) < 0


def test_the_answer_is_a_file_and_three_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = ask({"CNN": (SETTINGS, 4)}, tmp_path)

    assert len(frame) == 3 * 3 * 3 * 6
    assert pd.read_csv(tmp_path / TABLE_FILE).model.tolist() == frame.model.tolist()
    for table in tables(frame):
        Console(width=160).print(table)
    shown = capsys.readouterr().out
    assert "27 tensors" in shown and "entropy, bits" in shown and "CNN, with memory" in shown
