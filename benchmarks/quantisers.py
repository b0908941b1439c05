"""Bits per entry at equal squared error: roundings, reconstructions and contexts, other codecs, and Shannon's bound.

Bytes of whole frames, on the uniform grid with one scale for all tensors, but for the trellis, whose column is an ideal
entropy. Bits are interpolated between steps a twelfth of an octave apart (the trellis: a fourth), nncodec's between
two of its own, and R(D) between many slopes: along a straight line, which lies above a convex curve.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from benchmarks import options
from benchmarks.layouts import draw
from benchmarks.output import Cell, Form, Row, Table, show
from benchmarks.peers import their_figures
from benchmarks.pipeline import Update
from benchmarks.rivals import RIVALS
from benchmarks.shannon import rate_distortion
from benchmarks.sources import load
from benchmarks.trellis import quantize
from flwr_co3 import CO3Config, Codec

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]  # squared error over squared norm, rising; bits an entry

OURS = {
    "nearest": {},
    "nearest + centroid": {"reconstruction": "centroid"},
    "rd": {"rounding": "rd"},
    "rd + centroid": {"rounding": "rd", "reconstruction": "centroid"},
    "rd + centroid + contexts": {"rounding": "rd", "reconstruction": "centroid", "contexts": True},
}
PEERS = ("nncodec", "nncodec-trellis")
_STEPS = 2.0 ** np.arange(-2.5, 5, 1 / 12)  # over the root of the mean square
_SLOPES = np.geomspace(0.12, 40, 40)
_SAMPLE = 50_000  # entries that the trellis is tried on: its coder is ideal, and has no memory


def main(
    shapes: Annotated[str, typer.Option(help="Of generalised normals, separated by commas.")] = "0.5,0.8,1.0,1.2",
    entries: Annotated[int, typer.Option(min=1, help="Draws of each.")] = 300_000,
    updates: Annotated[str, typer.Option(help=".npz files, or real for all that benchmarks.updates made.")] = "",
    errors: Annotated[str, typer.Option(help="nMSE of the rows.")] = "0.075,0.243,0.43,0.59,0.8,0.91",
    python: Annotated[list[str] | None, typer.Option(help="nncodec=PATH of the Python that has it.")] = None,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Compare quantisers."""
    targets = np.array([float(error) for error in errors.split(",")])
    pythons = dict(given.split("=", 1) for given in python or [])
    tables = []
    for shape in (float(part) for part in shapes.split(",") if part):
        curves = all_curves(draw([(entries,)], shape=shape), pythons, targets)
        distortions, bits = rate_distortion(shape, _SLOPES)
        rows = rows_of({"R(D)": (distortions[::-1], bits[::-1])} | curves, targets)
        for row in rows:
            row["rd + centroid, over R(D)"] = _ratio(row["rd + centroid"], row["R(D)"])
        tables.append(Table(f"{entries:,} draws of a generalised normal of shape {shape:g}: bits an entry", rows))
    for name, update in (load(updates, None) if updates else {}).items():
        rows = rows_of(all_curves(update, pythons, targets), targets)
        tables.append(Table(f"{name}: bits an entry", rows))
    show(tables, form)


def all_curves(update: Update, pythons: dict[str, str], targets: Floats) -> dict[str, Curve]:
    """Bits over squared error of all codecs; peers and the trellis see all tensors as one."""
    x = np.concatenate([tensor.reshape(-1) for tensor in update.values()])
    root = float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
    curves = {
        name: _curve(lambda step, settings=settings: _encoded(update, step * root, settings))  # type: ignore[misc]
        for name, settings in OURS.items()
    }
    sample = x[:: max(1, x.size // _SAMPLE)]
    curves["trellis, ideal"] = _curve(lambda step: _by_trellis(sample, step * root / 2), _STEPS[::3])
    if pythons:
        around = np.concatenate([0.97 * targets, np.minimum(1.2 * targets, 0.98)])  # its steps are coarse
        theirs, _ = their_figures(x, np.sort(around).tolist(), list(PEERS), pythons, 1)
        for name in PEERS:
            figures = sorted((found["nmse"], found["bits"]) for found in theirs.get(RIVALS[name].title, []))
            if figures:
                distortions, bits = np.array(figures).T
                curves[RIVALS[name].title] = distortions, bits
    return curves


def rows_of(curves: dict[str, Curve], targets: Floats) -> list[Row]:
    """One row for each squared error; nothing where a curve doesn't reach it."""
    return [
        {"nMSE": float(target), **{name: _at(curve, target) for name, curve in curves.items()}} for target in targets
    ]


def _curve(measure: Callable[[float], tuple[float, float]], steps: Floats | None = None) -> Curve:
    chosen = _STEPS if steps is None else steps
    distortions, bits = np.array([measure(float(step)) for step in chosen]).T
    # Where a finer step loses more, its levels end before the values do.
    falls = distortions == np.minimum.accumulate(distortions[::-1])[::-1]
    order = np.argsort(distortions[falls])
    return distortions[falls][order], bits[falls][order]


def _encoded(update: Update, step: float, settings: dict[str, object]) -> tuple[float, float]:
    report = Codec(CO3Config(format="uniform", scale=1 / step, **settings)).compress(update).report  # type: ignore[arg-type]
    return report.nmse, report.bits_per_parameter


def _by_trellis(x: npt.NDArray[np.float32], step: float) -> tuple[float, float]:
    found = quantize(x, step)
    wide = x.astype(np.float64)
    return float(np.sum((wide - found.values) ** 2) / np.sum(wide**2)), found.bits


def _at(curve: Curve, distortion: float) -> float | None:
    """Bits at a squared error."""
    distortions, bits = curve
    if not distortions[0] <= distortion <= distortions[-1]:
        return None
    return float(np.interp(distortion, distortions, bits))


def _ratio(ours: Cell, bound: Cell) -> float | None:
    return ours / bound if isinstance(ours, float) and isinstance(bound, float) else None


if __name__ == "__main__":
    options.run(main)
