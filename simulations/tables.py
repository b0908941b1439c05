"""The rate-accuracy table, for the terminal."""

from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from simulations.results import Comparison, Summary
from simulations.schemes import PLAIN
from simulations.standings import standings
from simulations.units import as_bits, as_bytes, as_ratio, as_seconds

_MARKS = {"best": "[bold]", "tied": "= ", "": "", "alone": ""}
_DOWNLINK_SAVES = 0.9  # of the largest: settings and the like make downlinks differ a little


def terminal_table(comparison: Comparison) -> Table:
    """Make the table: a row for each scheme, in the comparison's order; both ways where a downlink is compressed."""
    table = Table(caption=caption(comparison), caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Scheme")  # in a narrow terminal the labels wrap, and no number is cut
    rows = comparison.summaries()
    columns = _BOTH_WAYS if with_downlink(comparison) else _UPLINK
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    timed = comparison.settings.links != ""
    if timed:
        table.add_column("Time to\ntarget", justify="right", no_wrap=True)
    standing = standings(comparison)
    for row in rows:
        accurate, *others = (cell(row) for cell in columns.values())
        time = [time_to_target(comparison, row)] if timed else []
        table.add_row(row.label, f"{_MARKS[standing[row.scheme]]}{accurate}", *others, *time)
    return table


def with_downlink(comparison: Comparison) -> bool:
    """Say whether a scheme compresses what the server sends, from bytes per round: runs may have ended early."""
    sent = [run.downlink_bytes / max(len(run.rounds) - 1, 1) for run in comparison.runs]
    return min(sent, default=0.0) < _DOWNLINK_SAVES * max(sent, default=0.0)


def less(ratio: float | None) -> str:
    """Write how many times less than FedAvg was sent."""
    return "–" if ratio is None else as_ratio(ratio)


def accuracy(row: Summary) -> str:
    """Write the final accuracy in per cent, with its standard deviation where there are several seeds."""
    spread = f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * row.spread:.1f}" if row.seeds > 1 else ""
    return f"{100 * row.accuracy:.1f}{spread}\N{NO-BREAK SPACE}%"


def time_to_target(comparison: Comparison, row: Summary) -> str:
    """Write the simulated time to the target accuracy, and how many times less than FedAvg's it is."""
    if row.seconds_to_target is None:
        return "not reached"
    plain = next((each.seconds_to_target for each in comparison.summaries() if each.scheme == PLAIN), None)
    factor = "" if not plain or row.scheme == PLAIN else f" ({as_ratio(plain / row.seconds_to_target)})"
    return as_seconds(row.seconds_to_target) + factor


def caption(comparison: Comparison) -> str:
    """Say what the numbers are."""
    seeds = len(comparison.seeds)
    over = f"; mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    text = f"Accuracy on the test data: mean of the last fifth of the rounds{over}. Bytes: whole messages."
    if "best" in standings(comparison).values():
        text += " Bold: best at its budget; =: not told from it by a paired t-test."
    if comparison.settings.links:
        text += (
            f" Time: simulated, until {100 * comparison.target_accuracy:.1f} % was first reached (× less than FedAvg)."
        )
    return text


_UPLINK: dict[str, Callable[[Summary], str]] = {
    "Accuracy": accuracy,
    "Bits per\nparameter": lambda row: as_bits(row.bits_per_parameter),
    "A client's\nmessage": lambda row: as_bytes(row.uplink_bytes_per_message),
    "Sent\nin all": lambda row: as_bytes(row.uplink_bytes),
    "Less than\nFedAvg": lambda row: less(row.ratio),
}
_BOTH_WAYS: dict[str, Callable[[Summary], str]] = {
    "Accuracy": accuracy,
    "Bits per\nparameter": lambda row: as_bits(row.bits_per_parameter),
    "Uplink\nin all": lambda row: as_bytes(row.uplink_bytes),
    "Downlink\nin all": lambda row: as_bytes(row.downlink_bytes),
    "Less than\nFedAvg": lambda row: less(row.both_ratio),
}
