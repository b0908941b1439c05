"""The pipeline in one screen: an update is converted, compressed, and becomes a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from flwr_co3.budget import CONVERSIONS, Steady, largest_within
from flwr_co3.by_scheme import encode as encode_by_scheme
from flwr_co3.compress import Grid, Group, Plan, plan_all
from flwr_co3.compress.frequencies import COST_BITS
from flwr_co3.config import CO3Config
from flwr_co3.convert import Cells, Converted, FloatFormat, Thinning, convert, keep
from flwr_co3.correct import ErrorMemory
from flwr_co3.encoded import Encoded, Losses, units_of, weighted
from flwr_co3.frame import EMPTY, Draft, FrameReader, TensorSpec, draft, room_beside, short_scale
from flwr_co3.moments import BLOCK
from flwr_co3.schemes.scheme import SERVER, Scheme
from flwr_co3.sizes import Sizes, saved_share, suited
from flwr_co3.update import Update, is_exact

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


# Another layer follows where one leaves so much of a budget, at its optimal scales or at others, and so many bytes, and
# lost more than float32 does. Where a budget is so many times what the finest format takes at its optimal scales, the
# layer has even levels instead, which reach all values, if another one may follow: a second one sooner than the first,
# since its bits are told less well, and nothing follows the third.
_LEFT_AT_BEST, _LEFT, _ROOM, _ROUNDING = 0.01, 0.03, 64, 1e-14
_BEYOND, _BEYOND_LATER, _EVEN = 1.05, 0.9, FloatFormat("uniform")


@dataclass(frozen=True, eq=False)
class _Attempt:
    """An update at one choice of scales: converted and planned, and coded when its bytes are asked for."""

    draft: Draft
    scales: Floats
    cells: Cells | None  # of each group
    converted: Converted
    losses: Losses
    error: float  # squared and weighted, of all tensors, in units of the largest peak

    @cached_property
    def likely_size(self) -> int:
        """Bytes that the frame is likely to have."""
        return self.draft.likely_size

    @cached_property
    def parts(self) -> list[bytes]:
        """The frame, in parts."""
        return self.draft.parts()

    @property
    def size(self) -> int:
        """Bytes of the frame."""
        return sum(map(len, self.parts))


class _Thinned:
    """A finer attempt, with level 0 for some of the entries that have it in a coarser one, or of any."""

    def __init__(self, codec: Codec, update: Update, finer: _Attempt, coarser: _Attempt | None) -> None:
        self._codec, self._update, self._finer = codec, update, finer
        self._thinning = Thinning(
            *(update.header.format, update.sources, update.decay, finer.scales, units_of(update)),
            *(finer.converted, None if coarser is None else coarser.converted),
            cells=_of_tensors(finer.cells, update),
        )

    def __len__(self) -> int:
        return len(self._thinning)

    def keeping(self, kept: npt.NDArray[np.bool_], finer: float = 1.0) -> _Attempt:
        """Plan it with all but these of them left out; the largest comes first.

        With a finer step, by this factor, nothing else is left: what is thinned must be of any entries, then.
        """
        if finer == 1:
            converted = self._thinning.keeping(kept)
            return self._codec._planned(self._finer.scales, self._update, converted, self._finer.cells)
        common = short_scale(finer * float(np.max(self._finer.scales / self._update.factors)))
        scales = self._update.scales_at(common)
        cells = _cells(scales, self._update)
        converted = self._thinning.at(scales, kept, _of_tensors(cells, self._update))
        return self._codec._planned(scales, self._update, converted, cells)


class _Found(NamedTuple):
    """What loses least within a budget."""

    nothing: bytes  # a frame that fits where all else is too large
    update: Update  # in the format that suits the budget
    best: _Attempt | None
    encodings: int  # that were taken: conversions, or codings if these are more


#: What makes random draws the same again; several numbers are mixed.
Seed: TypeAlias = int | Sequence[int]


class Codec:
    """Turns updates into frames and back.

    Parameters
    ----------
    config : CO3Config (default: CO3Config())
        How to encode. Decoding needs none: a frame describes itself.
    seed : int or sequence of int, optional
        Seed of stochastic rounding and of schemes that draw, none below 0; by default every codec draws differently.
    steady : Steady, optional
        For a budget: the common scale of the updates before, so that steps are alike and updates add up exactly.

    Examples
    --------
    >>> import numpy as np
    >>> update = {"layer.weight": np.random.default_rng(0).laplace(size=(300, 100)).astype("float32")}
    >>> codec = Codec(CO3Config(format="fp4"))
    >>> frame = codec.encode(update)
    >>> update["layer.weight"].nbytes // len(frame)
    11
    >>> codec.decode(frame)["layer.weight"].shape
    (300, 100)
    """

    def __init__(
        self, config: CO3Config | None = None, *, seed: Seed | None = None, steady: Steady | None = None
    ) -> None:
        self.config = CO3Config() if config is None else config
        self._limit = self.config.limit
        self._steady = steady
        self._scheme = self.config.other_scheme
        draws = self._scheme is not None or self.config.rounding == "stochastic"
        self._rng = np.random.default_rng(seed) if draws else None

    def encode(self, update: Mapping[str, Array]) -> bytes:
        """Encode an update; see `compress`, which tells more of what it did."""
        return self.compress(update).frame

    def decode(
        self, frame: bytes, *, like: Mapping[str, TensorSpec] | None = None, max_bytes: int | None = None
    ) -> dict[str, Array]:
        """Decode a frame.

        Parameters
        ----------
        frame : bytes
            What `encode` returned, here or elsewhere, with any settings.
        like, max_bytes
            What the receiver expects and allows; see `FrameReader`.

        Returns
        -------
        dict of str to ndarray
            The tensors in the order they were encoded in; nothing for the empty update.

        Raises
        ------
        FrameError
            If anything about the frame is wrong.
        """
        reader = FrameReader(frame, like=like, max_bytes=max_bytes)
        reader.verify()
        return reader.read_all()

    def is_exact(self, name: str, array: Array) -> bool:
        """Whether a tensor travels without loss: it is no float, or small, or its name is among the exact ones."""
        return is_exact(name, TensorSpec.of(array), self.config)

    def compress(
        self,
        update: Mapping[str, Array],
        *,
        memory: ErrorMemory | None = None,
        max_bytes: int | None = None,
        known: bool = False,
    ) -> Encoded:
        """Encode an update, with what its memory holds, and keep what that loses.

        Parameters
        ----------
        update : mapping of str to ndarray
            Tensors by name, of any shape, byte order and layout: float16, float32, float64 and (with ml_dtypes)
            bfloat16 are converted; integers, booleans and complex numbers travel without loss.
        memory : ErrorMemory, optional
            Error feedback: the same as ``memory.compensate`` before and ``memory.keep`` after, in fewer passes over
            the update, and in the memory's own place. Exact tensors have no memory. Nothing is changed in it by an
            update that is refused.
        max_bytes : int, optional
            Another hard limit on the frame, besides the config's; the tighter one holds.
        known : bool (default: False)
            Whether the receiver knows names, dtypes and shapes of the tensors. The frame is smaller then, and can only
            be decoded with them as `like`.

        Returns
        -------
        Encoded
            The frame, the update as its receiver will see it, and a report.

        Raises
        ------
        ValueError
            If a tensor holds NaN or infinity, or has a dtype that no frame can hold: the message names it. If there
            are more tensors than a frame can hold. If `max_bytes` is below 1.
        """
        if max_bytes is not None and max_bytes < len(EMPTY):
            raise ValueError(f"max_bytes is {max_bytes}, and even the empty update takes {len(EMPTY)} byte.")
        if memory is not None and not memory.decay:
            memory = None
        if self._scheme is not None:
            return self._by_scheme(self._scheme, update, memory, max_bytes, known)
        limited = max_bytes is not None or self._limit is not None
        checked = Update.of(update, self.config, memory, budget=limited, known=known)
        budget = self.config.budget(checked.parameters, max_bytes)
        if budget is not None:
            return self._within(budget, checked, memory)
        if self.config.scale == "optimal":
            scales = checked.optimal_scales
        else:
            scales = np.full(len(checked.sources), float(self.config.scale))
        kept = None if memory is None else _places(checked, memory)
        attempt = self._at(scales, checked, kept)
        parts, losses = attempt.parts, attempt.losses
        del attempt  # its symbols make room for the frame
        if memory is not None and kept is not None:
            memory.replace(dict(zip(checked.header.lossy, kept, strict=True)))
        return Encoded(b"".join(parts), checked, losses)

    def _by_scheme(
        self,
        scheme: Scheme,
        update: Mapping[str, Array],
        memory: ErrorMemory | None,
        max_bytes: int | None,
        known: bool,
    ) -> Encoded:
        """Encode by another scheme than CO3."""
        if scheme.memory == SERVER:
            memory = None
        checked = Update.of(update, self.config, memory, known=known)
        budget = self.config.budget(checked.parameters, max_bytes)
        nothing = self._frame_of_zeros(checked)
        assert self._rng is not None, "schemes may draw"
        sent = encode_by_scheme(scheme, checked, memory, self._rng, budget, nothing)
        entries = checked.moments.entries
        coded = max(len(sent.frame) - len(nothing), 0)
        return Encoded(sent.frame, checked, Losses(sent.squares, coded * entries / max(float(entries.sum()), 1.0)))

    def _within(self, budget: int, update: Update, memory: ErrorMemory | None) -> Encoded:
        """Encode with the least loss that so many bytes allow."""
        places = partial(_places, memory=ErrorMemory() if memory is None else memory)
        encoded, left = self._layers(budget, update, CONVERSIONS, places, memory is not None)
        if memory is not None:
            memory.replace(left)
        return encoded

    def _layers(
        self,
        budget: int,
        update: Update,
        conversions: int,
        places: Callable[[Update], list[Array]],
        keeps: bool,
        saved: float = 0.0,
    ) -> tuple[Encoded, dict[str, Array]]:
        """Encode in one layer, or in more, each for what those before it lost.

        Parameters
        ----------
        budget, update
            The update, and how many bytes it may take.
        conversions : int
            How many there may be; and no layer follows where as many were coded.
        places : callable
            Makes the places of what is lost.
        keeps : bool
            Whether that is wanted.
        saved : float (default: 0.0)
            As for `Sizes`.

        Returns
        -------
        encoded : Encoded
            What loses least.
        left : dict of str to ndarray
            What is lost, in its places, where it is to be kept; nothing else is written to these.
        """
        nothing, update, best, taken = self._largest(budget, update, conversions, saved)
        left: dict[str, Array] = {}
        encoded = None if best is None else Encoded(b"".join(best.parts), update, best.losses)
        # Stochastic rounding may lose more than there is to send: another layer doesn't.
        if best is None or encoded is None or (conversions < CONVERSIONS and encoded.nmse >= 1):
            if keeps:
                left = dict(zip(update.header.lossy, places(update), strict=True))
                _keep_all(update, list(left.values()))
            lost = update.moments.mean_square * update.moments.entries
            return Encoded(nothing, update, Losses(lost, np.zeros_like(lost))), left
        scales, converted, cells = best.scales, best.converted, _of_tensors(best.cells, update)
        del best  # what it planned makes room for the memory
        finer = taken < conversions and self._can_be_finer(encoded, scales, budget)
        if keeps or finer:
            kept = places(update)
            keep(update.header.format, update.sources, update.decay, scales, converted, kept, cells=cells)
            left = dict(zip(update.header.lossy, kept, strict=True))
        if finer:
            counts, taken_bits = update.header.group_sums(converted.counts), 8 * float(encoded.losses.bytes.sum())
            saved = saved_share(counts, update, taken_bits)
        del converted  # its symbols make room for the next layer
        if finer:
            rest = Update.of({name: left[name] for name in update.header.fine}, self.config, budget=True, known=True)
            room, again = room_beside(encoded.frame, budget), partial(_same_places, left)
            more, _ = self._layers(room, rest, conversions - taken, again, keeps, saved)
            encoded = encoded.with_layers(more)
        return encoded, left

    @property
    def _may_have_layers(self) -> bool:
        """Whether the formats are ours to choose, and steps need not be alike."""
        return len(self.config.formats) > 1 and self._steady is None

    def _can_be_finer(self, encoded: Encoded, scales: Floats, budget: int) -> bool:
        """Whether a budget allows more than was said."""
        room, update = room_beside(encoded.frame, budget), encoded.update
        if not self._may_have_layers or room <= max(_LEFT_AT_BEST * budget, _ROOM):
            return False
        at_best = np.array_equal(scales, update.optimal_scales)
        return (at_best or room > _LEFT * budget) and bool(update.header.fine) and encoded.nmse > _ROUNDING

    def _largest(self, budget: int, update: Update, conversions: int, saved: float) -> _Found:
        """Find what loses least within a budget, in so many conversions; or, if they allow more layers, the first."""
        nothing, taken, tried = self._frame_of_zeros(update), 0, 0
        if len(nothing) > budget:
            return _Found(EMPTY, update, None, taken)
        bits = 8 * (budget - len(nothing))
        sizes = suited(update, self.config.formats, bits, saved)
        beyond = _BEYOND if conversions == CONVERSIONS else _BEYOND_LATER
        if self._may_have_layers and conversions > 1 and _is_beyond(sizes, bits, beyond):
            even, taken, tried = update.in_format(_EVEN), 1, 1
            reaching = self._at(even.scales_at(even.reaching_scale), even)
            if reaching.size <= budget:
                return _Found(nothing, even, reaching, taken)
        # In another format, or as one group, zeros may take some bytes more.
        zeros = nothing if sizes.update.header is update.header else self._frame_of_zeros(sizes.update)
        if len(zeros) > budget:
            return _Found(nothing, update, None, taken)

        def converted(scales: Floats) -> _Attempt:
            nonlocal taken
            taken += 1
            return self._at(scales, sizes.update)

        thin = partial(_Thinned, self, sizes.update)
        best, coded = largest_within(budget, len(zeros), sizes, converted, thin, self._steady, conversions - taken)
        return _Found(zeros, sizes.update, best, max(taken, tried + coded))

    def _frame_of_zeros(self, update: Update) -> bytes:
        """The smallest frame that has every tensor's name and every exact tensor."""
        scales = np.ones(len(update.sources))
        plans = [Plan.zeros()] * len(update.header.groups)
        return b"".join(draft(update.header, scales, plans, update.exact).parts())

    def _at(self, scales: Floats, update: Update, kept: list[Array] | None = None) -> _Attempt:
        """Convert and plan at a scale for each tensor that is converted."""
        cells = _cells(scales, update)
        converted = convert(
            *(update.header.format, update.sources, update.decay, scales, units_of(update)),
            cells=_of_tensors(cells, update),
            rng=self._rng,
            kept=kept,
        )
        return self._planned(scales, update, converted, cells)

    def _planned(self, scales: Floats, update: Update, converted: Converted, cells: Cells | None) -> _Attempt:
        """Choose how to code what was converted."""
        header = update.header
        plans = plan_all(self._groups(converted, scales, update), header.format.edges, header.coder)
        codes = None if cells is None else cells.codes
        group_bytes = np.array([plan.size for plan in plans]) / (8 << COST_BITS)
        members = [len(group) for group in header.group_members]
        entries = update.moments.entries
        share = entries / np.repeat(header.group_sums(entries), members)
        losses = Losses(converted.squares, share * np.repeat(group_bytes, members))
        error = weighted(losses.squares * update.factors**2, update)
        return _Attempt(draft(header, scales, plans, update.exact, codes), scales, cells, converted, losses, error)

    def _groups(self, converted: Converted, scales: Floats, update: Update) -> Iterator[Group]:
        """Tensors that share a model, as the compressor wants them."""
        starts = [*converted.starts.tolist(), converted.symbols.size]
        for members, fits in zip(update.header.group_members, update.fits(scales), strict=True):
            symbols = converted.symbols[starts[members.start] : starts[members.stop]]
            counts = converted.counts[members.start]
            if len(members) > 1:
                counts = converted.counts[members.start : members.stop].sum(axis=0)
            alone = len(members) == 1 and self.config.contexts
            shape = update.header.tensors[update.header.lossy[members.start]].shape if alone else ()
            yield Group(symbols, counts, update.header.format.zero, *fits, grid=Grid.of(shape))


def _is_beyond(sizes: Sizes, bits: float, beyond: float) -> bool:
    """Whether there are many more bits than an update can use in one layer, and loses something of it there."""
    update = sizes.update
    return bool(update.header.groups) and bits > beyond * sizes.bits(sizes.largest) and not update.in_one_level


def _cells(scales: Floats, update: Update) -> Cells | None:
    """What becomes of the magnitudes of each group; None where levels are the nearest and decode to themselves."""
    members = update.header.group_members
    if update.quantizer.plain or not members:
        return None
    starts = [tensors.start for tensors in members]
    same = np.minimum.reduceat(scales, starts) == np.maximum.reduceat(scales, starts)
    return update.quantizer.cells(update.counts, np.where(same, scales[starts], np.nan))


def _of_tensors(cells: Cells | None, update: Update) -> Cells | None:
    return None if cells is None else cells.of_tensors(update.header.group_members)


def _places(update: Update, memory: ErrorMemory) -> list[Array]:
    """Where the new errors go."""
    return [memory.place(name, update.tensors[name]) for name in update.header.lossy]


def _same_places(left: Mapping[str, Array], update: Update) -> list[Array]:
    """Where they are."""
    return [left[name] for name in update.header.lossy]


def _keep_all(update: Update, kept: Sequence[Array]) -> None:
    """Nothing is sent: all of it is kept."""
    for source, new in zip(update.sources, kept, strict=True):
        for start in range(0, new.size, BLOCK):
            new.reshape(-1)[start : start + BLOCK] = source.block(update.decay, start, start + BLOCK)
