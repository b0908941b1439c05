"""How updates travel, by name: plain FedAvg, the paper's CO3, and CO3 at low rates."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr_co3 import CO3Config, RateLimit
from flwr_co3.schemes import make_scheme as make_other_scheme
from flwr_co3.schemes import scheme_class, scheme_names
from simulations.budgets import parse_budget
from simulations.choices import Value, look_up, parse_choice, parse_value, unnested
from simulations.outer_products import parse_outer_products

PLAIN = "fedavg"
"""The scheme that sends weights as they are; what the others are measured against."""

DEFAULT_SCHEMES = (PLAIN, "co3-fp8", "co3-fp4", "co3-fp4-0.5bit", "co3-fp4-0.1bit")
"""What ``compare`` compares unless told otherwise."""

_PAPER: dict[str, Value] = {"coder": "huffman", "scale": "optimal", "memory_decay": 0.9}

# The scales of the low rates were found by trial on the default task: a fixed scale fixes the quantiser's step; the
# rate follows from how large the updates are. Without memory less piles up to be sent: the same rate is a finer step.
_LOW: dict[str, Value] = {"format": "fp4", "coder": "rans"}

_SCHEMES: dict[str, tuple[str, dict[str, Value]]] = {
    "co3": ("CO3", {}),
    "co3-fp8": ("CO3 fp8 (paper)", {"format": "fp8", **_PAPER}),
    "co3-fp4": ("CO3 fp4 (paper)", {"format": "fp4", **_PAPER}),
    "co3-fp4-0.5bit": ("CO3 fp4, ~0.5 bit", {**_LOW, "scale": 22.0, "memory_decay": 1.0}),
    "co3-fp4-0.1bit": ("CO3 fp4, ~0.1 bit", {**_LOW, "scale": 4.0, "memory_decay": 1.0}),
    "co3-fp4-0.1bit-no-memory": ("CO3 fp4, ~0.1 bit, no memory", {**_LOW, "scale": 12.0, "memory_decay": 0.0}),
}

_RATE = tuple(field.name for field in dataclasses.fields(RateLimit))
_OVERRIDES = (
    *("format", "coder", "scale", "memory-decay", "step-ahead", "rounding", "reconstruction", "bits-per-parameter"),
    *("downlink-bits", "downlink-reconstruction", "downlink-whole"),
)


@dataclass(frozen=True)
class Scheme:
    """A way for updates to travel.

    Attributes
    ----------
    name : str
        As the user wrote it; unique in a comparison.
    label : str
        As it stands in pictures and tables.
    config : CO3Config or None
        None: weights travel as they are.
    downlink, whole : CO3Config or None
        How the server compresses what changed, and the whole model; see :class:`flwr_co3.CO3Strategy`.
    outer_products : str or None
        The clients' weight gradients, as in the settings; None: as the settings say.
    uplink_seconds : float or None
        Each client's budget is what its link carries in so many seconds; None: the config has the rate.
    """

    name: str
    label: str
    config: CO3Config | None
    downlink: CO3Config | None = None
    whole: CO3Config | None = None
    outer_products: str | None = None
    uplink_seconds: float | None = None


def make_scheme(text: str, overrides: Mapping[str, Any] | None = None) -> Scheme:
    """Read a scheme such as ``co3-fp4`` or ``co3:format=fp4,scale=40,memory_decay=0.9``.

    Parameters
    ----------
    text : str
        A name, of those above or of `flwr_co3.schemes.scheme_names`, and settings that replace the scheme's own: its
        options (``qsgd:levels=16``), the fields of :class:`flwr_co3.CO3Config`, and
        those of :class:`flwr_co3.RateLimit` (``bits_per_parameter=0.1``) for its rate, numbers or schedules
        (``bits_per_parameter=linear|start=1|end=0.05|rounds=25``, see `simulations.budgets`). Several patterns for
        ``exact`` are separated by ``|``, as are those of ``weights=conv*=4|*.bias=2``, and the settings of
        ``outer_products=topk|k=8|memory_decay=1``, which replaces the one that the settings have for all schemes.
        ``uplink_seconds=2`` gives each client the budget that its link carries in that time. ``downlink_bits=0.1``
        limits the server's frames as well, ``downlink_reconstruction=centroid`` says what their levels decode to, and
        ``downlink_whole=fp8`` is the format of the whole model with which each client starts.
    overrides : Mapping, optional
        Settings by key of the run config; an empty one leaves what the scheme says.

    Raises
    ------
    ValueError
        If there is no such scheme, or a setting is unknown or out of range.
    """
    choice = parse_choice(text, "scheme")
    given = {key: (overrides or {}).get(key, "") for key in _OVERRIDES}
    changed = {key.replace("-", "_"): parse_value(str(value)) for key, value in given.items() if value != ""}
    options = {**choice.options, **changed}
    products, seconds = _outer_products(options), _uplink_seconds(options, text)
    if choice.name == PLAIN:
        if options:
            raise ValueError(
                f"The scheme {PLAIN!r} sends weights as they are and has no setting {next(iter(options))!r}. "
                "Choose the scheme co3 to compress."
            )
        return Scheme(text, _label("FedAvg (float32)", choice.options), None, outer_products=products)
    others: dict[str, tuple[str, dict[str, Value]]] = {name: (name, {"scheme": name}) for name in scheme_names()}
    label, own = look_up({PLAIN: ("", {}), **_SCHEMES, **others}, choice.name, "scheme")
    downlink, whole = _downlink(options, text)
    label = _label(label, {**choice.options, **changed})
    return Scheme(text, label, _config({**own, **options}, text), downlink, whole, products, seconds)


def make_schemes(texts: list[str]) -> list[Scheme]:
    """Read several schemes; ``default`` stands for the default ones, and repeated ones are left out."""
    names = [name for text in texts for name in (DEFAULT_SCHEMES if text == "default" else (text,))]
    if not names:
        raise ValueError("Give at least one scheme, for example --schemes fedavg,co3-fp4.")
    return [make_scheme(name) for name in dict.fromkeys(names)]


def at_budgets(texts: list[str], bits: list[float]) -> list[str]:
    """Write each scheme once for each budget, in bits per parameter.

    Those that have one rate alone stay as they are: FedAvg, schemes without an option that a budget could turn, such as
    `sign`, and what has a budget of its own.

    >>> at_budgets(["fedavg", "sign", "co3:format=fp8", "co3:uplink_seconds=1"], [2])
    ['fedavg', 'sign', 'co3:format=fp8,bits_per_parameter=2', 'co3:uplink_seconds=1']
    """
    if not bits:
        return texts
    return [
        each
        for text in texts
        for each in ([text] if _has_one_rate(text) else [_with_budget(text, budget) for budget in bits])
    ]


def budget_of(text: str) -> float | str | None:
    """Return a scheme's budget in bits per parameter, a schedule as it is written; None if it has none."""
    bits = parse_choice(text, "scheme").options.get("bits_per_parameter")
    return float(bits) if isinstance(bits, int | float) else bits


def _has_one_rate(text: str) -> bool:
    choice = parse_choice(text, "scheme")
    if choice.name == PLAIN or not choice.options.keys().isdisjoint((*_RATE, "uplink_seconds")):
        return True
    config = make_scheme(text).config
    other = None if config is None else config.other_scheme
    return other is not None and other.knob is None


def _with_budget(text: str, bits: float) -> str:
    return f"{text}{',' if ':' in text else ':'}bits_per_parameter={bits:g}"


def _uplink_seconds(options: dict[str, Value], text: str) -> float | None:
    """Take the option of that name out of ``options``."""
    if "uplink_seconds" not in options:
        return None
    seconds = options.pop("uplink_seconds")
    if isinstance(seconds, str) or not seconds > 0:
        raise ValueError(f"The scheme {text!r} has uplink_seconds={seconds}, which must be a number above 0.")
    if any(key in options for key in _RATE):
        raise ValueError(f"The scheme {text!r} has two budgets: give uplink_seconds or {', '.join(_RATE)}.")
    return float(seconds)


def _outer_products(options: dict[str, Value]) -> str | None:
    """Take the option of that name out of ``options``, written as in the settings."""
    if "outer_products" not in options:
        return None
    written = unnested(str(options.pop("outer_products")))
    parse_outer_products(written)
    return written


def _label(label: str, options: Mapping[str, Value]) -> str:
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in options.items())
    return f"{label}, {settings}" if settings else label


def _downlink(options: dict[str, Value], text: str) -> tuple[CO3Config | None, CO3Config | None]:
    """Take the settings of the downlink out of ``options``: how changes are compressed, and the whole model."""
    given = {name: options.pop(f"downlink_{name}", None) for name in ("bits", "reconstruction", "whole")}
    bits, reconstruction, number_format = given.values()
    if bits is None:
        alone = next((name for name, value in given.items() if value is not None), None)
        if alone is not None:
            raise ValueError(f"The scheme {text!r} has downlink_{alone}, and no downlink_bits: give both.")
        return None, None
    whole = None if number_format is None else _config({"format": number_format}, text)
    levels: dict[str, Value] = {} if reconstruction is None else {"reconstruction": reconstruction}
    return _config({"bits_per_parameter": bits, **levels}, text), whole


def _config(options: dict[str, Value], text: str) -> CO3Config:
    fields = [field.name for field in dataclasses.fields(CO3Config) if field.name != "rate"]
    other = str(options.get("scheme", "co3"))
    own = [] if other == "co3" else [field.name for field in dataclasses.fields(scheme_class(other))]
    rest: dict[str, Any] = {key: value for key, value in options.items() if key not in _RATE}
    unknown = [key for key in rest if key not in fields and key not in own]
    if unknown:
        raise ValueError(
            f"The scheme {text!r} has no setting {unknown[0]!r}; settings: {', '.join([*own, *fields, *_RATE])}."
        )
    if "exact" in rest:
        rest["exact"] = tuple(str(rest["exact"]).split("|"))
    if "weights" in rest:
        pairs = (pair.rpartition("=") for pair in str(rest["weights"]).split("|"))
        rest["weights"] = {pattern: parse_value(weight) for pattern, _, weight in pairs}
    try:
        if other != "co3":
            chosen = {key: rest.pop(key) for key in own if key in rest}
            rest["scheme"] = make_other_scheme(other, **chosen)
        rate: dict[str, Any] = {key: parse_budget(value) for key, value in options.items() if key in _RATE}
        return CO3Config(**rest, rate=RateLimit(**rate) if rate else None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The scheme {text!r} cannot be used: {error}") from error
