"""Types of the compiled loops; what each does stands in its docstring, in ``_kernels.c``."""

from typing import Any, TypeAlias

Buffer: TypeAlias = Any  # contiguous: an array, bytes, a memoryview
Buffers: TypeAlias = list[Any] | None  # an entry may be None

def moments(
    updates: Buffers, errors: Buffers, decay: float, segments: Buffer, out: Buffer, rows: Buffer, bins: Buffer | None, /
) -> None: ...
def convert(
    updates: Buffers,
    errors: Buffers,
    decay: float,
    segments: Buffer,
    factors: Buffer,
    units: Buffer,
    values: Buffer,
    format: tuple[int, int, int],
    nudge: Buffer | None,
    symbols: Buffer,
    starts: Buffer,
    kept: Buffers,
    counts: Buffer,
    squares: Buffer,
    edges: Buffer | None,
    /,
) -> None: ...
def keep(
    updates: Buffers,
    errors: Buffers,
    decay: float,
    segments: Buffer,
    values: Buffer,
    symbols: Buffer,
    starts: Buffer,
    zero: int,
    kept: Buffers,
    /,
) -> None: ...
def counted_table(counts: Buffer, mirrored: bool, log2: Buffer, /) -> tuple[bytes, bytes, int] | None: ...
def fitted_frequencies(fit: Buffer, edges: Buffer, share: int, /) -> bytes: ...
def packed_frequencies(frequencies: Buffer, factor: int, /) -> bytes: ...
def dense_group(
    counts: Buffer, edges: Buffer, fit: Buffer, nonzero_fit: Buffer, packed: bool, log2: Buffer, /
) -> tuple[bytes, int, int, bytes, int]: ...
def rans_cost(symbols: Buffers, packings: Buffer, frequencies: Buffer, log2: Buffer, /) -> int: ...
def rans_encode(
    symbols: Buffers, packings: Buffer, frequencies: Buffer, lanes: int, rows_per_chunk: int, chunk: int, /
) -> bytes: ...
def rans_decode(
    data: Buffer, lengths: Buffer, frequencies: Buffer, lanes: int, rows_per_chunk: int, chunk: int, out: Buffers, /
) -> int: ...
def huffman_encode(
    symbols: Buffer, base: int, lengths: Buffer, words: Buffer, per_segment: int, /
) -> tuple[bytes, bytes]: ...
def huffman_decode(
    data: Buffer, sizes: Buffer, symbol_of: Buffer, length_of: Buffer, per_segment: int, out: Buffer, /
) -> bool: ...
def gaps(symbols: Buffer, zero: int, reach: int, levels: int, finer: int, /) -> tuple[bytes, bytes, int, bytes]: ...
def zero_pairs(symbols: Buffer, zero: int, block: int, stride: int, /) -> tuple[int, int]: ...
def token_table(tokens: Buffer, shift: int, log2: Buffer, /) -> tuple[bytes, bytes, int]: ...
def place(
    tokens: Buffer,
    low: Buffer,
    shift: int,
    packed: Buffer,
    factor: int,
    alphabet: int,
    levels: int,
    entries: int,
    mode: int,
    values: Buffer,
    out: Buffer,
    /,
) -> bool: ...
def dequantize(
    packed: Buffers, digits: Buffer, values: Buffer, segments: Buffer, out: Buffers, add: bool, /
) -> None: ...
def activity(
    symbols: Buffer, rows: int, columns: int, inner: int, zero: int, by_row: Buffer, by_column: Buffer, /
) -> None: ...
def sort_classes(
    symbols: Buffer,
    rows: int,
    columns: int,
    inner: int,
    row_classes: Buffer,
    column_classes: Buffer,
    bits: int,
    starts: Buffer,
    out: Buffer,
    counts: Buffer,
    /,
) -> None: ...
def merge_classes(
    symbols: Buffer,
    rows: int,
    columns: int,
    inner: int,
    row_classes: Buffer,
    column_classes: Buffer,
    bits: int,
    starts: Buffer,
    out: Buffer,
    /,
) -> None: ...
def use(vectors: bool, /) -> bool: ...
