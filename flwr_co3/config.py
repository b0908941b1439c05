"""What the server decides and tells its clients."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from flwr_co3.compress import CODERS, MAX_MAGNITUDE
from flwr_co3.convert import RECONSTRUCTIONS, ROUNDINGS, FloatFormat, Quantizer
from flwr_co3.correct import MEMORY_DTYPES
from flwr_co3.rate import RateLimit
from flwr_co3.schedules import Loss
from flwr_co3.schemes import Scheme, make_scheme
from flwr_co3.schemes.scheme import CLIENT, INCREMENT

#: A limit for each node in each round, or none: a function of the round's number, from 1, and the node's id.
NodeRates: TypeAlias = Callable[[int, int], RateLimit | None]

# Formats for every budget, from the coarsest on, and up to which share of what one takes at its optimal scale the finer
# ones lose no less.
_AUTO = (("fp4", 0.5), ("e2m5", math.inf))

#: BatchNorm's running statistics: they are no sums of gradients, and small.
BATCH_NORM_STATISTICS = ("*running_mean", "*running_var", "*num_batches_tracked")

# Options that say how CO3 codes, and nothing to other schemes.
_OF_CO3 = ("format", "coder", "scale", "rounding", "reconstruction", "contexts", "subspace", "weights")
MOST_DIRECTIONS = 255  # of a tensor: a byte says how many
_WEIGHTS = (1e-6, 1e6)  # steps then differ by a million at most


@dataclass(frozen=True)
class CO3Config:
    """All choices of the codec, with defaults for a newcomer.

    Parameters
    ----------
    format : str or FloatFormat (default: "auto")
        Number format of the levels, at most 255 of them: a name that `FloatFormat` knows, or a format. "auto" is fp4,
        and where a rate allows more than its 11 levels can use, a format that has more of them, in layers if need be.
    coder : str (default: "rans")
        Entropy coder: "rans", which spends fractions of a bit, or "huffman", the CO3 paper's, at least a bit an entry.
    rate : RateLimit or callable (default: None)
        Hard limit on the bytes of each update. It sets one scale for the whole model. Its numbers may be schedules;
        and ``rate=lambda round, node: ...`` gives each node a RateLimit, or None, of its own in each round. The server
        turns both into plain limits before it tells its clients.
    memory_decay : float (default: 1.0)
        Share of what was not sent that is added to the next update, 0 to 1. 0 is no memory at all.
    step_ahead : float (default: 0.0)
        Share of its decayed memory that each client adds to the model that it trains from, 0 to 1, as if so much of
        what it has not sent had arrived. What is sent and remembered is reckoned from there: nothing counts twice.
        Low rates learn much sooner with some of it; with 0 the app trains from the model as it was sent.
    scale : "optimal" or float (default: "optimal")
        What updates are multiplied by before rounding. "optimal" minimises each tensor's expected squared error under
        its generalised normal fit; a number holds for all tensors, in 1 / units of the update: smaller, fewer bits.
    rounding : str (default: "nearest")
        To the "nearest" level; "stochastic", up or down at random, unbiased; or "rd", to the level that is best for its
        error and its bits together: fewer levels that are not 0, for updates without a memory.
    reconstruction : str (default: "level")
        What a level decodes to: itself, or with "centroid" the mean of the values that were rounded to it, which costs
        a few bytes a tensor. With "rd" the best for its bits; not with "stochastic", which it would bias.
    contexts : bool (default: False)
        Whether rows and columns of a tensor (output and input channels) may be sorted into classes with a table each,
        where that takes fewer bytes: the same levels, for more time. Only with the coder "rans".
    subspace : int (default: 0)
        For a budget: how many directions of each tensor the server sends with the model, those in which it moved in the
        rounds before, so that updates can be sent by their parts in these and a few new ones; 0 to 255, 16 will do. Low
        rates lose much less so, for more time on both ends and some per cent more on the downlink. Flower's mod and
        strategy have it; a `Codec` alone, which has no rounds, takes no notice.
    weights : mapping of str to float (default: none)
        For a budget: how much squared errors count, by shell patterns of tensors' names; the first that matches holds,
        and what none matches counts once. The step of a tensor of weight 4 is half of the common one. 1e-6 to 1e6.
    exact : tuple of str (default: BatchNorm's running statistics)
        Shell patterns of names of tensors that travel without loss.
    exact_below : int (default: 8)
        Tensors of fewer entries travel without loss: rounding them saves next to nothing.
    memory_dtype : str (default: "float32")
        How the memory is stored: "float32", or "bfloat16" or "float16" in half the space.
    scheme : str or Scheme (default: "co3")
        What codes the updates: "co3", or one of the schemes to compare with, by name (with its default options) or as
        `flwr_co3.schemes.make_scheme` makes it. All of them have the rate, the memory and the exact tensors of this
        config; `format`, `coder`, `scale`, `rounding`, `reconstruction`, `contexts`, `subspace` and `weights`
        are CO3's own.

    Raises
    ------
    ValueError
        If a value is not one of those.

    Examples
    --------
    >>> CO3Config(rate=RateLimit(bits_per_parameter=0.5)).to_json()
    '{"rate":{"bits_per_parameter":0.5}}'
    """

    format: str | FloatFormat = "auto"
    coder: str = "rans"
    rate: RateLimit | NodeRates | None = None
    memory_decay: float = 1.0
    step_ahead: float = 0.0
    scale: Literal["optimal"] | float = "optimal"
    rounding: str = "nearest"
    reconstruction: str = "level"
    contexts: bool = False
    subspace: int = 0
    weights: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
    exact: tuple[str, ...] = BATCH_NORM_STATISTICS
    exact_below: int = 8
    memory_dtype: str = "float32"
    scheme: str | Scheme = "co3"

    def __post_init__(self) -> None:
        """Check every field."""
        self._check_weights()
        self._check_scheme()
        levels = 2 * self.float_format.zero + 1
        if self.float_format.zero > MAX_MAGNITUDE:
            raise ValueError(
                f"CO3Config format {self.format} has {levels} levels, and the entropy coder takes 255 at most: "
                "choose a format of 8 bits or fewer."
            )
        for name, value, choices in (
            ("coder", self.coder, CODERS),
            ("rounding", self.rounding, ROUNDINGS),
            ("reconstruction", self.reconstruction, RECONSTRUCTIONS),
            ("memory_dtype", self.memory_dtype, MEMORY_DTYPES),
        ):
            if value not in choices:
                raise ValueError(f"CO3Config {name} must be one of {', '.join(choices)}, not {value!r}.")
        if not isinstance(self.contexts, bool):
            raise ValueError(f"CO3Config contexts must be True or False, not {self.contexts!r}.")
        if self.rounding == "stochastic" and self.reconstruction == "centroid":
            raise ValueError(
                'CO3Config rounding "stochastic" is unbiased only if levels decode to themselves: take reconstruction '
                '"level", or another rounding.'
            )
        for name, share in (("memory_decay", self.memory_decay), ("step_ahead", self.step_ahead)):
            if not (_is_number(share) and 0 <= share <= 1):
                raise ValueError(f"CO3Config {name} must lie within 0 to 1, not be {share!r}.")
        if self.scale != "optimal" and not (_is_number(self.scale) and 0 < self.scale <= sys.float_info.max):
            raise ValueError(f'CO3Config scale must be "optimal" or a finite number above 0, not {self.scale!r}.')
        if not (self.rate is None or isinstance(self.rate, RateLimit) or callable(self.rate)):
            raise ValueError(
                f"CO3Config rate must be a RateLimit, a function of round and node, or None, not {self.rate!r}."
            )
        if type(self.subspace) is not int or not 0 <= self.subspace <= MOST_DIRECTIONS:
            raise ValueError(
                f"CO3Config subspace must be a whole number within 0 to {MOST_DIRECTIONS}, not {self.subspace!r}."
            )
        if self.subspace and self.rate is None:
            raise ValueError("CO3Config subspace is for budgets: give a rate too.")
        if self.rate is not None and self.scale != "optimal":
            raise ValueError("CO3Config takes a rate or a scale, not both: the rate sets the scale.")
        if not isinstance(self.exact, (tuple, list)) or not all(isinstance(pattern, str) for pattern in self.exact):
            raise ValueError(f"CO3Config exact must be a tuple of shell patterns, not {self.exact!r}.")
        object.__setattr__(self, "exact", tuple(self.exact))
        if isinstance(self.exact_below, bool) or not isinstance(self.exact_below, int) or self.exact_below < 0:
            raise ValueError(f"CO3Config exact_below must be an integer of at least 0, not {self.exact_below!r}.")

    def _check_weights(self) -> None:
        pairs = tuple(self.weights.items()) if isinstance(self.weights, Mapping) else self.weights
        if not isinstance(pairs, tuple) or not all(
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
        ):
            raise ValueError(
                "CO3Config weights must map shell patterns to numbers, as in {'*.bias': 4.0}, and not be "
                f"{self.weights!r}."
            )
        for pattern, weight in pairs:
            if not (_is_number(weight) and _WEIGHTS[0] <= weight <= _WEIGHTS[1]):
                raise ValueError(
                    f"CO3Config weights must lie within {_WEIGHTS[0]:g} to {_WEIGHTS[1]:g}, and {pattern!r} has "
                    f"{weight!r}."
                )
        if pairs and self.scale != "optimal":
            raise ValueError("CO3Config takes weights or a scale, not both: weights divide a budget among tensors.")
        object.__setattr__(self, "weights", pairs)

    def _check_scheme(self) -> None:
        scheme = self.other_scheme
        if scheme is None:
            return
        for field in dataclasses.fields(self):
            if field.name in _OF_CO3 and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"CO3Config {field.name} is for the scheme co3, and the scheme is {scheme.name}: leave it out."
                )
        if scheme.memory == INCREMENT and (self.memory_decay, self.memory_dtype) not in (
            (1, "float32"),
            (0, "float32"),
        ):
            raise ValueError(
                f"The memory of the scheme {scheme.name} holds what was sent so far: it takes memory_decay=1 and "
                'memory_dtype="float32".'
            )
        if scheme.memory != CLIENT and self.step_ahead:
            raise ValueError(
                f"CO3Config step_ahead is a share of what was not sent yet, which clients of the scheme {scheme.name} "
                "don't remember: leave it out."
            )

    @property
    def other_scheme(self) -> Scheme | None:
        """The scheme; None for CO3.

        Raises
        ------
        ValueError
            If there is none of this name.
        """
        if isinstance(self.scheme, Scheme):
            return self.scheme
        if not isinstance(self.scheme, str):
            raise ValueError(f"CO3Config scheme must be a name or a Scheme, not {self.scheme!r}.")
        return None if self.scheme == "co3" else make_scheme(self.scheme)

    @property
    def float_format(self) -> FloatFormat:
        """The format itself; the first of those that "auto" chooses from."""
        return self.formats[0][0]

    @property
    def formats(self) -> list[tuple[FloatFormat, float]]:
        """The formats to choose from for a budget, from the coarsest on; see `flwr_co3.sizes.suited`."""
        if isinstance(self.format, FloatFormat):
            return [(self.format, math.inf)]
        if self.format == "auto" and self.rate is not None:
            return [(_named(name), reach) for name, reach in _AUTO]
        return [(_named("fp4" if self.format == "auto" else self.format), math.inf)]

    @property
    def quantizer(self) -> Quantizer:
        """How values become levels, and levels values."""
        return Quantizer(self.float_format, self.rounding, self.reconstruction)

    @property
    def limit(self) -> RateLimit | None:
        """The rate, which is the same in each round and for each node.

        Raises
        ------
        ValueError
            If it is not: `at` gives the configuration of one round and node.
        """
        if self.rate is None or (isinstance(self.rate, RateLimit) and not self.rate.scheduled):
            return self.rate
        raise ValueError(
            f"The rate {self.rate!r} changes over rounds or nodes: CO3Config.at(round, node) gives the configuration "
            "of one of them."
        )

    def budget(self, parameters: int, max_bytes: int | None = None) -> int | None:
        """Bytes that a frame of so many entries may have, by the limit and by another one; None if there is neither."""
        limits = [] if max_bytes is None else [max_bytes]
        if self.limit is not None:
            limits.append(self.limit.bytes_for(parameters))
        return min(limits, default=None)

    def at(self, round: int, node: int | None = None, losses: Mapping[str, Loss] = MappingProxyType({})) -> CO3Config:
        """Return the configuration of one round and node, its rate a plain limit.

        Parameters
        ----------
        round : int
            Number of the round, from 1.
        node : int, optional
            The node, for rates that differ from node to node.
        losses : mapping of str to Loss (default: {})
            What clients reported so far, for schedules that follow it.

        Raises
        ------
        ValueError
            If the rate, or one of its schedules, gives what is no limit.
        """
        rate = self.rate
        if callable(rate):
            if node is None:
                raise ValueError("The rate is a function of round and node, and there is no one node here.")
            rate = rate(round, node)
            if not isinstance(rate, RateLimit | None):
                raise ValueError(
                    f"The rate of node {node} in round {round} must be a RateLimit or None, and the function that "
                    f"CO3Config has as its rate gave {rate!r}."
                )
        limit = None if rate is None else rate.at(round, losses)
        if limit is self.rate:
            return self
        return dataclasses.replace(self, rate=limit, subspace=0 if limit is None else self.subspace)

    def to_json(self) -> str:
        """Write what differs from the defaults, as one line of JSON (at least ``{}``).

        Raises
        ------
        ValueError
            If the rate is not a plain limit: see `at`.
        """
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = self.limit if field.name == "rate" else getattr(self, field.name)
            if value == field.default:
                continue
            if isinstance(value, RateLimit):
                value = value.to_dict()
            elif isinstance(value, FloatFormat):
                value = dataclasses.asdict(value)
            elif field.name == "weights":
                value = dict(self.weights)
            elif isinstance(value, Scheme):
                value = {"name": value.name, **dataclasses.asdict(value)}
            fields[field.name] = value
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CO3Config:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If it is no such text: perhaps the server runs a newer flwr-co3.
        """
        try:
            fields = json.loads(text)
            unknown = set(fields) - {field.name for field in dataclasses.fields(cls)}
            if unknown:
                raise ValueError(f"unknown option {', '.join(sorted(unknown))}")
            if isinstance(fields.get("rate"), dict):
                fields["rate"] = RateLimit(**fields["rate"])
            if isinstance(fields.get("format"), dict):
                fields["format"] = FloatFormat(**fields["format"])
            if isinstance(fields.get("scheme"), dict):
                fields["scheme"] = make_scheme(**fields["scheme"])
            if "exact" in fields:
                fields["exact"] = tuple(fields["exact"])
            return cls(**fields)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The CO3 configuration {text!r} can't be read: {error}. Do server and client run the same flwr-co3?"
            ) from error


@cache
def _named(name: str) -> FloatFormat:
    """A format, with what was worked out for it before."""
    return FloatFormat(name)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
