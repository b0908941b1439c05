"""The rate-accuracy table, for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from simulations.results import Comparison, Summary
from simulations.schemes import PLAIN
from simulations.units import as_bits, as_bytes, as_ratio, as_seconds


def terminal_table(comparison: Comparison) -> Table:
    """Make the table: a row for each scheme, in the comparison's order."""
    table = Table(caption=caption(comparison), caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Scheme")  # in a narrow terminal the labels wrap, and no number is cut
    for heading in ("Accuracy", "Bits per\nparameter", "A client's\nmessage", "Sent\nin all", "Less than\nFedAvg"):
        table.add_column(heading, justify="right", no_wrap=True)
    timed = comparison.settings.links != ""
    if timed:
        table.add_column("Time to\ntarget", justify="right", no_wrap=True)
    for row in comparison.summaries():
        table.add_row(
            row.label,
            accuracy(row),
            as_bits(row.bits_per_parameter),
            as_bytes(row.uplink_bytes_per_message),
            as_bytes(row.uplink_bytes),
            "–" if row.ratio is None else as_ratio(row.ratio),
            *([time_to_target(comparison, row)] if timed else []),
        )
    return table


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
    if comparison.settings.links:
        text += (
            f" Time: simulated, until {100 * comparison.target_accuracy:.1f} % was first reached (× less than FedAvg)."
        )
    return text
