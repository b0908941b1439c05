"""Links with a speed: what a client's connection can do, drawn for each client, so that simulated rounds take time.

Figures and where they are from:

======== ============= =========== ========== ====================================================================
profile  uplink bit/s  downlink    round trip source
======== ============= =========== ========== ====================================================================
iot      100 k         100 k       1.5 s      assumed: a narrow-band device somewhat below what NB-IoT can do at best
                                              (3GPP Release 14, category NB2: 159 kbit/s up, 127 kbit/s down)
3g       1.6 M         5.9 M       63.5 ms    Ofcom, "Measuring mobile broadband performance in the UK", 2015: means
4g       13.6 M        14.7 M      53.1 ms    of 120,000 tests in five cities, October to December 2014
dsl      1 M           2 M         5 ms       Firefox's developer tools, throttling profiles "DSL" and "Wi-Fi"
wifi     15 M          30 M        2 ms
wan      65 M          65 M        100 ms     between silos: a fifteenth of 1 Gbit/s, the ratio of WAN to LAN bandwidth
                                              of Hsieh et al., "Gaia", NSDI 2017; the round trip is assumed
======== ============= =========== ========== ====================================================================
"""

import csv
import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from simulations.choices import Choice, look_up, only_options, parse_choice


@dataclass(frozen=True)
class Link:
    """A client's connection.

    Attributes
    ----------
    uplink, downlink : float
        Bits per second, above 0.
    latency : float
        Seconds of a round trip; half of it passes before a message in either direction arrives.
    loss : float
        Probability that an update is lost, 0 to 1.
    """

    uplink: float
    downlink: float
    latency: float
    loss: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("latency", "loss") else math.ulp(0.0)
            if not least <= value < math.inf or (name == "loss" and value > 1):
                raise ValueError(f"A link's {name} is {value}, which cannot be.")


PROFILES = {
    "iot": Link(100e3, 100e3, 1.5),
    "3g": Link(1.6e6, 5.9e6, 0.0635),
    "4g": Link(13.6e6, 14.7e6, 0.0531),
    "dsl": Link(1e6, 2e6, 0.005),
    "wifi": Link(15e6, 30e6, 0.002),
    "wan": Link(65e6, 65e6, 0.1),
}
_LOGNORMAL = "lognormal"
_MEDIAN = Link(1e6, 10e6, 0.05)
_SPREAD = 0.5
_OPTIONS = {**dict.fromkeys((field.name for field in dataclasses.fields(Link)), float), "spread": float}
_TRACE = "trace"


class Links(Protocol):
    """Each client's link in each round."""

    def link(self, partition: int, server_round: int) -> Link:
        """Return the link of the client with this part of the data; rounds count from 1."""


def make_links(text: str, seed: int) -> Links:
    """Read what links there are.

    Parameters
    ----------
    text : str
        A profile, such as ``3g``; or several, such as ``3g+4g+wifi``, of which each client draws one; or
        ``lognormal:uplink=1e6``, whose rates are lognormal over clients. All take ``uplink``, ``downlink`` (bits per
        second), ``latency`` (seconds) and ``loss`` in the place of their own, and ``spread``, the standard deviation of
        the natural logarithm of each client's rates. ``trace:path=links.csv`` reads them, see :class:`Trace`.
    seed : int
        Of the draws.

    Raises
    ------
    ValueError
        If there is no such profile or setting, or no such file.
    """
    choice = parse_choice(text, "links")
    if choice.name == _TRACE:
        return Trace.read(Path(str(only_options(choice, {"path": str}, "links").get("path", ""))))
    return _drawn(choice, seed)


def _drawn(choice: Choice, seed: int) -> "Drawn":
    options = {key: float(value) for key, value in only_options(choice, _OPTIONS, "links").items()}
    spread = options.pop("spread", _SPREAD if choice.name == _LOGNORMAL else 0.0)
    if not 0 <= spread < math.inf:
        raise ValueError(f"The links' spread is {spread}, but must be 0 or more.")
    profiles = {**PROFILES, _LOGNORMAL: _MEDIAN}
    links = tuple(
        dataclasses.replace(look_up(profiles, name, "profile of links"), **options) for name in choice.name.split("+")
    )
    return Drawn(links, spread, seed)


@dataclass(frozen=True)
class Drawn:
    """Links that are drawn once for each client, and stay."""

    profiles: tuple[Link, ...]
    spread: float
    seed: int

    def link(self, partition: int, server_round: int) -> Link:
        """Return a client's link."""
        return self._of(partition)

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (a few small objects in a process)
    def _of(self, partition: int) -> Link:
        rng = np.random.default_rng((self.seed, partition))
        link = self.profiles[int(rng.integers(len(self.profiles)))]
        faster = float(np.exp(self.spread * rng.standard_normal()))
        return dataclasses.replace(link, uplink=link.uplink * faster, downlink=link.downlink * faster)


class Trace:
    """Links out of a CSV file: a row for a client from a round on, until the client's next row.

    The columns are ``client`` (its partition, from 0), ``round`` (from 1), ``uplink``, ``downlink`` (bits per second),
    ``latency`` (seconds) and, if there is any, ``loss`` (0 to 1).
    """

    def __init__(self, rows: dict[int, list[tuple[int, Link]]]) -> None:
        self._rows = {client: sorted(links, key=lambda row: row[0]) for client, links in rows.items()}

    @classmethod
    def read(cls, path: Path) -> "Trace":
        """Read the file.

        Raises
        ------
        ValueError
            If it isn't there, or holds something else.
        """
        rows: dict[int, list[tuple[int, Link]]] = {}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    link = Link(
                        float(row["uplink"]), float(row["downlink"]), float(row["latency"]), float(row.get("loss") or 0)
                    )
                    rows.setdefault(int(row["client"]), []).append((int(row["round"]), link))
        except OSError as error:
            raise ValueError(f"The trace of links {str(path)!r} cannot be read: {error}.") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The trace of links {str(path)!r} is not a CSV file with the columns client, round, uplink, downlink, "
                f"latency and perhaps loss: {error}."
            ) from error
        return cls(rows)

    def link(self, partition: int, server_round: int) -> Link:
        """Return a client's link in a round."""
        found = [link for first, link in self._rows.get(partition, []) if first <= server_round]
        if not found:
            raise ValueError(f"The trace of links says nothing of client {partition} in round {server_round}.")
        return found[-1]
