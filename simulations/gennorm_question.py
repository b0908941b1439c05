"""Is GenNorm the answer? Which distribution describes what clients send, and what that is worth in bits."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from flwr_co3 import FloatFormat, GenNorm
from flwr_co3.compress.frequencies import COST_BITS, Frequencies, cost_of, normalize
from flwr_co3.compress.huffman import code_lengths
from flwr_co3.compress.tables import Fit, counted
from flwr_co3.convert.optimal_scale import optimal_scale
from simulations.distributions import CANDIDATES, Distribution, log_likelihood, wasserstein2
from simulations.settings import Settings
from simulations.snapshots import TIMES, Snapshot, take_snapshots

COUNTED = "counted"
TABLE_FILE = "distributions.csv"
_FORMAT = FloatFormat("fp4")
_SAMPLE = 10_000
_LEAST = 256  # values other than 0; fewer say little about a distribution


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How well a distribution describes one layer's values, and how many bits a table made from it takes.

    Values that are exactly 0 are left out. All others are rounded to fp4 at the scale that is best for the GenNorm.

    Attributes
    ----------
    model : str
        The distribution; "counted" for a table of how often each level occurs, which is no distribution.
    entries, zeros : int, float
        Values other than 0, and the share of the layer's that is 0.
    shape : float
        Of the GenNorm.
    log_likelihood : float
        Mean over the values, in bits, of the values over their root mean square. More is better.
    w2 : float
        Wasserstein-2 distance, in root mean squares. Less is better.
    rans, huffman : float
        Bits per value, table included: what an ideal arithmetic coder, which rANS is to 0.1 %, and a Huffman code
        take.
    entropy : float
        Bits per value that no code without a memory goes below, its table not counted.
    """

    network: str
    layer: str
    time: str
    kind: str
    model: str
    entries: int
    zeros: float
    shape: float
    log_likelihood: float
    w2: float
    rans: float
    huffman: float
    entropy: float


def judge(snapshot: Snapshot) -> list[Judgement]:
    """Judge each of the candidates, and the counted table; nothing if there are too few values to judge by."""
    values = np.asarray(snapshot.values, np.float64).ravel()
    x = values[values != 0]
    if len(x) < _LEAST:
        return []
    x /= np.sqrt(np.mean(x**2))
    sample = np.sort(np.random.default_rng(0).choice(x, min(len(x), _SAMPLE), replace=False))
    fits = {name: fit(sample) for name, fit in CANDIDATES.items()}
    gennorm = fits["GenNorm"]
    assert isinstance(gennorm, GenNorm)
    scale = optimal_scale(_FORMAT, gennorm)
    counts = np.bincount(_FORMAT.quantize(x, scale), minlength=len(_FORMAT.levels)).astype(np.int64)

    def judgement(model: str, frequencies: Frequencies, table: bytes, log_likelihood: float, w2: float) -> Judgement:
        cost = cost_of(counts, frequencies)
        assert cost is not None  # every level has a frequency
        shares = counts[counts > 0] / len(x)
        return Judgement(
            network=snapshot.network,
            layer=snapshot.layer,
            time=snapshot.time,
            kind=snapshot.kind,
            model=model,
            entries=len(x),
            zeros=1 - len(x) / len(values),
            shape=gennorm.shape,
            log_likelihood=log_likelihood,
            w2=w2,
            rans=(cost / 2**COST_BITS + 8 * len(table)) / len(x),
            huffman=(int(counts @ code_lengths(frequencies)) + 8 * len(table)) / len(x),
            entropy=float(-(shares @ np.log2(shares))),
        )

    two_numbers = Fit.of(1.0, 1.0).header
    fitted = [
        judgement(
            name, _frequencies(model, scale), two_numbers, log_likelihood(model, sample), wasserstein2(model, sample)
        )
        for name, model in fits.items()
    ]
    table = counted(counts)
    return [*fitted, judgement(COUNTED, table.frequencies, table.header, np.nan, np.nan)]


def _frequencies(model: Distribution, scale: float) -> Frequencies:
    """Return the frequencies of the levels under a distribution; each can occur, whatever the distribution says."""
    edges = np.concatenate([-_FORMAT.edges[::-1], _FORMAT.edges]) / scale
    shares = np.diff(np.concatenate([[0.0], model.cdf(edges), [1.0]]))
    return normalize(np.maximum((shares * 2**30).astype(np.int64), 1))


def ask(networks: dict[str, tuple[Settings, int]], out: Path) -> pd.DataFrame:
    """Train the networks, judge all snapshots, and write every judgement to ``distributions.csv`` in ``out``.

    Parameters
    ----------
    networks : dict
        By name: what is trained, and into how many parts its data is divided, see :func:`take_snapshots`.
    out : Path
        Folder; made if it isn't there.
    """
    judgements = [
        dataclasses.asdict(judgement)
        for name, (settings, partitions) in networks.items()
        for snapshot in take_snapshots(name, settings, partitions)
        for judgement in judge(snapshot)
    ]
    frame = pd.DataFrame(judgements)
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / TABLE_FILE, index=False)
    return frame


def tables(frame: pd.DataFrame) -> list[Table]:
    """Sum up: how well the distributions fit, what their tables cost, and how the shape changes."""
    return [_fit_table(frame), _bit_table(frame), _shape_table(frame)]


def _new_table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


_PLACE = ["network", "layer", "time", "kind"]


def _fit_table(frame: pd.DataFrame) -> Table:
    fitted = frame[frame.model != COUNTED]
    likeliest = fitted.loc[fitted.groupby(_PLACE).log_likelihood.idxmax()].model.value_counts()
    nearest = fitted.loc[fitted.groupby(_PLACE).w2.idxmin()].model.value_counts()
    # The distance to a distribution of infinite variance is anything: one of them would be the whole mean.
    typical = fitted.groupby("model").agg({"log_likelihood": "mean", "w2": "median"})
    count = fitted.groupby(_PLACE).ngroups
    table = _new_table(
        f"How well they fit: {count} tensors",
        "distribution",
        "log-likelihood, bits",
        "likeliest",
        "median W2",
        "nearest",
    )
    for name in CANDIDATES:
        row = typical.loc[name]
        table.add_row(
            name, f"{row.log_likelihood:.3f}", str(likeliest.get(name, 0)), f"{row.w2:.3f}", str(nearest.get(name, 0))
        )
    return table


def _bit_table(frame: pd.DataFrame) -> Table:
    kinds = list(dict.fromkeys(frame.kind))
    bits = frame[["rans", "huffman", "entropy"]].mul(frame.entries, axis=0)
    sums = bits.groupby([frame.model, frame.kind]).sum()
    columns = [f"{coder}, {kind}" for kind in kinds for coder in ("rANS", "Huffman")]
    table = _new_table("Bits of all values together, in % above their entropy", "table", *columns)
    for name in (*CANDIDATES, COUNTED):
        rows = [sums.loc[name, kind] for kind in kinds]
        table.add_row(name, *(f"{row[coder] / row.entropy - 1:.1%}" for row in rows for coder in ("rans", "huffman")))
    entries = frame[frame.model == COUNTED].groupby("kind").entries.sum()
    entropies = (f"{sums.loc[COUNTED, kind].entropy / entries[kind]:.3f}" for kind in kinds)
    table.add_row("entropy, bits a value", *(cell for entropy in entropies for cell in (entropy, "")))
    return table


def _shape_table(frame: pd.DataFrame) -> Table:
    table = _new_table("GenNorm's shape, least to most of the layers", "network, what", *TIMES)
    gennorm = frame[frame.model == "GenNorm"]
    for (network, kind), rows in gennorm.groupby(["network", "kind"], sort=False):
        shapes = rows.groupby("time").shape
        table.add_row(f"{network}, {kind}", *(f"{shapes.min()[t]:.2f} to {shapes.max()[t]:.2f}" for t in TIMES))
    return table
