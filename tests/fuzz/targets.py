"""What is fuzzed: the loops that decode what came over the network, and whole frames.

Each target takes bytes that a fuzzer made up and raises AssertionError, or whatever else is not FrameError, where the
decoder breaks its word: a frame is refused with FrameError or decodes, the same way with the compiled loops (with
vector instructions and without) and in numpy, and within the memory that the receiver allows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress import huffman, rans, sparse, stream
from flwr_co3.compress.frequencies import TOTAL, Frequencies, normalize
from flwr_co3.compress.levels import DenseLevels, Part
from flwr_co3.compress.levels import write as write_levels
from flwr_co3.compress.packing import Sequence, pack_factor, packed_frequencies
from flwr_co3.compress.tables import read_counted, read_fitted
from flwr_co3.convert import FloatFormat
from flwr_co3.errors import FrameError
from flwr_co3.frame import FrameReader
from flwr_co3.wire import Reader
from tests.engines import ENGINES, NUMPY, running

Bytes = npt.NDArray[np.uint8]

MAX_BYTES = 1 << 15  # of a frame's decoded tensors
MAX_SYMBOLS = 1 << 11  # of a sequence
REFUSED = "refused"

# -- engines ----------------------------------------------------------------------------------------------------------


def engines() -> tuple[str, ...]:
    """What there is to compare."""
    return ENGINES if kernels.compiled() else (NUMPY,)


def agreed(work: Callable[[], Any]) -> Any:
    """Do the work with each engine: what it returns (bytes, in the end), or `REFUSED` for FrameError, must agree."""
    found = {}
    for name in engines():
        with running(name, threads=1):
            try:
                found[name] = work()
            except FrameError as error:
                assert str(error).endswith((".", "?")), f"no sentence: {error}"
                found[name] = REFUSED
    first, *others = found.values()
    assert all(other == first for other in others), f"the engines differ: {found}"
    return first


def apart(data: bytes | memoryview) -> memoryview:
    """A copy in memory of its own, so that the address sanitizer sees a read beyond its end."""
    return np.frombuffer(data, np.uint8).copy().data


# -- frames -----------------------------------------------------------------------------------------------------------


class _ApartReader(Reader):
    def take(self, count: int) -> memoryview:
        return apart(super().take(count))


def read_frame(data: bytes) -> None:
    """Decode a frame, given without its checksum."""
    frame = data + zlib.crc32(data).to_bytes(4, "little")

    def read() -> list[bytes]:
        reader = FrameReader(frame, max_bytes=MAX_BYTES)
        reader.verify()
        found = []
        for name, spec in reader.tensors.items():
            tensor = reader.read(name)
            assert tensor.dtype.name == spec.dtype and tensor.shape == spec.shape
            found.append(tensor.tobytes())
            if name not in reader.exact:
                assert np.all(np.isfinite(tensor.astype(np.float64)))
                total = np.ones_like(tensor)
                with np.errstate(over="ignore", invalid="ignore"):
                    reader.add_to({name: total}, 0.5)
                found.append(total.tobytes())
        return found

    with patch.object(stream, "Reader", _ApartReader):
        agreed(read)


# -- kernels ----------------------------------------------------------------------------------------------------------


class Fields:
    """Numbers from bytes that never end: zeros follow."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, size: int, below: int) -> int:
        """The next `size` bytes, modulo `below`."""
        self._at += size
        return int.from_bytes(self._data[self._at - size : self._at], "little") % below

    def take(self, size: int) -> bytes:
        """So many bytes."""
        self._at += size
        return self._data[self._at - size : self._at].ljust(size, b"\0")

    def rest(self) -> bytes:
        """All bytes that are left."""
        rest = self._data[self._at :]
        self._at = len(self._data)
        return rest

    def table(self) -> Frequencies:
        """Frequencies of an alphabet of 2 to 256 symbols."""
        size = 2 + self.number(1, 255)
        weights = np.resize(np.frombuffer(self.take(1 + self.number(1, 16)), np.uint8), size).astype(np.int64) ** 2
        weights[self.number(1, size)] += 1
        return normalize(weights)

    def damage(self, data: bytes) -> bytes:
        """Now and then, some bytes changed or cut."""
        damaged = bytearray(data)
        for _ in range(self.number(1, 4)):
            if damaged:
                damaged[self.number(2, len(damaged))] ^= self.number(1, 256)
        cut = self.number(1, 32)
        return bytes(damaged[: len(damaged) - cut] if cut < 8 else damaged)


class Coded(NamedTuple):
    """Symbols and the table they are coded with."""

    symbols: Bytes
    table: Frequencies

    @classmethod
    def of(cls, fields: Fields) -> Coded:
        """Symbols that the table has, in a pattern."""
        table = fields.table()
        length = 1 + fields.number(2, MAX_SYMBOLS)
        pattern = np.frombuffer(fields.take(1 + fields.number(1, 64)), np.uint8)
        used = np.flatnonzero(table).astype(np.uint8)
        return cls(used[np.resize(pattern, length).astype(np.intp) % used.size], table)


def _bytes_of(arrays: list[Bytes]) -> list[bytes]:
    return [array.tobytes() for array in arrays]


def _coded(fields: Fields) -> list[Coded]:
    return [Coded.of(fields) for _ in range(1 + fields.number(1, 3))]


def rans_chunks(fields: Fields) -> None:
    """What an encoder wrote, damaged, or bytes that none wrote."""
    coded = _coded(fields)
    lanes, rows = 1 << fields.number(1, 8), 1 + fields.number(2, 1 << 12)
    rows = max(min(rows, sum(-(-c.symbols.size // lanes) for c in coded)), 4)
    layout = rans.Layout(tuple(c.symbols.size for c in coded), lanes, rows)
    sequences, symbols = [Sequence(c.symbols, c.table) for c in coded], [c.symbols for c in coded]
    if fields.number(1, 4):
        whole = agreed(lambda: rans.encode(sequences, lanes, rows))
        chunks = [fields.damage(chunk) for chunk in whole]
    else:
        whole, chunks = [], []
        for _ in range(layout.chunks):
            chunks.append(fields.take(4 * lanes + 2 * fields.number(1, 256)))
    chunks = [chunk[: len(chunk) // 2 * 2].ljust(4 * lanes, b"\0") for chunk in chunks]
    data = [apart(chunk) for chunk in chunks]
    found = agreed(lambda: _bytes_of(rans.decode(data, [c.table for c in coded], layout)))
    assert chunks != whole or found == _bytes_of(symbols)


def huffman_segments(fields: Fields) -> None:
    """The same for Huffman's code."""
    coded = [c for c in _coded(fields) if c.table.max() < TOTAL]
    if not coded:
        return
    per_segment = 16 + fields.number(2, 1 << 10)
    sequences = [Sequence(c.symbols, c.table) for c in coded]
    parts = agreed(lambda: [huffman.encode(sequence, per_segment) for sequence in sequences])
    whole, sizes = b"".join(part for part, _ in parts), [size for _, own in parts for size in own]
    data, own_sizes = fields.damage(whole) if fields.number(1, 4) else fields.rest(), list(sizes)
    if fields.number(1, 2):  # a segment longer, and another shorter
        k, moved = fields.number(2, len(sizes)), fields.number(1, 8)
        sizes[k], sizes[k - 1] = sizes[k] + moved, max(sizes[k - 1] - moved, 0)
    data = data[: sum(sizes)].ljust(sum(sizes), b"\xff")
    tables, lengths = [c.table for c in coded], [c.symbols.size for c in coded]
    found = agreed(lambda: _bytes_of(huffman.decode(apart(data), sizes, tables, lengths, per_segment)))
    assert data != whole or sizes != own_sizes or found == _bytes_of([c.symbols for c in coded])


def sparse_gaps(fields: Fields) -> None:
    """Tokens, low bits and levels of a sparse group."""
    reach = 1 + fields.number(1, 127)
    count = 1 + fields.number(2, 512)
    shift = fields.number(1, 41) if fields.number(1, 4) == 0 else fields.number(1, 8)
    entries = 1 + fields.number(6, 1 << 48) if fields.number(1, 8) == 0 else 1 + fields.number(2, 1 << 14)
    values = np.frombuffer(fields.take(2 * reach), np.int8).astype(np.float32)
    factor = pack_factor(2 * reach)
    low = apart(fields.take(sparse.low_size(count, shift)))
    packed = np.frombuffer(fields.take(-(-count // factor)), np.uint8) % np.int64((2 * reach) ** factor)
    tokens = np.frombuffer(fields.take(count + fields.number(1, 16)), np.uint8) % np.uint8(sparse.TOKENS)
    gaps = sparse.PackedGaps(tokens, low, shift, packed.astype(np.uint8), factor, 2 * reach, count)

    def walk() -> list[bytes]:
        sparse.walk(gaps, entries)
        if entries > 1 << 14:
            return []
        symbols, assigned, added = np.zeros(entries, np.uint8), np.zeros(entries, np.float32), np.ones(entries, "f4")
        sparse.walk(gaps, entries, sparse.symbols_of(127, reach), symbols)
        sparse.walk(gaps, entries, values, assigned)
        sparse.walk(gaps, entries, values, added, add=True)
        return [symbols.tobytes(), assigned.tobytes(), added.tobytes()]

    agreed(walk)


def dense_levels(fields: Fields) -> None:
    """Packed symbols to values, from any entry on."""
    reach = 1 + fields.number(1, 127)
    factor = 1 + fields.number(1, pack_factor(2 * reach + 1))
    entries = 1 + fields.number(2, MAX_SYMBOLS)
    first = fields.number(2, entries)
    count = fields.number(2, entries - first + 1)
    values = np.frombuffer(fields.take(255), np.int8).astype(np.float32)
    packed = np.resize(np.frombuffer(fields.rest() or b"\0", np.uint8), -(-entries // factor))
    below = (packed % np.int64((2 * reach + 1) ** factor)).astype(np.uint8)
    levels = DenseLevels(entries, 127, reach, factor, below)

    def write() -> list[bytes]:
        new, added = np.empty(count, np.float32), np.full(count, 0.5, np.float32)
        write_levels([Part(levels, first, values, new)])
        write_levels([Part(levels, first, values, added)], add=True)
        return [new.tobytes(), added.tobytes(), levels.symbols().tobytes()]

    agreed(write)


FORMATS = [FloatFormat(name) for name in ("fp4", "e2m1", "fp8", "fp8_143", "e4m3", "e5m2")]
FORMATS += [FloatFormat(exponent=2, mantissa=0, bias=9), FloatFormat(exponent=5, mantissa=1, bias=-80)]


def fitted_tables(fields: Fields) -> None:
    """A table's header to frequencies, and these to those of packed symbols."""
    edges = FORMATS[fields.number(1, len(FORMATS))].edges
    edges = edges[: 1 + fields.number(1, edges.size)]
    with_share, factor = bool(fields.number(1, 2)), 1 + fields.number(1, pack_factor(2 * edges.size + 1))
    header = fields.take(5 if with_share else 3)

    def read() -> list[bytes]:
        table = read_fitted(Reader(header, "table"), edges, with_share)
        assert table.sum() == TOTAL and table.min() > 0
        packed = packed_frequencies(table, factor)
        assert packed.sum() == TOTAL and packed.min() > 0
        return [table.tobytes(), packed.tobytes()]

    agreed(read)


def counted_tables(fields: Fields) -> None:
    """The same for a counted table."""
    alphabet = 2 + fields.number(1, 255)
    factor = 1 + fields.number(1, pack_factor(alphabet))
    header = fields.rest()

    def read() -> list[bytes]:
        table = read_counted(Reader(header, "table"), alphabet)
        assert table.sum() == TOTAL and table.min() >= 0
        packed = packed_frequencies(table, factor)
        assert packed.sum() == TOTAL and packed.min() >= 0
        return [table.tobytes(), packed.tobytes()]

    agreed(read)


KERNELS = (rans_chunks, huffman_segments, sparse_gaps, dense_levels, fitted_tables, counted_tables)


def run_kernels(data: bytes) -> None:
    """The first byte says which of `KERNELS` gets the others."""
    if data:
        KERNELS[data[0] % len(KERNELS)](Fields(data[1:]))


TARGETS = {"frames": read_frame, "kernels": run_kernels}
