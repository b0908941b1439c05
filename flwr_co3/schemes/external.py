"""Codecs of other packages, as schemes of one option: their bytes are carried as they are."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Float32s, Floats, Parts, Scheme, split


class External(Scheme):
    """A scheme whose work another package does.

    Their decoders are not made for bytes that someone forged: a server decodes such frames only where it asked for
    them.
    """

    hardened: ClassVar = False
    module: ClassVar[str]
    requirement: ClassVar[str]  # for pip

    def package(self) -> Any:
        """Import the package.

        Raises
        ------
        ValueError
            If it is not installed.
        """
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise ValueError(
                f"The scheme {self.name} needs the package {self.requirement}: pip install {self.requirement} where "
                "clients and server run."
            ) from error

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """There are no levels."""
        return []

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        parts.exactly(0, len(parts.raw))
        entries = sum(sizes)
        v = self.decompress(parts.raw, entries).astype(np.float64) if entries else np.empty(0)
        return split(v, sizes)

    def decompress(self, raw: bytes, entries: int) -> Float32s:
        """Decode so many entries."""
        raise NotImplementedError
