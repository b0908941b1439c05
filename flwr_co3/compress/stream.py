"""The coded section of a frame: the symbols of all groups in one stream, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.compress import huffman, rans
from flwr_co3.compress.frequencies import COST_BITS, TOTAL, Frequencies
from flwr_co3.compress.group import MAX_LISTED, Edges, Group, Model, Plan, plan, without_sequences
from flwr_co3.compress.levels import Levels
from flwr_co3.compress.packing import Sequence
from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader, Writer, varint

Bytes = npt.NDArray[np.uint8]

CODERS = ("rans", "huffman")

# Chunks of so many bytes, and of so many symbols: enough of them for every core, and their states cost less than .1 %
# and less than .0025 bits a symbol.
_CHUNK_BYTES = 1 << 17
_CHUNK_SYMBOLS = 1 << 18
_MAX_LANES = 32
# A lane costs about 2.6 bytes of unused state: .4 % at most up to eight of them, which are many times faster than one,
# and .06 % beyond, where another eight are a little faster.
_BYTES_PER_LANE, _FEW_LANES, _BYTES_PER_MORE = 650, 8, 1 << 12
_SYMBOLS_PER_LANE = 1 << 14  # those bytes are well spent where symbols are all but certain: steps would be many
_SEGMENT_BYTES = 2000  # a segment costs 1 or 2 bytes of length and half a byte of filling
# Symbols that are all but certain take next to no bytes, but time: one step for each row, or symbol of a segment.
_MAX_ROWS = 1 << 17
_MAX_PER_SEGMENT = 1 << 14


def write(plans: list[Plan], coder: str) -> list[bytes]:
    """Code the symbols of groups.

    Parameters
    ----------
    plans : list of Plan
        All groups of the frame, in its order.
    coder : str
        "rans" or "huffman".

    Returns
    -------
    list of bytes
        What follows one after the other; nothing where all is level 0.
    """
    sequences = _uncertain(plans)
    coded: list[bytes] = []
    if sequences:
        coded = (_write_rans if coder == "rans" else _write_huffman)(sequences, _ideal_size(plans))
    return [part for part in (*coded, *(p.raw for p in plans)) if part]


def plan_all(groups: Iterable[Group], edges: Edges, coder: str) -> list[Plan]:
    """Choose how to code all groups of a frame, each as `plan` does.

    What the coder needs once, such as its states, is more than it saves where few levels are not 0: all groups are
    lists then.
    """
    every = list(groups)
    plans = [plan(group, edges, coder == "rans") for group in every]
    nonzero = sum(group.symbols.size - int(group.counts[group.zero]) for group in every)
    if coder != "rans" or nonzero > MAX_LISTED:
        return plans
    listed = [without_sequences(group) if p.sequences else p for group, p in zip(every, plans, strict=True)]
    return listed if _size_of(listed, coder) <= _size_of(plans, coder) else plans


def _size_of(plans: list[Plan], coder: str) -> float:
    return sum(len(p.header) for p in plans) + likely_size(plans, coder)


def likely_size(plans: list[Plan], coder: str) -> float:
    """Bytes that `write` is likely to give, without coding.

    What is left open is how rANS divides bits among lanes: each ends in a state of 4 bytes, whose upper half holds up
    to 16 of its bits, any number of them as likely, so that a lane costs 3 bytes on average. A single lane has them
    all, and gives a word for each 16. With Huffman's code it is the bits that fill segments.
    """
    sequences = _uncertain(plans)
    raw = sum(len(p.raw) for p in plans)
    if not sequences:
        return raw
    if coder != "rans":
        return raw + _likely_huffman(sequences, _ideal_size(plans))
    shape = _rans_shape(sequences, _ideal_size(plans))
    bits = rans.cost(sequences) / (1 << COST_BITS)
    states = shape.chunks << shape.lanes_log2
    words = bits // 16 if states == 1 else max(bits / 16 - states / 2, 0)
    lengths = shape.chunks * len(varint(int(words / shape.chunks)))
    return raw + len(shape.head()) + lengths + 4 * states + 2 * words


def _uncertain(plans: list[Plan]) -> list[Sequence]:
    """The sequences that are coded."""
    return [sequence for p in plans for sequence in p.sequences if not _is_certain(sequence.frequencies)]


def _ideal_size(plans: list[Plan]) -> int:
    """Bytes of all symbols by an ideal coder, about."""
    return sum(p.cost for p in plans) >> (3 + COST_BITS)


def read(section: memoryview, models: list[Model], coder: str) -> list[Levels]:
    """Decode the symbols of groups.

    Parameters
    ----------
    section : memoryview
        What `write` made; all of it is used.
    models : list of Model
        How each group is coded.
    coder : str
        "rans" or "huffman".

    Returns
    -------
    list of Levels
        What was sent of each group.

    Raises
    ------
    FrameError
        If the section is not what the models need.
    """
    reader = Reader(section, "coded section")
    sequences = [pair for model in models for pair in zip(model.lengths, model.tables, strict=True)]
    certain = [_is_certain(table) for _, table in sequences]
    coded = [sequence for sequence, known in zip(sequences, certain, strict=True) if not known]
    decoded: Iterator[Bytes] = iter(())
    if coded:
        lengths, tables = map(list, zip(*coded, strict=True))
        decoded = iter((_read_rans if coder == "rans" else _read_huffman)(reader, lengths, tables))
    symbols = (
        np.full(length, np.argmax(table), np.uint8) if known else next(decoded)
        for (length, table), known in zip(sequences, certain, strict=True)
    )
    out = [model.levels(list(islice(symbols, len(model.lengths))), reader.take(model.raw_size)) for model in models]
    reader.finish()
    return out


def _is_certain(table: Frequencies) -> bool:
    """Whether a table leaves one symbol only, so that nothing need be coded."""
    return TOTAL in table.tolist()  # tables are short: numpy would take longer


class _RansShape(NamedTuple):
    """How symbols are divided among states."""

    lanes_log2: int
    rows_per_chunk: int
    chunks: int

    def head(self) -> Writer:
        """What says so, before the lengths of the chunks."""
        head = Writer([self.lanes_log2])
        head.varint(self.rows_per_chunk)
        return head


def _rans_shape(sequences: list[Sequence], size: int) -> _RansShape:
    """Divide symbols that take about so many bytes."""
    symbols = sum(s.length for s in sequences)
    wanted = max(1, round(min(size / _CHUNK_BYTES, symbols / _CHUNK_SYMBOLS)))
    paid = max(min(size / _BYTES_PER_LANE, _FEW_LANES * wanted), size / _BYTES_PER_MORE)
    lanes = max(paid, symbols / _SYMBOLS_PER_LANE) / wanted
    lanes_log2 = max(0, min(int(lanes), _MAX_LANES).bit_length() - 1)
    rows = sum(-(-s.length // (1 << lanes_log2)) for s in sequences)
    rows_per_chunk = min(-(-rows // wanted), _MAX_ROWS)
    return _RansShape(lanes_log2, rows_per_chunk, -(-rows // rows_per_chunk))


def _write_rans(sequences: list[Sequence], size: int) -> list[bytes]:
    shape = _rans_shape(sequences, size)
    chunks = rans.encode(sequences, 1 << shape.lanes_log2, shape.rows_per_chunk)
    head = shape.head()
    for chunk in chunks:
        head.varint((len(chunk) - (4 << shape.lanes_log2)) // 2)
    return [bytes(head), *chunks]


def _read_rans(reader: Reader, lengths: list[int], tables: list[Frequencies]) -> list[Bytes]:
    lanes_log2 = reader.u8()
    if lanes_log2 > 12:
        raise FrameError(f"The coded section claims 2^{lanes_log2} lanes; 2^12 is the most there can be.")
    rows = sum(-(-length // (1 << lanes_log2)) for length in lengths)
    rows_per_chunk = reader.varint(min(rows, _MAX_ROWS))
    if not rows_per_chunk:
        raise FrameError("The coded section claims chunks of no rows.")
    layout = rans.Layout(tuple(lengths), 1 << lanes_log2, rows_per_chunk)
    if layout.chunks * (4 * layout.lanes + 1) > reader.left:
        raise FrameError(f"The coded section is too short for its {layout.chunks} chunks.")
    words = [reader.varint(reader.left // 2) for _ in range(layout.chunks)]
    chunks = [reader.take(4 * layout.lanes + 2 * count) for count in words]
    return rans.decode(chunks, tables, layout)


def _symbols_per_segment(sequences: list[Sequence], size: int) -> int:
    symbols = sum(s.symbols.size for s in sequences)
    least = max(size, symbols / 8)  # no code word is shorter than a bit
    return max(1, round(symbols * min(_SEGMENT_BYTES / least, 1)))


def _likely_huffman(sequences: list[Sequence], size: int) -> float:
    """Bytes of symbols by Huffman's code, but for how many bits fill its segments."""
    per_segment = _symbols_per_segment(sequences, size)
    segments = sum(-(-s.length // per_segment) for s in sequences)
    coded = sum(huffman.bits(s) for s in sequences) / 8 + segments / 2
    return coded + len(varint(per_segment)) + segments * len(varint(int(coded) // segments))


def _write_huffman(sequences: list[Sequence], size: int) -> list[bytes]:
    per_segment = _symbols_per_segment(sequences, size)
    coded = [huffman.encode(s, per_segment) for s in sequences]
    head = Writer()
    head.varint(per_segment)
    for _, sizes in coded:
        for segment_size in sizes:
            head.varint(segment_size)
    return [bytes(head), *(segments for segments, _ in coded)]


def _read_huffman(reader: Reader, lengths: list[int], tables: list[Frequencies]) -> list[Bytes]:
    per_segment = reader.varint(min(sum(lengths), _MAX_PER_SEGMENT))
    if not per_segment:
        raise FrameError("The coded section claims segments of no symbols.")
    count = sum(-(-length // per_segment) for length in lengths)
    if count > reader.left:
        raise FrameError(f"The coded section is too short for its {count} segments.")
    sizes = [reader.varint(reader.left) for _ in range(count)]
    return huffman.decode(reader.take(sum(sizes)), sizes, tables, lengths, per_segment)
