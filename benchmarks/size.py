"""Bytes of frames: against the entropy of the levels they carry, and against zstd -1 on the packed codes.

Frames are those of a client whose server knows the model's tensors. The bound is each tensor's own empirical entropy of
its levels, and the frame of an update of zeros: what must be said about the tensors themselves. The probabilities that
any entropy coder needs are not in the bound, so no frame can reach it.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks import baselines, options
from benchmarks.layouts import draw
from benchmarks.levels import entropy_bits, packed_codes
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update
from benchmarks.settings import choose
from benchmarks.sources import FOLDER, load
from flwr_co3 import CO3Config, Codec

SHAPES = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0)


def main(
    entries: Annotated[int, typer.Option(min=1, help="Draws in each cell.")] = 1_000_000,
    settings: options.Settings = "all",
    updates: Annotated[
        str, typer.Option(help="Real updates: .npz files, or real for all.", show_default="all there are")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Compare sizes with the entropy and with zstd."""
    chosen = choose(settings)
    draws = {f"shape {shape:g}": draw([(entries,)], shape=shape, seed=seed) for shape in SHAPES}
    tables = [Table(f"{entries:,} draws of a generalised normal, seed {seed}", _rows(draws, chosen))]
    if updates or any(Path(FOLDER).glob("*.npz")):
        tables.append(Table("Real updates", _rows(load(updates or "real", None), chosen)))
    show(tables, form)


def row(update_name: str, setting: str, update: Update, config: CO3Config) -> Row:
    """Measure one cell."""
    codec = Codec(config)
    encoded = codec.compress(update, known=True)
    lossy = {name: encoded.sent[name] for name, tensor in update.items() if not codec.is_exact(name, tensor)}
    about = {
        name: np.zeros_like(tensor) if name in lossy else tensor for name, tensor in update.items()
    }  # a frame of zeros
    entropy = entropy_bits(lossy) / 8
    zeros = Codec(CO3Config(format=config.format, coder=config.coder)).compress(about, known=True)
    side = len(zeros.frame)
    frame = len(encoded.frame)
    return {
        "update": update_name,
        "tensors": len(update),
        "setting": setting,
        "bits": encoded.report.bits_per_parameter,
        "nMSE": encoded.report.nmse,
        "frame bytes": frame,
        "over the entropy": frame / entropy if entropy else None,
        "over entropy + side": frame / (entropy + side),
        "zstd over ours": len(baselines.zstd(packed_codes(lossy))) / frame,
    }


def _rows(updates: dict[str, Update], settings: dict[str, CO3Config]) -> list[Row]:
    return [
        row(update_name, name, update, config)
        for update_name, update in updates.items()
        for name, config in settings.items()
    ]


if __name__ == "__main__":
    options.run(main)
