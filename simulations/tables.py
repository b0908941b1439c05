"""The rate-accuracy table, for the terminal."""

from rich.table import Table

from simulations.results import Comparison, Summary
from simulations.units import as_bytes, as_ratio


def terminal_table(comparison: Comparison) -> Table:
    """Make the table of all schemes, with the cheapest ones last as in the comparison."""
    table = Table(title=None, caption=caption(comparison), caption_justify="left")
    table.add_column("Scheme")
    for heading in (
        "Accuracy",
        "Bits per parameter",
        "Sent per client and round",
        "Sent in all",
        "Less than FedAvg",
    ):
        table.add_column(heading, justify="right")
    for row in comparison.summaries():
        table.add_row(
            row.label,
            accuracy(row),
            f"{row.bits_per_parameter:.3g}",
            as_bytes(row.uplink_bytes_per_message),
            as_bytes(row.uplink_bytes),
            "–" if row.ratio is None else as_ratio(row.ratio),
        )
    return table


def accuracy(row: Summary) -> str:
    """Write the final accuracy in per cent, with its standard deviation where there are several seeds."""
    spread = f" ± {100 * row.spread:.1f}" if row.seeds > 1 else ""
    return f"{100 * row.accuracy:.1f}{spread} %"


def caption(comparison: Comparison) -> str:
    """Say what the numbers are."""
    seeds = len(comparison.seeds)
    over = f"; mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    return f"Accuracy on the test data: mean of the last fifth of the rounds{over}. Bytes: whole messages."
