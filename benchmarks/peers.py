"""Other codecs beside ours, at about the same distortion, each in a process of its own.

For every setting of ours, each peer's step is chosen (on a part of the values) so that it loses the same share of
their energy. MB are of float32. "of memcpy" is the speed over that of a copy in the same process, and the last two
columns are their seconds over ours.

A peer that is not installed is named, with what installs it. Those that need another Python than ours are given one:

    python -m venv .benchmarks/nncodec && .benchmarks/nncodec/bin/pip install nncodec==2.1.3
    python -m benchmarks.peers --python nncodec=.benchmarks/nncodec/bin/python
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks import baselines, fresh, options, pipeline
from benchmarks.output import Form, Row, Table, show
from benchmarks.rivals import RIVALS, Values, nmse
from benchmarks.settings import choose
from benchmarks.sources import load
from benchmarks.timing import take_turns
from flwr_co3 import CO3Config, Codec

_MISSING = "No module named"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def main(
    updates: Annotated[str, typer.Option(help="A layout, or an .npz file; its tensors are joined.")] = "one tensor",
    entries: options.Entries = 1_000_000,
    settings: options.Settings = "fp8,fp4,0.5 bit,0.1 bit",
    peers: Annotated[str, typer.Option(help="Names separated by commas.")] = ",".join(RIVALS),
    python: Annotated[
        list[str] | None, typer.Option(help="PACKAGE=PATH of the Python that has it; repeat for several.")
    ] = None,
    runs: options.Runs = 3,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Compare with other codecs."""
    unknown = set(peers.split(",")) - set(RIVALS)
    if unknown:
        raise ValueError(f"There is no peer {', '.join(sorted(unknown))}. Choose from: {', '.join(RIVALS)}.")
    pythons = dict(given.split("=", 1) for given in python or [])
    tables = []
    for name, update in load(updates, entries).items():
        x = np.concatenate([tensor.reshape(-1) for tensor in update.values()])
        ours = {setting: our_figures(x, config, runs) for setting, config in choose(settings).items()}
        theirs, absent = their_figures(x, [f["nmse"] for f in ours.values()], peers.split(","), pythons, runs)
        rows = [
            _row(title, setting, figures, mine)
            for index, (setting, mine) in enumerate(ours.items())
            for title, figures in [("flwr-co3", mine), *((title, each[index]) for title, each in theirs.items())]
        ]
        tables.append(Table(f"{name}, {x.size:,} values", rows, note=" ".join(absent)))
    show(tables, form)


def our_figures(x: Values, config: CO3Config, runs: int) -> dict[str, float]:
    """Measure our codec as the peers are measured: one array, no memory."""
    codec, update = Codec(config), {"x": x}
    frame, like = codec.encode(update), pipeline.specs(update)
    timed = take_turns(
        {
            "copy": baselines.copy(update),
            "encode": partial(codec.encode, update),
            "decode": partial(pipeline.decode, frame, like),
        },
        runs,
    )
    return {
        "bits": 8 * len(frame) / x.size,
        "nmse": nmse(x, pipeline.decode(frame, like)["x"]),
        "encode": timed.median("encode"),
        "decode": timed.median("decode"),
        "encode of memcpy": timed.ratio("copy", "encode"),
        "decode of memcpy": timed.ratio("copy", "decode"),
        "megabytes": x.nbytes / 1e6,
    }


def their_figures(
    x: Values, distortions: list[float], peers: list[str], pythons: dict[str, str], runs: int
) -> tuple[dict[str, list[dict[str, float]]], list[str]]:
    """Measure the peers that are there.

    Returns
    -------
    tuple
        Figures by title, for each distortion; and a sentence for each peer that is not installed.
    """
    found, absent = {}, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.npy"
        np.save(path, x)
        for peer in peers:
            entry = RIVALS[peer]
            arguments = ["-m", "benchmarks.rivals", peer, str(path), str(runs), *map(str, distortions)]
            python = pythons.get(entry.package, fresh.PYTHON)
            try:
                results = fresh.run(arguments, _ONE_THREAD, python)
            except RuntimeError as error:
                if _MISSING not in str(error):
                    raise
                absent.append(f"{entry.title} is not installed: pip install {entry.requirement}.")
                continue
            found[entry.title] = [{**result, "megabytes": x.nbytes / 1e6} for result in results]
    return found, absent


def _row(title: str, setting: str, figures: dict[str, float], ours: dict[str, float]) -> Row:
    return {
        "codec": title,
        "at the distortion of": setting,
        "bits": figures["bits"],
        "nMSE": figures["nmse"],
        "encode MB/s": figures["megabytes"] / figures["encode"],
        "decode MB/s": figures["megabytes"] / figures["decode"],
        "encode, of memcpy": figures["encode of memcpy"],
        "decode, of memcpy": figures["decode of memcpy"],
        "ours encodes, times faster": figures["encode"] / ours["encode"],
        "ours decodes, times faster": figures["decode"] / ours["decode"],
    }


if __name__ == "__main__":
    options.run(main)
