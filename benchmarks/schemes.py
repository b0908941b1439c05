"""Each scheme at each budget: what it uses of it, what it loses, and how long that takes beside a copy and CO3.

"nMSE" is the squared error over the squared norm, with a memory to hold it: unbiased schemes are damped then.
"Undamped" is that of unbiased schemes without a memory, which makes them unbiased. Speeds are shares of memcpy's
(np.copyto into a warm buffer) and of CO3's at the same budget, measured in turns in the same process; the search for a
budget is part of encoding. Times are the processor's, over all threads: what else runs on the machine matters little.
"""

import time
from functools import partial
from typing import Annotated, NamedTuple

import typer

from benchmarks import baselines, options, pipeline
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update
from benchmarks.sources import load
from benchmarks.timing import Action, take_turns
from flwr_co3 import CO3Config, Codec, Encoded, ErrorMemory
from flwr_co3.schemes import scheme_names
from simulations.choices import split_choices
from simulations.schemes import at_budgets, make_scheme

OURS = ("co3", "co3:rounding=rd,reconstruction=centroid")
EXTERNAL = ("sz3", "nncodec")  # they need packages of their own


def main(
    updates: options.Updates = "one tensor",
    entries: options.Entries = 200_000,
    bits: Annotated[str, typer.Option(help="Budgets in bits per parameter.")] = ".05,.1,.5,2",
    schemes: Annotated[
        str, typer.Option(help="Names with settings, as in a comparison.", show_default="all of the package")
    ] = "",
    runs: options.Runs = 3,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Compare schemes on updates, budget by budget; those without a knob at the rate that they have."""
    names = split_choices(schemes) or [*OURS, *(name for name in scheme_names() if name not in EXTERNAL)]
    budgets = [float(part) for part in bits.split(",")]
    fixed = [name for name in names if at_budgets([name], budgets) == [name]]
    tables = []
    for title, update in load(updates, entries).items():
        for budget in budgets:
            turned = {name: at_budgets([name], [budget])[0] for name in names if name not in fixed}
            rows = [row(name, update, config_of(text), runs) for name, text in turned.items()]
            tables.append(Table(f"{title}, {budget:g} bit", rows))
        rows = [row(name, update, config_of(name), runs) for name in fixed]
        tables.append(Table(f"{title}, the one rate that they have", rows))
    show([table for table in tables if table.rows], form)


def config_of(text: str) -> CO3Config:
    """Read a scheme as a comparison does.

    Raises
    ------
    ValueError
        If it compresses nothing.
    """
    config = make_scheme(text).config
    if config is None:
        raise ValueError(f"{text} sends weights as they are, with no codec to measure: take none.")
    return config


class Work(NamedTuple):
    """What a client and a server do with an update."""

    codec: Codec
    update: Update

    def encoded(self, memory: ErrorMemory | None) -> Encoded:
        """Encode it once."""
        return self.codec.compress(self.update, memory=memory)

    def actions(self, name: str) -> dict[str, Action]:
        """What is timed; a memory would make each round's update another one, so encoding has none."""
        frame, like = self.encoded(ErrorMemory()).frame, pipeline.specs(self.update)
        return {
            f"encode {name}": partial(self.encoded, None),
            f"decode {name}": partial(pipeline.decode, frame, like),
        }


def row(name: str, update: Update, config: CO3Config, runs: int) -> Row:
    """Measure one scheme.

    Raises
    ------
    RuntimeError
        If its budget is exceeded.
    """
    this, ours = (Work(Codec(each, seed=0), update) for each in (config, CO3Config(rate=config.rate)))
    entries = sum(tensor.size for tensor in update.values())
    encoded = this.encoded(ErrorMemory())
    size = len(encoded.frame)
    budget = None if config.limit is None else config.limit.bytes_for(entries)
    if budget is not None and size > budget:
        raise RuntimeError(f"A frame of {name} has {size} bytes, and {budget} are allowed.")
    actions = {"copy": baselines.copy(update), **this.actions("this"), **ours.actions("ours")}
    timed = take_turns(actions, runs, time.process_time)
    unbiased = config.other_scheme is not None and config.other_scheme.unbiased
    return {
        "scheme": name,
        "bits": 8 * size / entries,
        **({} if budget is None else {"used %": 100 * size / budget}),
        "nMSE": encoded.nmse,
        "unbiased": "yes" if unbiased else "no",
        "undamped nMSE": this.encoded(None).nmse if unbiased else None,
        "encode ms": 1e3 * timed.median("encode this"),
        "encode, of memcpy": timed.ratio("copy", "encode this"),
        "encode, of CO3": timed.ratio("encode ours", "encode this"),
        "decode ms": 1e3 * timed.median("decode this"),
        "decode, of memcpy": timed.ratio("copy", "decode this"),
        "decode, of CO3": timed.ratio("decode ours", "decode this"),
    }


if __name__ == "__main__":
    options.run(main)
