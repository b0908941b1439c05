"""Classes of rows and columns: sorting, putting back, and what it saves."""

import numpy as np
import pytest

from flwr_co3.codec import Codec
from flwr_co3.compress.classes import Classes, Grid, classify
from flwr_co3.config import CO3Config
from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader
from tests.kinds import uneven
from tests.samples import assert_same_update, gennorm

pytestmark = pytest.mark.usefixtures("engine")


def some_classes(grid: Grid, row_bits: int, column_bits: int) -> Classes:
    rng = np.random.default_rng(grid.entries)
    labels = [rng.integers(1 << bits, size=n).astype("u1") for n, bits in ((grid[0], row_bits), (grid[1], column_bits))]
    return Classes(grid, row_bits, column_bits, labels[0], labels[1])


@pytest.mark.parametrize("grid", [Grid(1, 1, 1), Grid(7, 5, 1), Grid(30, 20, 9), Grid(3, 400, 2)])
@pytest.mark.parametrize(("row_bits", "column_bits"), [(0, 0), (1, 0), (0, 3), (2, 2), (3, 1)])
def test_what_is_sorted_is_put_back(grid: Grid, row_bits: int, column_bits: int) -> None:
    symbols = np.random.default_rng(0).integers(256, size=grid.entries).astype("u1")
    classes = some_classes(grid, row_bits, column_bits)
    parts, counts = classes.sort(symbols)
    assert [part.size for part in parts] == classes.sizes
    for k, (part, count) in enumerate(zip(parts, counts, strict=True)):
        row, column = divmod(k, 1 << column_bits)
        expected = symbols.reshape(grid)[classes.rows == row][:, classes.columns == column].reshape(-1)
        np.testing.assert_array_equal(part, expected)
        np.testing.assert_array_equal(count, np.bincount(part, minlength=256))
    np.testing.assert_array_equal(classes.merge(parts), symbols)
    read = Classes.read(Reader(classes.write(), "test"), grid)
    np.testing.assert_array_equal(read.rows, classes.rows)
    np.testing.assert_array_equal(read.columns, classes.columns)
    assert read[:3] == classes[:3]


def test_too_many_classes_are_refused() -> None:
    for both in (0x23 + 0x10, 0x04, 0x40, 0xFF):
        with pytest.raises(FrameError, match="classes of rows and columns"):
            Classes.read(Reader(bytes([both]) + bytes(99), "test"), Grid(8, 8, 1))


def test_only_tensors_of_rows_and_columns_have_a_grid() -> None:
    assert Grid.of((7, 5, 3, 3)) == Grid(7, 5, 9) and Grid.of((7, 5)) == Grid(7, 5, 1)
    assert Grid.of((7,)) is Grid.of(()) is Grid.of((70_000, 5)) is None


def test_busy_rows_and_columns_are_told_apart() -> None:
    symbols = np.full((40, 60, 3), 5, "u1")
    symbols[::2, 20:] = np.random.default_rng(0).integers(11, size=(20, 40, 3))
    classes = classify(symbols.reshape(-1), Grid(40, 60, 3), 5)
    assert classes is not None
    assert len(set(classes.rows[::2])) == len(set(classes.rows[1::2])) == 1 and classes.rows[0] != classes.rows[1]
    assert not set(classes.columns[:20].tolist()) & set(classes.columns[20:].tolist())


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_contexts_take_fewer_bytes_for_the_same_levels(scale: float) -> None:
    update = {"w": uneven((100, 60, 3, 3)), "v": uneven((300, 100))}
    plain, classed = (Codec(CO3Config(scale=scale, contexts=contexts)).compress(update) for contexts in (False, True))
    assert plain.frame[3] in (1, 3) and classed.frame[3] in (2, 3)
    assert len(classed.frame) < 0.95 * len(plain.frame)
    assert_same_update(Codec().decode(classed.frame), plain.sent)


def test_contexts_never_lose() -> None:
    update = {"w": gennorm(0.8, (100, 60, 3, 3)).astype("f4"), "v": gennorm(1, (30, 100)).astype("f4")}
    for scale in (0.1, 0.3, 1.0, 5.0):
        plain, classed = (Codec(CO3Config(scale=scale, contexts=contexts)).encode(update) for contexts in (False, True))
        assert len(classed) <= len(plain)
