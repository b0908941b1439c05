"""Writes the stored optimal scales: ``python -m tests.convert.make_optimal_scales``."""

import json
from pathlib import Path

import flwr_co3.convert
from flwr_co3.compress.tables import decode_shape, encode_shape
from flwr_co3.convert import FloatFormat
from flwr_co3.convert.float_format import PRESETS
from flwr_co3.convert.optimal_scale import compute_unit_optimal_scale
from flwr_co3.gennorm import SHAPE_RANGE

PATH = Path(flwr_co3.convert.__file__).with_name("optimal_scales.json")


def stored_shapes() -> list[float]:
    """The shapes that a frame can name."""
    low, high = map(encode_shape, SHAPE_RANGE)
    return [decode_shape(code) for code in range(low, high + 1)]


def main() -> None:
    """Compute all of them."""
    shapes = stored_shapes()
    table = {"shapes": shapes}
    for name in PRESETS:
        table[name] = [float(f"{compute_unit_optimal_scale(FloatFormat(name), shape):.9g}") for shape in shapes]
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(values)}" for key, values in table.items())
    PATH.write_text(f"{{\n{lines}\n}}\n", encoding="ascii")


if __name__ == "__main__":
    main()
