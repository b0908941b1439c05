"""Time that many tensors take, over that of one tensor of the same size: what each tensor costs beside its entries."""

from functools import partial

from benchmarks import options, pipeline
from benchmarks.layouts import LAYOUTS, draw, draw_layout
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update
from benchmarks.settings import choose
from benchmarks.timing import Action, take_turns
from flwr_co3 import CO3Config, Codec, ErrorMemory


def main(
    entries: options.Entries = 1_000_000,
    settings: options.Settings = "fp4,fp8,0.1 bit",
    runs: options.Runs = 5,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Time many tensors against one."""
    rows = []
    for layout in LAYOUTS:
        update = draw_layout(layout, entries)
        if len(update) > 1:
            rows += [row(layout, name, update, config, runs) for name, config in choose(settings).items()]
    show([Table("Many tensors against one of the same size", rows)], form)


def row(layout: str, setting: str, update: Update, config: CO3Config, runs: int) -> Row:
    """Measure one layout with one setting."""
    entries = sum(tensor.size for tensor in update.values())
    one = draw([(entries,)])
    timed = take_turns({**_actions("many", update, config), **_actions("one", one, config)}, runs)
    return {
        "update": layout,
        "tensors": len(update),
        "entries": entries,
        "setting": setting,
        "encode ms": 1e3 * timed.median("encode many"),
        "encode, times one": timed.ratio("encode many", "encode one"),
        "decode ms": 1e3 * timed.median("decode many"),
        "decode, times one": timed.ratio("decode many", "decode one"),
    }


def _actions(name: str, update: Update, config: CO3Config) -> dict[str, Action]:
    codec, memory, like = Codec(config), ErrorMemory(config.memory_decay), pipeline.specs(update)
    frame = pipeline.compensate_encode_keep(codec, update, memory).frame
    total = pipeline.aggregate(codec, update)

    return {
        f"encode {name}": partial(pipeline.compensate_encode_keep, codec, update, memory),
        f"decode {name}": partial(pipeline.decode_add, frame, total, 0.1, like),
    }


if __name__ == "__main__":
    options.run(main)
