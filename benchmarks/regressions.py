"""A saved baseline of ratios, and what has become slower since.

    python -m benchmarks.regressions save        # measures, and writes benchmarks/baseline.json
    python -m benchmarks.regressions compare     # measures again, and fails if something is slower

All figures are speeds as shares of another speed in the same process, memcpy's or Flower's own, so that a machine
that is busy or slow changes them little; what looks slower is measured again before it is called so. Where the
processor is another than the baseline's, ratios differ by more than the tolerance: save a baseline there first.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from benchmarks import codec, flower, machine, options, startup, tensors
from benchmarks.layouts import draw_layout
from benchmarks.output import Form, Row, Table, show
from benchmarks.settings import choose

BASELINE = Path(__file__).parent / "baseline.json"

Measure: TypeAlias = Callable[[], dict[str, float]]

_SETTINGS = "fp4,fp4 Huffman,fp8,0.5 bit,0.1 bit"
_SAME_MACHINE = ("processor", "cores", "kernels", "threads")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Where = Annotated[Path, typer.Option("--baseline", help="The file of the baseline.")]


@app.command()
def save(
    entries: Annotated[int, typer.Option(min=8, help="Entries of the updates.")] = 2_000_000,
    runs: options.Runs = 7,
    baseline: Where = BASELINE,
) -> None:
    """Measure, and write the baseline."""
    measured = speeds(entries, runs)
    saved = {"machine": machine.describe(), "entries": entries, "runs": runs, "speeds": measured}
    baseline.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
    typer.echo(f"{len(measured)} ratios are in {baseline}.")


@app.command()
def compare(
    tolerance: Annotated[float, typer.Option(min=0, help="Share by which a ratio may be lower.")] = 0.25,
    tries: Annotated[int, typer.Option(min=1, help="Measurements of what looks slower; the best one counts.")] = 3,
    baseline: Where = BASELINE,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Measure again, and show what has become slower."""
    if not baseline.exists():
        raise ValueError(f"There is no baseline in {baseline}. Write one: python -m benchmarks.regressions save")
    saved = json.loads(baseline.read_text(encoding="utf-8"))
    before: dict[str, float] = saved["speeds"]
    now: dict[str, float] = {}
    for _ in range(tries):
        again = [name for name in before if now.get(name, 0.0) < (1 - tolerance) * before[name]]
        if not again:
            break
        measured = speeds(saved["entries"], saved["runs"], only=again)
        now |= {name: max(speed, now.get(name, 0.0)) for name, speed in measured.items()}
    rows = [_row(name, before[name], now.get(name), tolerance) for name in before]
    show([Table(f"Since {saved['machine']['flwr-co3']}", rows, note=_other_machine(saved["machine"]))], form)
    slower = [str(row["speed"]) for row in rows if row["verdict"] != "as fast"]
    if slower:
        raise RuntimeError(f"Slower than the baseline by more than {tolerance:.0%}: {'; '.join(slower)}.")


def speeds(entries: int, runs: int, only: list[str] | None = None) -> dict[str, float]:
    """Measure speeds as shares of others in the same process, by name; larger is better.

    Parameters
    ----------
    entries : int
        Of the updates.
    runs : int
        That the medians are taken over.
    only : list of str, optional
        Names of those that are wanted; what comes along with them may be there, too.
    """
    wanted = _parts(entries, runs)
    if only is not None:
        wanted = {part: measure for part, measure in wanted.items() if any(name.startswith(part) for name in only)}
    return {f"{part}: {name}": speed for part, measure in wanted.items() for name, speed in measure().items()}


def _parts(entries: int, runs: int) -> dict[str, Measure]:
    """What is measured together, by the beginning of its names."""
    parts: dict[str, Measure] = {"import": partial(_imports, runs), "server, 10 replies": partial(_server, runs)}
    for layout in ("one tensor", "ResNet-18"):
        for setting in choose(_SETTINGS):
            parts[f"{layout}, {setting}"] = partial(_codec, layout, setting, entries, runs)
    parts["DenseNet-121"] = partial(_tensors, entries, runs)
    return parts


def _codec(layout: str, setting: str, entries: int, runs: int) -> dict[str, float]:
    (config,) = choose(setting).values()
    timed = codec.times(draw_layout(layout, entries), config, runs)
    return {f"{call}, of memcpy": timed.ratio("copy", call) for call in ("encode", "decode")}


def _tensors(entries: int, runs: int) -> dict[str, float]:
    (config,) = choose("fp4").values()
    row = tensors.row("DenseNet-121", "fp4", draw_layout("DenseNet-121", entries), config, runs)
    return {f"{call}, of one tensor": 1 / _number(row[f"{call}, times one"]) for call in ("encode", "decode")}


def _server(runs: int) -> dict[str, float]:
    rows = flower.measure(100_000, 10, choose("fp4,0.1 bit"), 0.0, runs)
    return {
        f"{row['scheme']}, of FedAvg": _number(row["aggregates faster than FedAvg"])
        for row in rows
        if row["scheme"] != flower.PLAIN
    }


def _imports(runs: int) -> dict[str, float]:
    flwr, ours = startup.imports(runs)
    return {"flwr_co3, of flwr": _number(flwr["ms"]) / _number(ours["ms"])}


def _number(cell: object) -> float:
    assert isinstance(cell, float)
    return cell


def _row(name: str, before: float, now: float | None, tolerance: float) -> Row:
    if now is None:
        return {"speed": name, "before": before, "now": None, "change %": None, "verdict": "gone"}
    verdict = "as fast" if now >= (1 - tolerance) * before else "SLOWER"
    return {"speed": name, "before": before, "now": now, "change %": 100 * (now / before - 1), "verdict": verdict}


def _other_machine(saved: dict[str, str]) -> str:
    here = machine.describe()
    differing = [f"{name} was {saved.get(name)}" for name in _SAME_MACHINE if saved.get(name) != here[name]]
    return f"The baseline is another machine's: {', '.join(differing)}." if differing else ""


if __name__ == "__main__":
    options.run_app(app)
