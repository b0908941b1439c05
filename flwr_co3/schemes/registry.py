"""Schemes by name: those of the package, and those that other packages register."""

from __future__ import annotations

import dataclasses
import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from flwr_co3.schemes.scheme import Scheme

#: The entry points by which other packages register their schemes.
GROUP = "flwr_co3.schemes"

_OWN = {
    "none": "none:NoCompression",
    "cast": "cast:Cast",
    "uniform": "uniform:Uniform",
    "qsgd": "qsgd:QSGD",
    "adaquantfl": "adaquantfl:AdaQuantFL",
    "terngrad": "terngrad:TernGrad",
    "sign": "sign:Sign",
    "bingrad_b": "bingrad:BinGradB",
    "orq": "orq:ORQ",
    "tinyscript": "tinyscript:TinyScript",
    "topk": "topk:TopK",
    "ef21": "ef21:EF21",
    "m22": "m22:M22",
    "onebit": "m22:OneBit",
    "lruvq": "lruvq:LRUVQ",
    "eden": "eden:Eden",
    "drive": "eden:Drive",
    "countsketch": "countsketch:CountSketch",
    "homomorphic": "homomorphic:Homomorphic",
    "sz3": "sz3:SZ3",
    "nncodec": "nncodec:NNCodec",
}


def scheme_names() -> list[str]:
    """Names of all schemes that can be chosen beside CO3: the package's, then those of other packages."""
    others = {entry.name for entry in entry_points(group=GROUP)} - set(_OWN)
    return [*_OWN, *sorted(others)]


@cache
def scheme_class(name: str) -> type[Scheme]:
    """Return the class of a scheme.

    Raises
    ------
    ValueError
        If there is none of this name, or another package's cannot be used.
    """
    if name in _OWN:
        module, _, kind = _OWN[name].partition(":")
        found: Any = getattr(importlib.import_module(f"flwr_co3.schemes.{module}"), kind)
    else:
        found = _registered(name)
    return found  # type: ignore[no-any-return]  # the package's own are tested, others are checked


def make_scheme(name: str, **options: Any) -> Scheme:
    """Make a scheme of its name and options.

    Raises
    ------
    ValueError
        If there is none of this name, or an option is unknown or out of range.
    """
    kind = scheme_class(name)
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in known:
            raise ValueError(f"The scheme {name} has no option {option!r}; its options: {', '.join(known) or 'none'}.")
    return kind(**options)


def _registered(name: str) -> type[Scheme]:
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        raise ValueError(f"There is no scheme {name!r}. Choose one of: co3, {', '.join(scheme_names())}.")
    try:
        kind = found.load()
    except Exception as error:  # whatever another package does when it is imported
        raise ValueError(f"The scheme {name!r} of {found.value} can't be loaded: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Scheme) and kind.name == name):
        raise ValueError(f"The entry point {found.value} of the scheme {name!r} must be a Scheme of this name.")
    return kind
