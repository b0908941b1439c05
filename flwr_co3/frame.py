"""The byte layout of a frame, the public contract; ``docs/frame.md`` documents it byte by byte."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.compress import (
    CODERS,
    MAX_MAGNITUDE,
    Grid,
    Levels,
    Model,
    Part,
    Plan,
    ZeroModel,
    divisible,
    likely_size,
    lowest_version,
    read_model,
    read_stream,
    write_levels,
    write_stream,
)
from flwr_co3.compress.frequencies import TOTAL
from flwr_co3.compress.tables import decode_positives, encode_positives
from flwr_co3.convert import Codes, FloatFormat, largest_number, magnitude_values, points_of
from flwr_co3.errors import FrameError
from flwr_co3.schemes.body import Body, Sections
from flwr_co3.wire import BitReader, Reader, Writer, inflate, unzigzag, varint, write_bits, zigzag

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

MAGIC = b"CO3"
VERSION = 4  # the highest of one layer; of those that can say what is in a frame, the lowest is written
LAYERED = 5  # of layers: frames of lower versions, each but the first for what those before it lost
MAX_LAYERS = 3
_CHECKSUM_BYTES = 4
EMPTY = b"\x00"  # the empty update: no tensor at all, for budgets that hold nothing else

#: A dtype's place is its code on the wire.
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
)
_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
LOSSY_DTYPES = ("float16", "float32", "float64", "bfloat16")
_FINE_DTYPES = ("float32", "float64")  # that hold more than one layer can say

#: Tensors of so many entries or fewer share one model: a model of their own would cost more than it gains.
POOLED_ENTRIES = 1024

_HUFFMAN, _TABLE_DEFLATED, _EXACT_DEFLATED, _COMMON_SCALE, _OWN_SCALES = 1, 2, 4, 8, 16
_KNOWN_TABLE = 32
_CENTROIDS = 64
_SCHEME = 128  # the tensors are coded by another scheme than CO3
# Of a second byte of flags, which follows the first where the table is known.
_SHORT_SCALE, _ONE_GROUP, _EXACT_MARKED = 1 << 8, 1 << 9, 1 << 10
_FORMAT_SHIFT = 11
_FLAGS = (31, *[31 | _KNOWN_TABLE | _CENTROIDS | _SCHEME] * (VERSION - 1))  # of the first byte, that the versions know
#: A format's place, from 1, is its number where the table is known; 0 stands for any other.
_FORMATS = ("fp4", "fp8", "fp8_143", "e2m1", "e4m3", "e5m2", "uniform", "e2m5", "e3m4")
_EXACT = 0x80  # of a dtype's byte
MAX_TENSORS = 1 << 16
_MAX_TABLE_BYTES = 1 << 24
_MAX_KNOWN_TABLE_BYTES = 1 << 16  # of the tables that are remembered: some thousand tensors
_MAX_DIMENSIONS = 64 if int(np.__version__.partition(".")[0]) > 1 else 32  # as many as this numpy has
_MAX_ENTRIES = 1 << 48
# Without a word from the receiver: enough for any real update, and no gigabyte for a kilobyte.
_DEFAULT_MAX_BYTES = 1 << 28
_DEFAULT_MAX_RATIO = 4096
# What deflate may refer to before it has seen anything: parts of the names that models give their tensors.
_DICTIONARY = (
    b"num_batches_tracked.running_mean.running_var.embedding.attention.self_attn.in_proj_weight.out_proj.encoder."
    b"decoder.blocks.downsample.0.classifier.features.linear.head.norm1.norm2.conv1.conv2.conv3.bn1.bn2.bn3.fc1.fc2."
    b"layers.0.layer1.0.conv1.fc.weight.bias"
)


class TensorSpec(NamedTuple):
    """A tensor's dtype (a name, as numpy spells it) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Array) -> TensorSpec:
        """Specification of an array."""
        return cls(dtype_name(array.dtype), array.shape)

    @property
    def entries(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the decoded tensor takes."""
        return self.entries * _itemsize(self.dtype)


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of a dtype, which numpy puts together anew each time."""
    return dtype.name


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a name; bfloat16 comes with the package ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise FrameError(
            "The frame holds a bfloat16 tensor, and numpy knows this dtype only with the package ml_dtypes: install it."
        ) from error
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


@dataclass(frozen=True)
class Header:
    """All that a frame says before its numbers: what the tensors are, and how they were converted."""

    format: FloatFormat
    coder: str
    tensors: Mapping[str, TensorSpec]
    exact: frozenset[str]  # names of tensors that travel without loss
    known: bool = False  # whether the receiver has the table of tensors, and the frame only refers to it
    joined: bool = False  # with a known table: whether all tensors share one model

    @classmethod
    def of(
        cls,
        fmt: FloatFormat,
        coder: str,
        tensors: Mapping[str, TensorSpec],
        exact: frozenset[str],
        known: bool = False,
        joined: bool = False,
    ) -> Header:
        """Make a header, or return the one of the same model's last updates, with all that was worked out for it."""
        return _known_header(fmt, coder, tuple(tensors.items()), exact, known, joined)

    def with_format(self, fmt: FloatFormat) -> Header:
        """Return a header for the same tensors in another format."""
        return Header.of(fmt, self.coder, self.tensors, self.exact, self.known, self.joined)

    def as_one_group(self) -> Header:
        """Return a header for the same tensors, all of them in one group."""
        return Header.of(self.format, self.coder, self.tensors, self.exact, self.known, joined=True)

    @cached_property
    def entries(self) -> int:
        """Entries of all tensors."""
        return sum(spec.entries for spec in self.tensors.values())

    @cached_property
    def nbytes(self) -> int:
        """Bytes that the decoded tensors take."""
        return sum(spec.nbytes for spec in self.tensors.values())

    @cached_property
    def exact_bytes(self) -> int:
        """Bytes of those that travel without loss."""
        return sum(self.tensors[name].nbytes for name in self.exact)

    @cached_property
    def table(self) -> tuple[bytes, int | None]:
        """The table of tensors and, if it is deflated, how many bytes it has inflated."""
        table = _write_format(self.format) + _write_tensors(self.tensors, self.exact)
        deflated = _deflate(table)
        smaller = len(deflated) + 3 < len(table) <= _MAX_TABLE_BYTES
        return (deflated, len(table)) if smaller else (table, None)

    @cached_property
    def reference(self) -> tuple[bytes, int]:
        """What stands in place of a table that the receiver knows, and the flags that say how to read it."""
        out = Writer(_table_checksum(self))
        number = next((n for n, name in enumerate(_FORMATS, start=1) if FloatFormat(name) == self.format), 0)
        if not number:
            out += _write_format(self.format)
        flags = _KNOWN_TABLE | _ONE_GROUP * self.joined | number << _FORMAT_SHIFT
        doubtful = _doubtful(self.tensors)
        if not self.exact.isdisjoint(doubtful):
            out += write_bits([(name in self.exact, 1) for name in doubtful])
            flags |= _EXACT_MARKED
        return bytes(out), flags

    @cached_property
    def groups(self) -> list[list[str]]:
        """Names of the tensors that share a model.

        Each large one by itself, and the small ones together at the end; or all of them in this order.
        """
        lossy = {n: spec.entries for n, spec in self.tensors.items() if n not in self.exact and spec.entries}
        large = [[name] for name, entries in lossy.items() if entries > POOLED_ENTRIES]
        small = [name for name, entries in lossy.items() if entries <= POOLED_ENTRIES]
        groups = [*large, small] if small else large
        return [[name for group in groups for name in group]] if self.joined and groups else groups

    @cached_property
    def group_members(self) -> list[range]:
        """The same, as places in `lossy`."""
        ends = [0, *itertools.accumulate(map(len, self.groups))]
        return [range(start, stop) for start, stop in itertools.pairwise(ends)]

    def group_sums(self, values: Array) -> Array:
        """Sums over the tensors of each group of what each tensor has, in the order of `lossy`."""
        starts = [members.start for members in self.group_members]
        return np.add.reduceat(values, starts) if starts else values

    @cached_property
    def group_entries(self) -> list[int]:
        """Entries of each group."""
        return [sum(self.tensors[name].entries for name in group) for group in self.groups]

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Each converted tensor's group, and where in it its entries begin."""
        places = {}
        for group, names in enumerate(self.groups):
            first = 0
            for name in names:
                places[name] = group, first
                first += self.tensors[name].entries
        return places

    @cached_property
    def lossy(self) -> list[str]:
        """Names of the tensors that are converted and have entries, in the order of the groups."""
        return [name for group in self.groups for name in group]

    @cached_property
    def fine(self) -> dict[str, TensorSpec]:
        """Those of them that more layers than one can have, by their names."""
        specs = {name: self.tensors[name] for name in sorted(self.lossy)}
        return {name: spec for name, spec in specs.items() if spec.dtype in _FINE_DTYPES}


def lossy_names(tensors: Mapping[str, TensorSpec], exact: Collection[str]) -> list[str]:
    """Names of the tensors that are not exact and have entries, in the order in which frames code them."""
    return Header(FloatFormat("fp4"), "rans", tensors, frozenset(exact)).lossy


@lru_cache(maxsize=8)
def _known_header(
    fmt: FloatFormat,
    coder: str,
    tensors: tuple[tuple[str, TensorSpec], ...],
    exact: frozenset[str],
    known: bool,
    joined: bool,
) -> Header:
    return Header(fmt, coder, dict(tensors), exact, known, joined)


def _doubtful(tensors: Mapping[str, TensorSpec]) -> list[str]:
    """Names of the tensors that may be exact or not, as their type leaves it open."""
    return [name for name, spec in tensors.items() if spec.dtype in LOSSY_DTYPES]


def values_of(points: Floats, scales: npt.ArrayLike, dtype: str) -> Array:
    """What each symbol decodes to in tensors of these scales and this dtype, as the last of the dimensions.

    `points` are what the magnitudes stand for, in units of the levels. Values beyond the dtype's range become its
    largest number.
    """
    magnitudes = magnitude_values(points, scales, dtype)
    return np.concatenate([-magnitudes[..., :0:-1], magnitudes], axis=-1).astype(numpy_dtype(dtype))


# -- writing ----------------------------------------------------------------------------------------------------------


class ExactSection(NamedTuple):
    """The tensors that travel without loss, as a frame has them."""

    data: bytes
    flags: int

    @classmethod
    def of(cls, tensors: Iterable[Array]) -> ExactSection:
        """Write tensors, in the order of the header."""
        raw = b"".join(_little_endian(tensor) for tensor in tensors)
        smaller = zlib.compress(raw, 6) if raw else raw  # even for nothing, zlib prepares tables
        return cls(smaller, _EXACT_DEFLATED) if len(smaller) < len(raw) else cls(raw, 0)


class Draft(NamedTuple):
    """A frame but for its symbols, which are still to be coded."""

    front: list[bytes]  # all that comes before them
    plans: list[Plan]
    coder: str

    @property
    def likely_size(self) -> int:
        """Bytes that the frame is likely to have: exact but for the symbols."""
        return sum(map(len, self.front)) + round(likely_size(self.plans, self.coder)) + _CHECKSUM_BYTES

    def parts(self) -> list[bytes]:
        """Code the symbols, and return the frame in parts, to be joined when what it was made of has gone."""
        return _with_checksum([*self.front, *write_stream(self.plans, self.coder)])


def draft(header: Header, scales: Floats, plans: list[Plan], exact: ExactSection, codes: Codes | None = None) -> Draft:
    """Write what comes before the symbols of a frame.

    Parameters
    ----------
    header : Header
        What is in it.
    scales : ndarray of float64
        The scale of each tensor that is converted, in the header's order: one number of any kind, and others of 16
        bits.
    plans : list of Plan
        How each group is coded.
    exact : ExactSection
        The tensors that travel without loss.
    codes : ndarray of int8, shape (groups, zero), optional
        Where each group's magnitudes decode to other points than their levels; see `points_of`.
    """
    models = Writer()
    more, version = _write_scales(models, scales, header.known, lowest_version(plans))
    flags = _HUFFMAN * (header.coder == "huffman") | more
    if codes is not None and codes.any():
        flags |= _CENTROIDS
    for group, plan in enumerate(plans):
        models += plan.header
        if flags & _CENTROIDS and codes is not None and not plan.is_zero:
            _write_codes(models, codes[group])
    return Draft(_front(header, flags, bytes(models), exact, version), plans, header.coder)


def layered(layers: Sequence[bytes]) -> bytes:
    """Put frames together into one that decodes to their sum.

    Parameters
    ----------
    layers : sequence of bytes
        Two or three frames. All but the first are of its `Header.fine` tensors, for a receiver who knows them: each is
        what those before it lost.
    """
    out = Writer(MAGIC + bytes([LAYERED, len(layers)]))
    for layer in layers:
        out.block(_unwrapped(layer))
    return b"".join(_with_checksum([bytes(out)]))


def room_beside(layer: bytes, budget: int) -> int:
    """Bytes that another layer may have, or several together, within a budget."""
    own = len(layer) - len(MAGIC) - _CHECKSUM_BYTES  # which each layer leaves out; the frame has its own
    return budget - 2 - len(varint(own)) - own - len(varint(budget))  # version and number of layers take a byte each


def layers_of(frame: bytes) -> list[bytes]:
    """Return the frames that one of several layers was made of, or the frame itself.

    Raises
    ------
    FrameError
        If they can't be told apart, or the frame is damaged.
    """
    if bytes(frame[: len(MAGIC) + 1]) != MAGIC + bytes([LAYERED]):
        return [frame]
    _check_ends(frame)
    reader = Reader(_unwrapped(frame)[1:], "frame of layers")
    count = reader.u8()
    if not 2 <= count <= MAX_LAYERS:
        raise FrameError(f"The frame claims {count} layers; there are 2 to {MAX_LAYERS}.")
    parts = [bytes(reader.block()) for _ in range(count)]
    reader.finish()
    if any(part[:1] == bytes([LAYERED]) for part in parts):
        raise FrameError("A layer of the frame claims to have layers.")
    return [b"".join(_with_checksum([MAGIC, part])) for part in parts]


def _unwrapped(frame: bytes) -> bytes:
    return frame[len(MAGIC) : -_CHECKSUM_BYTES]


def write_scheme_frame(header: Header, sections: Sections, exact: ExactSection) -> bytes:
    """Put a frame of another scheme together.

    Parameters
    ----------
    header, exact
        As for `draft`; the header's format means nothing.
    sections : Sections
        What `flwr_co3.schemes.body.write_body` returned.
    """
    front = _front(header, _SCHEME, sections.models, exact, sections.version)
    return b"".join(_with_checksum([*front, *sections.coded]))


def _front(header: Header, flags: int, models: bytes, exact: ExactSection, version: int) -> list[bytes]:
    """What comes before the symbols, of a version that is at least this."""
    flags |= exact.flags
    body = Writer()
    if header.known:
        reference, more = header.reference
        flags |= more
        body += reference
    else:
        table, inflated = header.table
        if inflated is not None:
            flags |= _TABLE_DEFLATED
            body.varint(inflated)
        body.block(table)
    body.block(models)
    body.block(exact.data)
    start = (
        MAGIC + bytes([max(version, _version_for(flags & 0xFF))]) + flags.to_bytes(2 if header.known else 1, "little")
    )
    return [start, bytes(body)]


def _with_checksum(parts: list[bytes]) -> list[bytes]:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return [*parts, checksum.to_bytes(_CHECKSUM_BYTES, "little")]


def _version_for(flags: int) -> int:
    """The lowest version that knows what is in a frame, so that older readers can read what they might."""
    return next(version for version, known in enumerate(_FLAGS, start=1) if not flags & ~known)


def _write_codes(out: Writer, codes: npt.NDArray[np.int8]) -> None:
    """Write how many of a group's codes follow, and these; the others are 0."""
    used = int(np.flatnonzero(codes).max(initial=-1)) + 1
    out.u8(used)
    out += codes[:used].tobytes()


def _write_scales(out: Writer, scales: Floats, known: bool, version: int) -> tuple[int, int]:
    """Write the scales, and return the flags that say how, and the lowest version of the frame, at least this.

    The one that no 16 bits can hold is written in full, and a code of 0 refers to it; from version 4 on, a bit for each
    tensor says which have codes. Where the table is known, 24 bits are enough for it if they hold it.
    """
    flags = 0
    codes = encode_positives(scales)
    unlike = scales[decode_positives(codes) != scales]
    common: float | None = None
    if unlike.size or (scales.size > 4 and bool(np.all(scales == scales[0]))):
        common = float(unlike[0] if unlike.size else scales[0])
        flags |= _COMMON_SCALE
        data = np.float64(common).astype("<f8").tobytes()
        if known and common == short_scale(common):
            flags |= _SHORT_SCALE
            data = data[-_SHORT_BYTES:]
        out += data
    own = scales != common
    if not own.any():
        return flags, version
    marks = np.packbits(own, bitorder="little").tobytes()
    if common is not None and (version >= _MARKED or len(marks) < 2 * np.count_nonzero(~own)):
        out += marks + codes[own].astype("<u2").tobytes()
        return flags | _OWN_SCALES, max(version, _MARKED)
    out += np.where(own, codes, 0).astype("<u2").tobytes()
    return flags | _OWN_SCALES, version


def _read_scales(reader: Reader, count: int, flags: int, version: int) -> Floats:
    """Reverse `_write_scales`, for so many tensors."""
    common = None
    if flags & _COMMON_SCALE:
        size = _SHORT_BYTES if flags & _SHORT_SCALE else 8
        common = float(np.frombuffer(bytes(8 - size) + bytes(reader.take(size)), "<f8")[0])
        if not (math.isfinite(common) and common > 0):
            raise FrameError(f"The frame's scale is {common}, not a finite number above 0.")
    own = np.full(count, common is None)
    if flags & _OWN_SCALES and common is not None and version >= _MARKED:
        own = np.unpackbits(np.frombuffer(reader.take(-(-count // 8)), np.uint8), count=count, bitorder="little") > 0
        codes = np.frombuffer(reader.take(2 * int(np.count_nonzero(own))), "<u2")
    else:
        every = np.frombuffer(reader.take(2 * count), "<u2") if flags & _OWN_SCALES else np.zeros(count, "<u2")
        own |= every != 0
        codes = every[own]
    scales = np.full(count, common or 1.0)
    scales[own] = decode_positives(codes.astype(np.uint16))
    return scales


_MARKED = 4  # the version from which on bits say which tensors have scales of their own
_SHORT_BYTES = 3  # of a float64: sign and exponent, and 12 bits of mantissa


def short_scale(scale: float) -> float:
    """Round a positive scale down to one that 24 bits can hold, if there is one."""
    kept = np.float64(scale).view(np.int64) >> (64 - 8 * _SHORT_BYTES) << (64 - 8 * _SHORT_BYTES)
    return float(np.int64(kept).view(np.float64)) or scale


def _write_format(fmt: FloatFormat) -> bytes:
    out = Writer([fmt.exponent, fmt.mantissa, fmt.top_exponent])
    out.varint(zigzag(fmt.bias))
    out.varint(fmt.reserved)
    return bytes(out)


def _table_checksum(header: Header) -> bytes:
    """Two bytes by which both ends see that they mean the same table."""
    table = _write_format(header.format) + _write_tensors(header.tensors, header.exact)
    return (zlib.crc32(table) & 0xFFFF).to_bytes(2, "little")


def _write_tensors(tensors: Mapping[str, TensorSpec], exact: frozenset[str]) -> bytes:
    out = Writer()
    out.varint(len(tensors))
    names = [name.encode() for name in tensors]
    out += b"".join(part for name in names for part in (varint(len(name)), name))
    out += bytes(_CODES[spec.dtype] | (_EXACT if name in exact else 0) for name, spec in tensors.items())
    out += b"".join(varint(n) for spec in tensors.values() for n in (len(spec.shape), *spec.shape))
    return bytes(out)


def _deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=_DICTIONARY)
    return compressor.compress(data) + compressor.flush()


def _little_endian(tensor: Array) -> bytes:
    if tensor.dtype.byteorder == ">" or (tensor.dtype.byteorder == "=" and not np.little_endian):
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"))
    return tensor.tobytes()


# -- reading ----------------------------------------------------------------------------------------------------------


class FrameReader:
    """Reads a frame: at once what it holds, and each tensor when it is asked for.

    Parameters
    ----------
    frame : bytes
        The frame.
    like : mapping of str to TensorSpec, optional
        What the receiver expects: the same names, dtypes and shapes. The empty update passes too. A frame that was made
        for a receiver who knows the tensors can't be read without.
    max_bytes : int, optional
        Memory that the decoded tensors may take. By default what `like` takes or, without it, 256 MiB and 4 KiB more
        for each byte of the frame.

    Attributes
    ----------
    tensors : dict of str to TensorSpec
        What the frame holds, in its order or, if it only refers to them, in that of `like`; nothing for the empty
        update.
    exact : frozenset of str
        Names of the tensors that travelled without loss.

    Raises
    ------
    FrameError
        If the frame is damaged, of an unknown version, not as expected, or too large.
    """

    def __init__(
        self, frame: bytes, *, like: Mapping[str, TensorSpec] | None = None, max_bytes: int | None = None
    ) -> None:
        self.tensors: dict[str, TensorSpec] = {}
        self.exact: frozenset[str] = frozenset()
        self._levels: list[Levels] | None = None
        self._models: list[Model] = []
        self._scales: dict[str, float] = {}
        self._points: dict[str, Floats] = {}  # where they are not the levels
        self._body: Body | None = None
        self._vectors: dict[str, Array] | None = None
        self._finer: list[FrameReader] = []  # more layers, added to what this one decodes to
        if frame == EMPTY:
            self._header = Header(FloatFormat("fp4"), "rans", self.tensors, self.exact)
            return
        frame, *finer = layers_of(frame)
        flags, body = _open(frame)
        self._version = frame[3]
        if flags & _KNOWN_TABLE:
            self._header = header = _header_like(body, flags, like)
            self.tensors = {name: header.tensors[name] for name in like or ()}
        else:
            table = body.varint(_MAX_TABLE_BYTES) if flags & _TABLE_DEFLATED else None
            self._header = header = _header_of(body.block(), table, CODERS[flags & _HUFFMAN])
            self.tensors = dict(header.tensors)
            if like is not None:
                _check_like(self.tensors, like)
        self.exact = header.exact
        self._check_memory(len(frame), max_bytes, expected=like is not None)
        models = body.block()
        self._exact_data = _inflate_exact(body.block(), self._exact_bytes, bool(flags & _EXACT_DEFLATED))
        self._coded = body.take(body.left)
        if flags & _SCHEME:
            sizes = [self.tensors[name].entries for name in header.lossy]
            self._body = Body(models, self._coded, sizes, version=self._version)
        else:
            self._read_models(Reader(models, "section of models"), flags)
        self._finer = [self._read_finer(layer) for layer in finer]

    @property
    def body(self) -> Body | None:
        """What another scheme than CO3 coded, its vectors in the order of `lossy`; None in CO3's own frames."""
        return self._body

    @property
    def lossy(self) -> list[str]:
        """Names of the tensors that did not travel without loss and have entries, as they are coded."""
        return self._header.lossy

    def step(self, name: str) -> float | None:
        """What a tensor's levels are multiples of, in units of the update; None where it has none, or more layers."""
        scale = self._scales.get(name)
        return None if scale is None or self._finer else float(self._header.format.magnitudes[1]) / scale

    @property
    def _exact_bytes(self) -> int:
        return self._header.exact_bytes

    def _check_memory(self, frame_bytes: int, max_bytes: int | None, expected: bool) -> None:
        needed = self._header.nbytes
        allowed = max_bytes
        if allowed is None:
            allowed = needed if expected else _DEFAULT_MAX_BYTES + _DEFAULT_MAX_RATIO * frame_bytes
        if needed > allowed:
            raise FrameError(
                f"The frame's tensors take {needed} bytes, and {allowed} are allowed: if the sender is to be trusted, "
                "raise max_bytes."
            )
        # Each group may need two look-up tables to decode.
        if not expected and 2 * TOTAL * len(self._header.groups) > max(allowed, _DEFAULT_MAX_BYTES):
            raise FrameError(f"The frame has {len(self._header.groups)} groups of tensors, more than its size allows.")

    def _read_finer(self, frame: bytes) -> FrameReader:
        """Open another layer: of CO3's own code, and of nothing but what can be finer."""
        if self._body is None:
            finer = FrameReader(frame, like=self._header.fine)
            if finer.tensors and not finer.exact and finer.body is None:
                return finer
        raise FrameError("A layer of the frame is none: it must be of levels, and of tensors of the first one.")

    def _read_models(self, reader: Reader, flags: int) -> None:
        header = self._header
        scales = _read_scales(reader, len(header.lossy), flags, self._version)
        self._scales = dict(zip(header.lossy, scales.tolist(), strict=True))
        fmt = header.format
        zero, edges, packed = fmt.zero, fmt.edges, header.coder == "rans"
        for group, entries in zip(header.groups, header.group_entries, strict=True):
            grid = Grid.of(self.tensors[group[0]].shape) if self._version > 1 and len(group) == 1 else None
            model = read_model(reader, entries, zero, edges, packed, grid, version=self._version)
            self._models.append(model)
            if flags & _CENTROIDS and not isinstance(model, ZeroModel):
                self._points.update(dict.fromkeys(group, points_of(fmt, _read_codes(reader, zero))))
        reader.finish()

    def read(self, name: str) -> Array:
        """Decode one tensor.

        The first tensor that is not exact decodes the levels of all, and keeps them, in at most one byte an entry,
        until `close`.

        Parameters
        ----------
        name : str
            One of `tensors`.

        Returns
        -------
        ndarray
            A new array of the tensor's dtype and shape.

        Raises
        ------
        FrameError
            If the coded stream is not what the header says.
        """
        return self._arrays([name])[name]

    def read_all(self) -> dict[str, Array]:
        """Decode all tensors, in the order of `tensors`; see `read`. Faster than one by one where there are many."""
        return self._arrays(self.tensors)

    def _arrays(self, names: Iterable[str]) -> dict[str, Array]:
        found, outs = {}, {}
        for name in names:
            spec = self.tensors[name]
            dtype = numpy_dtype(spec.dtype)
            if name in self.exact:
                found[name] = self._read_exact(name).astype(dtype).reshape(spec.shape)
            else:
                outs[name] = np.empty(spec.entries, dtype)
                found[name] = outs[name].reshape(spec.shape)
        self._write(outs)
        return found

    def add_to(self, total: Mapping[str, Array], weight: float = 1.0) -> None:
        """Add the update, times a weight, to arrays in place, without an array for the update itself.

        Parameters
        ----------
        total : mapping of str to ndarray
            Contiguous arrays of the tensors' dtypes and shapes. Tensors that are not in it are left out; exact
            tensors must not be in it, since they carry no update.
        weight : float (default: 1.0)
            What the update is multiplied by.

        Raises
        ------
        ValueError
            If an array does not fit its tensor.
        FrameError
            If the coded stream is not what the header says; nothing has been added then.
        """
        if not self.tensors:  # the empty update adds nothing
            return
        for name, array in total.items():
            spec, flags = self.tensors.get(name), array.flags
            fits = flags.c_contiguous and flags.writeable and (dtype_name(array.dtype), array.shape) == spec
            if name in self.exact or not fits:
                raise ValueError(
                    f"Tensor {name!r} can't be added: it must travel as an update in this frame, and its total must be "
                    "contiguous, writable, and of its dtype and shape."
                )
        self._write({name: array.reshape(-1) for name, array in total.items()}, weight)

    def _write(self, outs: Mapping[str, Array], weight: float | None = None) -> None:
        """Write what tensors decode to, or add it with a weight."""
        outs = {name: out for name, out in outs.items() if out.size}
        if not outs:
            return
        if self._body is not None:
            vectors = self._decoded(self._body)
            for name, out in outs.items():
                if weight is None:
                    out[:] = vectors[name]
                else:
                    out += vectors[name] * vectors[name].dtype.type(weight)
            return
        levels, values, parts = self._decode_levels(), self._values(outs, weight), []
        for name, out in outs.items():
            if name not in values:
                points = self._points.get(name, self._header.format.magnitudes)
                new = values_of(points, self._scales[name], self.tensors[name].dtype)
                values[name] = new if weight is None else new * new.dtype.type(weight)
            group, first = self._header.places[name]
            parts.append(Part(levels[group], first, values[name], out))
        write_levels(parts, add=weight is not None)
        for layer in self._finer:
            fine = {name: out for name, out in outs.items() if name in layer.tensors}
            with np.errstate(over="ignore"):
                layer._write(fine, 1.0 if weight is None else weight)
            for name, out in fine.items():
                limit = largest_number(self.tensors[name].dtype)
                if weight is None and self._reach(name) + layer._reach(name) > limit / MAX_LAYERS:
                    np.clip(out, -limit, limit, out=out)

    def _reach(self, name: str) -> float:
        """A number that no value of a tensor exceeds."""
        return 2 * float(self._header.format.magnitudes[-1]) / self._scales[name]  # a centroid may lie beyond its level

    def _decode_levels(self) -> list[Levels]:
        """Decode the levels of all layers, and keep them; return those of the first."""
        if self._levels is None:
            self._levels = self._decode()
        for layer in self._finer:
            layer._decode_levels()
        return self._levels

    def verify(self) -> None:
        """Decode all levels, and raise FrameError unless that works."""
        for dtype in {spec.dtype for spec in self.tensors.values()}:
            numpy_dtype(dtype)
        for name in self.exact:
            if self.tensors[name].dtype == "bool" and self._read_exact(name).view(np.uint8).max(initial=0) > 1:
                raise FrameError(f"Tensor {name!r} is boolean and holds a byte that is neither 0 nor 1.")
        if self._body is not None:
            self._decoded(self._body)
        elif self._header.lossy:
            self._decode_levels()

    def close(self) -> None:
        """Drop the decoded levels; `read` makes them anew."""
        self._levels = self._vectors = None
        for layer in self._finer:
            layer.close()

    def _read_exact(self, name: str) -> Array:
        dtype = numpy_dtype(self.tensors[name].dtype).newbyteorder("<")
        return np.frombuffer(self._exact_data, dtype, self.tensors[name].entries, self._exact_starts[name])

    @cached_property
    def _exact_starts(self) -> dict[str, int]:
        """Where each exact tensor's bytes begin."""
        names = [name for name in self._header.tensors if name in self.exact]
        ends = itertools.accumulate(self.tensors[name].nbytes for name in names)
        return dict(zip(names, [0, *ends], strict=False))

    def _values(self, wanted: Iterable[str], weight: float | None) -> dict[str, Array]:
        """What each symbol decodes to in those of some tensors that are float32, times a weight."""
        rows, all_values = self._float32_values
        names = [name for name in wanted if name in rows]
        values = all_values[[rows[name] for name in names]]
        if weight is not None:
            values *= np.float32(weight)
        return dict(zip(names, values, strict=True))

    @cached_property
    def _float32_values(self) -> tuple[dict[str, int], Array]:
        """Rows of float32 tensors, and their values: all at once, since there may be hundreds of tensors."""
        names = [name for name in self._scales if self.tensors[name].dtype == "float32"]
        levels = self._header.format.magnitudes
        points = np.array([self._points.get(name, levels) for name in names]) if self._points else levels
        values = values_of(points, np.array([self._scales[name] for name in names]), "float32")
        return {name: row for row, name in enumerate(names)}, values

    def _decoded(self, body: Body) -> dict[str, Array]:
        """Tensors of another scheme, flat; they are kept until `close`."""
        if self._vectors is None:
            names = self._header.lossy
            self._vectors = {
                name: narrowed(vector, self.tensors[name].dtype)
                for name, vector in zip(names, body.vectors(), strict=True)
            }
        return self._vectors

    def _decode(self) -> list[Levels]:
        levels = read_stream(self._coded, self._models, self._header.coder)
        shared = (len(names) > 1 for names in self._header.groups)
        return [divisible(own) if several else own for own, several in zip(levels, shared, strict=True)]


def narrowed(vector: Floats, dtype: str) -> Array:
    """Return a vector in the type of its tensor; what is beyond its range becomes its largest number."""
    limit = largest_number(dtype)
    return np.clip(vector, -limit, limit).astype(numpy_dtype(dtype))


def _open(frame: bytes) -> tuple[int, Reader]:
    """Check a frame's ends, and return its flags and what lies between."""
    _check_ends(frame)
    flags = frame[4]
    if flags & ~_FLAGS[frame[3] - 1]:
        raise FrameError(f"The frame has flags {flags:#04x}, some of which this version doesn't know.")
    reader = Reader(memoryview(frame)[5:-_CHECKSUM_BYTES], "frame")
    if flags & _KNOWN_TABLE:
        flags |= reader.u8() << 8
    return flags, reader


def _check_ends(frame: bytes) -> None:
    if bytes(frame[:3]) != MAGIC:
        raise FrameError(f"This is no CO3 frame: it begins with {bytes(frame[:3])!r} instead of {MAGIC!r}.")
    if len(frame) < len(MAGIC) + 6:
        raise FrameError(f"The frame is cut: {len(frame)} bytes are too few for any frame.")
    newest = max(VERSION, LAYERED)
    if not 1 <= frame[3] <= newest:
        raise FrameError(
            f"The frame has version {frame[3]}, and this flwr-co3 reads versions 1 to {newest}: update the older side."
        )
    if zlib.crc32(memoryview(frame)[:-_CHECKSUM_BYTES]) != int.from_bytes(frame[-_CHECKSUM_BYTES:], "little"):
        raise FrameError("The frame is damaged: its checksum does not match its bytes.")


def _header_of(table: memoryview, inflated: int | None, coder: str) -> Header:
    """Read a table of tensors; that of the model which the last frames had is known."""
    if max(len(table), inflated or 0) > _MAX_KNOWN_TABLE_BYTES:
        return _read_table(table, inflated, coder)
    return _known_table(bytes(table), inflated, coder)


def _read_codes(reader: Reader, zero: int) -> npt.NDArray[np.int8]:
    """Reverse `_write_codes`."""
    used = reader.u8()
    if used > zero:
        raise FrameError(f"A group of tensors has {used} centroids, and its format {zero} levels above 0.")
    codes = np.zeros(zero, np.int8)
    codes[:used] = np.frombuffer(reader.take(used), np.int8)
    return codes


def _header_like(reader: Reader, flags: int, like: Mapping[str, TensorSpec] | None) -> Header:
    """Make the header of a frame that only refers to its table: the receiver has it."""
    if like is None:
        raise FrameError(
            "The frame refers to a table of tensors that its receiver knows, and so can't be read by itself: give the "
            "model's tensors as `like`."
        )
    if flags & _TABLE_DEFLATED:
        raise FrameError("The frame claims to have a deflated table of tensors, and none.")
    checksum = bytes(reader.take(2))
    number = flags >> _FORMAT_SHIFT
    if number > len(_FORMATS):
        raise FrameError(f"The frame has a number format, number {number}, that this version doesn't know.")
    fmt = FloatFormat(_FORMATS[number - 1]) if number else _read_format(reader)
    tensors = dict(sorted(like.items()))
    exact = {name for name, spec in tensors.items() if spec.dtype not in LOSSY_DTYPES}
    if flags & _EXACT_MARKED:
        doubtful, bits = _doubtful(tensors), BitReader(reader)
        exact |= {name for name in doubtful if bits.bits(1)}
    header = Header.of(fmt, CODERS[flags & _HUFFMAN], tensors, frozenset(exact), True, bool(flags & _ONE_GROUP))
    if header.reference[0][:2] != checksum:
        raise FrameError(
            "The frame refers to another table of tensors than that of the receiver's model: names, dtypes, shapes or "
            "which of them are exact differ. Do sender and receiver have the same model?"
        )
    return header


def _inflate_exact(data: memoryview, size: int, deflated: bool) -> bytes:
    raw = _inflate(data, size, zlib.decompressobj(), "exact tensors") if deflated else bytes(data)
    if len(raw) != size:
        raise FrameError(f"The exact tensors have {len(raw)} bytes, and their shapes need {size}.")
    return raw


def _inflate(data: memoryview, size: int, inflater: Any, what: str) -> bytes:
    """Inflate to exactly `size` bytes."""
    try:
        raw = inflate(data, size, inflater)
    except zlib.error as error:
        raise FrameError(f"The {what} can't be inflated: {error}.") from error
    if raw is None:
        raise FrameError(f"The {what} doesn't inflate to the {size} bytes that the frame says.")
    return raw


def _read_table(table: memoryview, inflated: int | None, coder: str) -> Header:
    if inflated is not None:
        table = memoryview(_inflate(table, inflated, zlib.decompressobj(-15, zdict=_DICTIONARY), "table of tensors"))
    reader = Reader(table, "table of tensors")
    fmt = _read_format(reader)
    count = reader.varint(min(MAX_TENSORS, reader.left))
    names = [_read_name(reader) for _ in range(count)]
    if len(set(names)) != count:
        raise FrameError("The frame names a tensor twice.")
    kinds = bytes(reader.take(count))
    tensors, exact = {}, set()
    for name, kind in zip(names, kinds, strict=True):
        code = kind & ~_EXACT
        if code >= len(DTYPES):
            raise FrameError(f"Tensor {name!r} has a dtype, number {code}, that this version doesn't know.")
        if kind & _EXACT:
            exact.add(name)
        elif DTYPES[code] not in LOSSY_DTYPES:
            raise FrameError(f"Tensor {name!r} is {DTYPES[code]} and not marked exact.")
        shape = tuple(reader.varint(_MAX_ENTRIES) for _ in range(reader.varint(_MAX_DIMENSIONS)))
        tensors[name] = TensorSpec(DTYPES[code], shape)
        if math.prod(size for size in shape if size) > _MAX_ENTRIES:
            raise FrameError(f"Tensor {name!r} claims the shape {shape}.")
    reader.finish()
    return Header(fmt, coder, tensors, frozenset(exact))


@lru_cache(maxsize=8)
def _known_table(table: bytes, inflated: int | None, coder: str) -> Header:
    return _read_table(memoryview(table), inflated, coder)


def _read_format(reader: Reader) -> FloatFormat:
    exponent, mantissa, top_exponent = reader.take(3)
    bias, reserved = reader.varint(1 << 10), reader.varint(1 << 16)
    if top_exponent > 1:
        raise FrameError("The frame's number format is malformed.")
    try:
        fmt = FloatFormat(
            exponent=exponent,
            mantissa=mantissa,
            bias=unzigzag(bias),
            top_exponent=bool(top_exponent),
            reserved=reserved,
        )
    except ValueError as error:
        raise FrameError(f"The frame's number format can't be: {error}") from error
    if fmt.zero > MAX_MAGNITUDE:
        raise FrameError(f"The frame's number format {fmt} has more than 255 levels.")
    return fmt


def _read_name(reader: Reader) -> str:
    try:
        return str(reader.block(), "utf-8")
    except UnicodeDecodeError as error:
        raise FrameError("A tensor's name is not UTF-8.") from error


def _check_like(tensors: Mapping[str, TensorSpec], like: Mapping[str, TensorSpec]) -> None:
    if tensors == like:
        return
    for name, spec in like.items():
        if name not in tensors:
            raise FrameError(f"The frame lacks tensor {name!r}, which the receiver's model has.")
        if tensors[name] != spec:
            found = tensors[name]
            raise FrameError(
                f"Tensor {name!r} is {found.dtype} of shape {found.shape}, and the receiver's model has {spec.dtype} "
                f"of shape {spec.shape}."
            )
    for name in tensors:
        if name not in like:
            raise FrameError(f"The frame holds tensor {name!r}, which the receiver's model lacks.")
