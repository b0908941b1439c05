"""The live display of a comparison: one line per scheme, with its rounds, accuracy and bytes."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from simulations.federation import RoundResult
from simulations.units import as_bytes


class Board:
    """Shows how far each scheme is; on a terminal live, elsewhere a line for each finished run.

    Parameters
    ----------
    console : Console
        Where to show it.
    labels : dict
        The schemes' labels by name.
    rounds, seeds : int
        What each scheme has before it.
    """

    def __init__(self, console: Console, labels: dict[str, str], rounds: int, seeds: int) -> None:
        self._console = console
        self._labels = labels
        self._rounds, self._seeds = rounds, seeds
        self._bytes = dict.fromkeys(labels, 0)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[where]:>12}"),
            TextColumn("{task.fields[accuracy]:>7}", style="bold"),
            TextColumn("{task.fields[sent]:>9} sent"),
            TextColumn("{task.fields[bits]:>11}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task(
                label, total=rounds * seeds, start=False, where="", accuracy="", sent="–", bits=""
            )
            for name, label in labels.items()
        }

    def __enter__(self) -> "Board":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Show a line above the display."""
        self._progress.console.print(text)

    def start(self, scheme: str) -> None:
        """Start a scheme's clock; once is enough."""
        self._progress.start_task(self._tasks[scheme])

    def show(self, scheme: str, seed_number: int, result: RoundResult) -> None:
        """Show a round's result.

        Parameters
        ----------
        scheme : str
            Name of the scheme.
        seed_number : int
            How many seeds were done before: 0, 1, ...
        result : RoundResult
            What the round gave.
        """
        self._bytes[scheme] += result.uplink_bytes
        where = f"round {result.round}/{self._rounds}"
        self._progress.update(
            self._tasks[scheme],
            completed=seed_number * self._rounds + result.round,
            where=where if self._seeds == 1 else f"#{seed_number + 1} {where}",
            accuracy=f"{result.accuracy:.1%}",
            sent=as_bytes(self._bytes[scheme]),
            bits=f"{result.bits_per_parameter:.2f} bit/par" if result.round else "",
        )
        if result.round == self._rounds and not self._console.is_terminal:
            self.say(f"{self._labels[scheme]}: {result.accuracy:.1%}, {as_bytes(self._bytes[scheme])} sent so far")

    def fail(self, scheme: str, problem: str) -> None:
        """Show that a scheme's run ended early."""
        self._progress.stop_task(self._tasks[scheme])
        self.say(f"[red]{self._labels[scheme]} ended early:[/red] {problem}")
