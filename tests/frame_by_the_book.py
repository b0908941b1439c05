"""A decoder written from docs/frame.md alone, one symbol at a time: the document's own test.

It shares nothing with the package but the arithmetic of the fitted tables, to which the document refers.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.arithmetic import incomplete_gamma, power

DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
]
HUFFMAN, TABLE_DEFLATED, EXACT_DEFLATED, COMMON_SCALE, OWN_SCALES, KNOWN_TABLE = 1, 2, 4, 8, 16, 32
CENTROIDS, SCHEME = 64, 128
SHORT_SCALE, ONE_GROUP, EXACT_MARKED = 256, 512, 1024
FORMATS = {  # exponent bits, mantissa bits, top exponent, bias, magnitudes that are no levels
    **{1: (2, 1, 0, 1, 0), 2: (5, 2, 0, 15, 0), 3: (4, 3, 0, 10, 0), 4: (2, 1, 1, 1, 0), 5: (4, 3, 1, 7, 1)},
    **{6: (5, 2, 0, 15, 0), 7: (1, 6, 1, -5, 0), 8: (2, 5, 1, -4, 0), 9: (3, 4, 1, -3, 0)},
}
Like = dict[str, tuple[str, tuple[int, ...]]]  # the tensors that the receiver knows: dtype and shape
TOTAL = 1 << 14


class Cursor:
    """Bytes, and a place in them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def varint(self) -> int:
        byte = self.number(1)
        return byte if byte < 128 else byte % 128 + 128 * self.varint()

    def block(self) -> "Cursor":
        return Cursor(self.take(self.varint()))

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def bits(self, widths: Iterator[int]) -> Iterator[int]:
        """Fields of so many bits, least significant first; bytes are read as they are needed."""
        number = width = 0
        for wanted in widths:
            while width < wanted:
                number |= self.number(1) << width
                width += 8
            yield number & ((1 << wanted) - 1)
            number, width = number >> wanted, width - wanted


def decode(frame: bytes, dictionary: bytes, like: Like | None = None) -> dict[str, npt.NDArray[Any]]:
    if frame == b"\x00":
        return {}
    assert frame[:3] == b"CO3" and frame[3] in (1, 2, 3, 4, 5)
    assert zlib.crc32(frame[:-4]) == int.from_bytes(frame[-4:], "little")
    if frame[3] < 5:
        return decode_layer(frame[3:-4], dictionary, like)[0]
    layers = Cursor(frame[4:-4])
    count = layers.number(1)
    assert count in (2, 3)
    arrays, exact = decode_layer(layers.block().data, dictionary, like)
    fine = {name for name, array in arrays.items() if name not in exact and array.size and array.itemsize > 2}
    known = {name: (arrays[name].dtype.name, arrays[name].shape) for name in fine}
    for _ in range(count - 1):
        for name, more in decode_layer(layers.block().data, dictionary, known)[0].items():
            limit = np.finfo(more.dtype).max
            with np.errstate(over="ignore"):
                arrays[name] = np.clip(arrays[name] + more, -limit, limit)
    assert not layers.rest()
    return arrays


def decode_layer(data: bytes, dictionary: bytes, like: Like | None) -> tuple[dict[str, npt.NDArray[Any]], set[str]]:
    """What lies between magic and checksum: the arrays, and which of them are exact."""
    version, flags, body = data[0], data[1], Cursor(data[2:])
    assert version in (1, 2, 3, 4) and (version > 1 or flags < 32)
    if flags & KNOWN_TABLE:
        assert like is not None
        flags += body.number(1) << 8
        table = read_reference(body, flags, like)
    elif flags & TABLE_DEFLATED:
        size = body.varint()
        table = Cursor(zlib.decompressobj(-15, zdict=dictionary).decompress(body.block().data))
        assert len(table.data) == size
    else:
        table = body.block()
    magnitudes = read_format(table)
    names, dtypes, exact, shapes = read_tensors(table)
    entries = {name: prod(shapes[name]) for name in names}
    groups = make_groups([name for name in names if name not in exact and entries[name]], entries)
    if flags & ONE_GROUP and groups:
        groups = [[name for group in groups for name in group]]
    zero = len(magnitudes) - 1

    models = body.block()
    scales = read_scales(models, flags, version > 3, [name for group in groups for name in group])
    plans, points = [], []
    for group in groups:
        shape = shapes[group[0]] if version > 1 and len(group) == 1 else ()
        plans.append(read_model(models, sum(entries[n] for n in group), magnitudes, bool(flags & HUFFMAN), shape))
        coded_points = flags & CENTROIDS and plans[-1][0] != "zero"
        points.append(read_points(models, magnitudes) if coded_points else magnitudes)
    assert not models.rest()
    exact_data = body.block().data
    if flags & EXACT_DEFLATED:
        exact_data = zlib.decompress(exact_data)
    coded = Cursor(body.rest())
    symbols = read_symbols(coded, plans, zero, bool(flags & HUFFMAN))

    by_name: dict[str, list[int]] = {}
    levels_of: dict[str, list[float]] = {}
    for group, joined, means in zip(groups, symbols, points, strict=True):
        for name in group:
            by_name[name], joined = joined[: entries[name]], joined[entries[name] :]
            levels_of[name] = [-mean for mean in means[:0:-1]] + means
    arrays: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for name in names:
        dtype = np.dtype(dtypes[name])
        if name in exact:
            arrays[name] = np.frombuffer(exact_data, dtype.newbyteorder("<"), entries[name], start).astype(dtype)
            start += entries[name] * dtype.itemsize
        else:
            limit = float(np.finfo(dtype).max)
            values = [max(-limit, min(limit, levels_of[name][s] / scales[name])) for s in by_name.get(name, [])]
            arrays[name] = np.array(values, np.float64).astype(dtype)
        arrays[name] = arrays[name].reshape(shapes[name])
    return arrays, exact


def read_reference(body: Cursor, flags: int, like: Like) -> Cursor:
    """The table that the sender would have written, were it not known."""
    checksum, number = body.number(2), flags >> 11
    if number:
        exponent, mantissa, top, bias, reserved = FORMATS[number]
    else:
        (exponent, mantissa, top), coded_bias, reserved = body.take(3), body.varint(), body.varint()
        bias = coded_bias // 2 if coded_bias % 2 == 0 else -(coded_bias + 1) // 2
    names = sorted(like)
    floats = [name for name in names if 9 <= DTYPES.index(like[name][0]) <= 12]
    marks = dict(zip(floats, body.bits(iter([1] * len(floats))), strict=True)) if flags & EXACT_MARKED else {}
    table = bytes([exponent, mantissa, top]) + varint(2 * bias if bias >= 0 else -2 * bias - 1) + varint(reserved)
    table += varint(len(names)) + b"".join(varint(len(name.encode())) + name.encode() for name in names)
    table += bytes(DTYPES.index(like[name][0]) + 128 * (marks.get(name, 0) if name in floats else 1) for name in names)
    table += b"".join(varint(size) for name in names for size in (len(like[name][1]), *like[name][1]))
    assert zlib.crc32(table) % 65536 == checksum
    return Cursor(table)


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def read_format(table: Cursor) -> list[float]:
    exponent, mantissa, top = table.take(3)
    coded_bias, reserved = table.varint(), table.varint()
    bias = coded_bias // 2 if coded_bias % 2 == 0 else -(coded_bias + 1) // 2
    magnitudes = [f / 2**mantissa * 2.0 ** (1 - bias) for f in range(2**mantissa)]
    for field in range(1, 2**exponent - (1 - top)):
        magnitudes += [(1 + f / 2**mantissa) * 2.0 ** (field - bias) for f in range(2**mantissa)]
    return magnitudes[: len(magnitudes) - reserved]


def read_tensors(table: Cursor) -> tuple[list[str], dict[str, str], set[str], dict[str, tuple[int, ...]]]:
    names = [table.block().data.decode() for _ in range(table.varint())]
    kinds = dict(zip(names, table.take(len(names)), strict=True))
    shapes = {name: tuple(table.varint() for _ in range(table.varint())) for name in names}
    return names, {n: DTYPES[k % 128] for n, k in kinds.items()}, {n for n, k in kinds.items() if k >= 128}, shapes


def make_groups(names: list[str], entries: dict[str, int]) -> list[list[str]]:
    small = [name for name in names if entries[name] <= 1024]
    return [[name] for name in names if entries[name] > 1024] + ([small] if small else [])


def as_float(code: int) -> float:
    assert 32 <= code <= 65503
    return float(struct.unpack("<d", struct.pack("<Q", code << 47))[0])


def read_scales(models: Cursor, flags: int, marked: bool, names: list[str]) -> dict[str, float]:
    common = float("nan")
    if flags & COMMON_SCALE:
        data = bytes(5) + models.take(3) if flags & SHORT_SCALE else models.take(8)
        common = float(struct.unpack("<d", data)[0])
    if marked and flags & OWN_SCALES and flags & COMMON_SCALE:
        marks = dict(zip(names, models.bits(iter([1] * len(names))), strict=True))
        return {name: as_float(models.number(2)) if marks[name] else common for name in names}
    codes = {name: models.number(2) if flags & OWN_SCALES else 0 for name in names}
    return {name: as_float(code) if code else common for name, code in codes.items()}


def read_points(models: Cursor, magnitudes: list[float]) -> list[float]:
    count = models.number(1)
    codes = list(struct.unpack(f"{count}b", models.take(count)))
    assert count < len(magnitudes)
    steps = [0.0] + [(above - below) / 128 for below, above in pairwise(magnitudes)]
    return [m + c * step for m, c, step in zip(magnitudes, [0, *codes, *[0] * 127], steps, strict=False)]


# -- other schemes -----------------------------------------------------------------------------------------------------


class SchemeFrame(NamedTuple):
    """What a frame of another scheme carries."""

    name: str
    exponent: int
    fresh: bool
    numbers: list[float]
    levels: list[list[int]]
    raw: bytes


def read_scheme(frame: bytes, dictionary: bytes, together: bool | None) -> SchemeFrame:
    """Read a frame of a scheme that has a level for each entry of each vector, of all together, or (None) no levels."""
    assert (
        frame[:4] in (b"CO3\x02", b"CO3\x03", b"CO3\x04")
        and frame[4] & SCHEME
        and not frame[4] & ~(SCHEME | TABLE_DEFLATED | EXACT_DEFLATED)
    )
    assert zlib.crc32(frame[:-4]) == int.from_bytes(frame[-4:], "little")
    flags, body = frame[4], Cursor(frame[5:-4])
    if flags & TABLE_DEFLATED:
        body.varint()
        table = Cursor(zlib.decompressobj(-15, zdict=dictionary).decompress(body.block().data))
    else:
        table = body.block()
    read_format(table)
    names, _, exact, shapes = read_tensors(table)
    entries = {name: prod(shapes[name]) for name in names}
    groups = make_groups([name for name in names if name not in exact and entries[name]], entries)
    sizes = [entries[name] for group in groups for name in group]
    lengths = {True: [sum(sizes)], False: sizes, None: list[int]()}[together]

    models, _, coded = body.block(), body.block(), Cursor(body.rest())
    name, said, count = models.block().data.decode("ascii"), models.varint(), models.varint()
    u = said // 2
    numbers = list(struct.unpack(f"<{count}f", models.take(4 * count)))
    low, raw = coded.block(), coded.block().data
    pooled = make_groups([str(i) for i, n in enumerate(lengths) if n], {str(i): n for i, n in enumerate(lengths)})
    magnitudes = [float(m) for m in range(128)]
    plans = [read_model(models, sum(lengths[int(i)] for i in group), magnitudes, False) for group in pooled]
    tokens: list[list[int]] = [[] for _ in lengths]
    for group, joined in zip(pooled, read_symbols(coded, plans, 127, False), strict=True):
        for i in map(int, group):
            tokens[i], joined = [symbol - 127 for symbol in joined[: lengths[i]]], joined[lengths[i] :]
    exponent = u // 2 if u % 2 == 0 else -(u + 1) // 2
    return SchemeFrame(name, exponent, bool(said % 2), numbers, with_low_bits(tokens, low), raw)


def with_low_bits(tokens: list[list[int]], low: Cursor) -> list[list[int]]:
    large = [(abs(t) - 64) // 2 + 5 for sequence in tokens for t in sequence if abs(t) >= 64]
    bits = [0] * len(large)
    for b in range(max(large, default=0)):
        reached = [k for k, w in enumerate(large) if w > b]
        plane = low.take(-(-len(reached) // 8))
        for place, k in enumerate(reached):
            bits[k] += (plane[place // 8] >> (7 - place % 8) & 1) << b
    assert not low.rest()
    found = iter(zip(large, bits, strict=True))

    def level(t: int) -> int:
        if abs(t) < 64:
            return t
        w, rest = next(found)
        return (((2 + abs(t) % 2) << w) + rest) * (1 if t > 0 else -1)

    return [[level(t) for t in sequence] for sequence in tokens]


# -- models: each is (kind, entries, facts, [(length, frequencies, packing factor, alphabet)], raw bytes) --------------


def read_model(
    models: Cursor, entries: int, magnitudes: list[float], huffman: bool, shape: tuple[int, ...] = ()
) -> tuple[Any, ...]:
    byte = models.number(1)
    if byte == 6:
        assert len(shape) > 1 and not huffman
        return read_classed(models, entries, magnitudes, shape)
    kind, factor = byte % 16, byte // 16 + 1
    if kind == 0:
        return "zero", entries, (), [], 0
    m = models.varint()
    if kind == 5:
        count = models.varint()
        widths = ((entries - 1).bit_length(), (2 * m - 1).bit_length())
        return "listed", entries, (m, count, widths), [], -(-count * sum(widths) // 8)
    if kind == 8:
        count = models.varint()
        assert 1 <= count <= 512 and not huffman
        return "listed by gaps", entries, (m, read_gaps(models, count, entries, m)), [], 0
    if kind in (4, 7):
        levels, escapes = models.varint(), models.varint()
        shift_byte = models.number(1)
        tokens = read_counted(models, 64) if shift_byte >= 128 else geometric(models.number(1))
        values, k = read_counted(models, 2 * m), 1
        while (2 * m) ** (k + 1) <= 256:
            k += 1
        shift = shift_byte % 128
        sequences = [(levels + escapes, tokens, 1, 64), (-(-levels // k), packed(values, k), k, 2 * m)]
        if kind == 7:
            assert levels <= 1024 and not huffman
            return "joined", entries, (m, levels, shift), sequences, -(-levels * shift // 8)
        return "sparse", entries, (m, levels, shift), sequences, shift * -(-levels // 8)
    if kind == 3:
        frequencies = read_counted(models, 2 * m + 1)
    else:
        exponent = max(((models.number(1) + 1) / 128) ** 2, 0.2)
        weights = cell_weights(exponent, as_float(models.number(2)), magnitudes[: m + 1])
        if kind == 2:
            share = models.number(2)
            weights[m] = 0
            frequencies = normalise(weights, TOTAL - share)
            frequencies[m] = share
        else:
            frequencies = normalise(weights, TOTAL)
    assert not huffman or factor == 1
    sequence = (-(-entries // factor), packed(frequencies, factor), factor, 2 * m + 1)
    return "dense", entries, (m,), [sequence], 0


def read_gaps(models: Cursor, count: int, entries: int, m: int) -> list[tuple[int, int]]:
    bits = models.bits(iter(lambda: 1, 0))

    def unary(most: int) -> int:
        zeros = 0
        while zeros < most and not next(bits):
            zeros += 1
        return zeros

    found, position, low_bits = [], -1, len(f"{number:b}") if (number := 12 * entries // (25 * count)) else 0
    for _ in range(count):
        low = sum(next(bits) << place for place in range(low_bits))
        position += 1 + low + (unary(entries >> low_bits) << low_bits)
        sign = -1 if next(bits) else 1
        found.append((position, sign * (1 + unary(m - 1))))
    return found


def read_classed(models: Cursor, entries: int, magnitudes: list[float], shape: tuple[int, ...]) -> tuple[Any, ...]:
    widths = models.number(1)
    row_bits, column_bits = widths % 16, widths // 16
    labels = list(models.bits(iter([row_bits] * shape[0] + [column_bits] * shape[1])))
    classes: dict[tuple[int, int], list[int]] = {
        (r, c): [] for r in range(1 << row_bits) for c in range(1 << column_bits)
    }
    inner = prod(shape[2:])
    for r, row in enumerate(labels[: shape[0]]):
        for c, column in enumerate(labels[shape[0] :]):
            first = (r * shape[1] + c) * inner
            classes[row, column] += range(first, first + inner)
    places = [where for where in classes.values() if where]
    parts = [read_model(models, len(where), magnitudes, False) for where in places]
    return "classed", entries, (places, parts), [s for part in parts for s in part[3]], sum(part[4] for part in parts)


def cell_weights(shape: float, width: float, magnitudes: list[float]) -> list[int]:
    edges = np.array([(a + b) / 2 for a, b in pairwise(magnitudes)])
    below = incomplete_gamma(1 / shape, power(np.minimum(edges / width, 1e300), shape))
    sums = [int(p * 2**30) for p in below] + [2**30]
    sides = [max((b - a) // 2, 1) for a, b in pairwise(sums)]
    return [*sides[::-1], max(sums[0], 1), *sides]


def normalise(weights: list[int], total: int) -> list[int]:
    mass = sum(weights)
    f = [max((w * total + mass // 2) // mass, 1) if w else 0 for w in weights]
    while (excess := sum(f) - total) != 0:
        largest = f.index(max(f))
        f[largest] -= excess if excess < 0 else min(excess, max(1, f[largest] // 8))
    return f


def geometric(r: int) -> list[int]:
    weights, rest = [], 1 << 30
    for _ in range(63):
        weights.append(max(1, rest - rest * r // 256))
        rest = rest * r // 256
    return normalise([*weights, max(1, rest)], TOTAL)


def read_counted(models: Cursor, alphabet: int) -> list[int]:
    byte = models.number(1)
    p, mirrored = byte % 128, byte >= 128
    count = (alphabet + 1) // 2 if mirrored else alphabet
    values = [0] * count
    left = 1 << p

    def widths() -> Iterator[int]:
        while left:
            yield left.bit_length()

    for index, value in zip(range(count - 1), models.bits(widths()), strict=False):
        values[index] = value
        left -= value
    values[-1] += left
    scaled = [value << (14 - p) for value in values]
    if mirrored:
        middle, pairs = (scaled[:1], scaled[1:]) if alphabet % 2 else ([], scaled)
        return [f // 2 for f in pairs[::-1]] + middle + [f // 2 for f in pairs]
    order = sorted(range(alphabet), key=lambda symbol: (abs(2 * symbol - (alphabet - 1)), symbol))
    return [f for _, f in sorted(zip(order, scaled, strict=True))]


def packed(single: list[int], k: int) -> list[int]:
    if k == 1:
        return single
    weights = [f << 16 for f in single]
    for _ in range(k - 1):
        weights = [max(f * w >> 14, 1) if f * w else 0 for f in single for w in weights]
    return normalise(weights, TOTAL)


# -- the coded section -------------------------------------------------------------------------------------------------


def read_symbols(coded: Cursor, plans: list[tuple[Any, ...]], zero: int, huffman: bool) -> list[list[int]]:
    sequences = [sequence for plan in plans for sequence in plan[3]]
    uncertain = [(length, f) for length, f, _, _ in sequences if max(f) < TOTAL]
    found = iter((read_huffman if huffman else read_rans)(coded, uncertain) if uncertain else [])
    out = []
    for kind, entries, facts, parts, raw_size in plans:
        read = []
        for length, f, factor, alphabet in parts:
            symbols = next(found) if max(f) < TOTAL else [f.index(TOTAL)] * length
            read.append([symbol // alphabet**i % alphabet for symbol in symbols for i in range(factor)])
        raw = Cursor(coded.take(raw_size))
        out.append(place(kind, entries, facts, read, raw, zero))
    assert not coded.rest()
    return out


def place(kind: str, entries: int, facts: Any, read: list[list[int]], raw: Cursor, zero: int) -> list[int]:
    if kind == "zero":
        return [zero] * entries
    if kind == "classed":
        joined, start = [zero] * entries, 0
        for where, (own, count, own_facts, sequences, _) in zip(*facts, strict=True):
            symbols = place(own, count, own_facts, read[start : start + len(sequences)], raw, zero)
            start += len(sequences)
            for at, symbol in zip(where, symbols, strict=True):
                joined[at] = symbol
        return joined
    m = facts[0]
    if kind == "dense":
        return [symbol - m + zero for symbol in read[0][:entries]]
    symbols = [zero] * entries
    if kind == "listed by gaps":
        for position, level in facts[1]:
            symbols[position] = zero + level
        return symbols
    if kind == "listed":
        _, count, widths = facts
        fields = list(raw.bits(width for _ in range(count) for width in widths))
        positions, levels = fields[::2], fields[1::2]
    else:
        _, count, shift = facts
        if kind == "joined":
            bits = list(raw.bits(1 for _ in range(count * shift)))
            lows = [sum(bits[shift * i + bit] << bit for bit in range(shift)) for i in range(count)]
        else:
            planes = [raw.take(-(-count // 8)) for _ in range(shift)]
            lows = [
                sum((plane[i // 8] >> (7 - i % 8) & 1) << bit for bit, plane in enumerate(planes)) for i in range(count)
            ]
        positions, levels, position, index = [], read[1], 0, 0
        for token in read[0]:
            position += token << shift
            if token < 63:
                position += lows[index]
                positions.append(position)
                position, index = position + 1, index + 1
    for position, level in zip(positions, levels, strict=False):
        symbols[position] = zero + level - m + (level >= m)
    return symbols


def read_rans(coded: Cursor, sequences: list[tuple[int, list[int]]]) -> list[list[int]]:
    lanes = 1 << coded.number(1)
    per_chunk = coded.varint()
    rows = [(k, min(lanes, n - i)) for k, (n, _) in enumerate(sequences) for i in range(0, n, lanes)]
    chunks = [rows[i : i + per_chunk] for i in range(0, len(rows), per_chunk)]
    words_by_chunk = [coded.varint() for _ in chunks]
    out: list[list[int]] = [[] for _ in sequences]
    sums = [[sum(f[:i]) for i in range(len(f))] for _, f in sequences]
    slots = [[s for s, count in enumerate(f) for _ in range(count)] for _, f in sequences]
    for chunk, words in zip(chunks, words_by_chunk, strict=True):
        states = [coded.number(4) for _ in range(lanes)]
        stream = Cursor(coded.take(2 * words))
        for k, used in chunk:
            for lane in range(used):
                slot = states[lane] % TOTAL
                symbol = slots[k][slot]
                x = sequences[k][1][symbol] * (states[lane] >> 14) + slot - sums[k][symbol]
                states[lane] = x if x >= 1 << 16 else (x << 16) + stream.number(2)
                out[k].append(symbol)
        assert states == [1 << 16] * lanes
        assert not stream.rest()
    return out


def read_huffman(coded: Cursor, sequences: list[tuple[int, list[int]]]) -> list[list[int]]:
    per_segment = coded.varint()
    pieces = [(k, min(per_segment, n - i)) for k, (n, _) in enumerate(sequences) for i in range(0, n, per_segment)]
    sizes = [coded.varint() for _ in pieces]
    codes = [huffman_code(f) for _, f in sequences]
    out: list[list[int]] = [[] for _ in sequences]
    for (k, count), size in zip(pieces, sizes, strict=True):
        bits = "".join(f"{byte:08b}" for byte in coded.take(size))
        start, word = 0, ""
        for _ in range(count):
            while word not in codes[k]:
                word, start = word + bits[start], start + 1
            out[k].append(codes[k][word])
            word = ""
        assert len(bits) - start < 8
    return out


def huffman_code(frequencies: list[int]) -> dict[str, int]:
    coins = sorted((f, (symbol,)) for symbol, f in enumerate(frequencies) if f)
    packages: list[tuple[int, tuple[int, ...]]] = list(coins)
    for _ in range(13):
        pairs = zip(packages[::2], packages[1::2], strict=False)
        packages = sorted([*coins, *((a[0] + b[0], a[1] + b[1]) for a, b in pairs)])
    chosen = [symbol for _, symbols in packages[: 2 * len(coins) - 2] for symbol in symbols]
    lengths = sorted((chosen.count(symbol), symbol) for _, (symbol,) in coins)
    code, word, before = {}, 0, 0
    for length, symbol in lengths:
        word <<= length - before
        code[f"{word:0{length}b}"] = symbol
        word, before = word + 1, length
    return code
