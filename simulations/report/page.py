"""One HTML page that holds a whole report: no other file, no network."""

import dataclasses
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from simulations.fits import LayerFit
from simulations.report.figures import accuracy_by_bytes, accuracy_by_round, accuracy_by_time, layer_fit
from simulations.report.panels import looks_of
from simulations.report.style import SERIES, save_figure
from simulations.results import Comparison, Summary, problems
from simulations.schemes import PLAIN
from simulations.standings import standings
from simulations.tables import accuracy, caption, time_to_target
from simulations.units import as_bits, as_bytes, as_ratio, as_seconds

PAGE_FILE = "report.html"
_FIGURES = "figures"
_CLOSE = 0.02  # of accuracy; what a cheaper scheme may lose and still be named in the first sentence


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write the figures (SVG and PNG) and ``report.html`` with all of them in it; return the page's path."""
    figures = folder / _FIGURES
    figures.mkdir(parents=True, exist_ok=True)

    def drawn(figure: Figure, name: str) -> str:
        return save_figure(figure, figures, name)

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simulations.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=as_bytes, ratio=as_ratio, seconds=as_seconds, accuracy=accuracy, bits=as_bits)
    page = environment.get_template("page.html.j2").render(
        comparison=comparison,
        settings={key.replace("_", " "): value for key, value in dataclasses.asdict(comparison.settings).items()},
        summaries=comparison.summaries(),
        headline=headline(comparison),
        caption=caption(comparison),
        problems=problems(comparison),
        palette=SERIES,
        colours={name: SERIES.index(look) for name, look in looks_of(comparison).items()},
        by_bytes=drawn(accuracy_by_bytes(comparison), "accuracy-by-bytes"),
        by_round=drawn(accuracy_by_round(comparison), "accuracy-by-round"),
        standing=standings(comparison),
        timed=comparison.settings.links != "",
        time_to_target=time_to_target,
        by_time=drawn(accuracy_by_time(comparison), "accuracy-by-time") if comparison.settings.links else "",
        fits=comparison.fits,
        fit_pictures=[
            drawn(layer_fit(fit), f"fit-{fit.layer.replace('.', '-')}-round-{fit.round}")
            for fit in _first_and_last(comparison.fits)
        ],
    )
    path = folder / PAGE_FILE
    path.write_text(page, encoding="utf-8")
    return path


def _first_and_last(fits: list[LayerFit]) -> list[LayerFit]:
    """Leave out the rounds between: the table has them."""
    rounds = sorted({fit.round for fit in fits})
    return [fit for fit in fits if fit.round in (rounds[0], rounds[-1])]


def headline(comparison: Comparison) -> str:
    """Say in a sentence what came out: the cheapest scheme nearly as accurate as FedAvg."""
    rows = {row.scheme: row for row in comparison.summaries()}
    plain = rows.pop(PLAIN, None)
    if plain is None:
        best = max(comparison.summaries(), key=lambda row: row.accuracy)
        return f"{best.label} reached {accuracy(best)} with {as_bytes(best.uplink_bytes)} sent by all clients."
    close = [row for row in rows.values() if row.accuracy >= plain.accuracy - _CLOSE]
    if not close:
        return f"FedAvg reached {accuracy(plain)}; no other scheme came within {100 * _CLOSE:.0f} points of it."
    best = min(close, key=lambda row: row.uplink_bytes)
    return (
        f"{best.label} reached {accuracy(best)} with {as_bytes(best.uplink_bytes)} sent by all clients; "
        f"FedAvg {accuracy(plain)} with {as_bytes(plain.uplink_bytes)}: {_times_less(best)}."
    )


def _times_less(row: Summary) -> str:
    return "the same" if row.ratio is None else f"{as_ratio(row.ratio).rstrip('×')} times less"
