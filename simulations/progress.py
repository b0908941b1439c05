"""The live display of a comparison: one line per scheme, with its rounds, accuracy and bytes."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
    rounds, runs : int
        Rounds of a run, and runs of each scheme.
    """

    def __init__(self, console: Console, labels: dict[str, str], rounds: int, runs: int) -> None:
        self._console = console
        self._labels = labels
        self._rounds, self._runs = rounds, runs
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
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=600.0,  # seconds; schemes differ in how long they take
        )
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task(
                label, total=rounds * runs, start=False, where="", accuracy="", sent="–", bits=""
            )
            for name, label in labels.items()
        }
        self._all = self._progress.add_task(
            "All", total=rounds * runs * len(labels), where="", accuracy="", sent="–", bits=""
        )

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

    def show(self, scheme: str, seed: int, result: RoundResult) -> None:
        """Show a round's result.

        Parameters
        ----------
        scheme : str
            Name of the scheme.
        seed : int
            Its seed.
        result : RoundResult
            What the round gave.
        """
        self._bytes[scheme] += result.uplink_bytes
        where = f"round {result.round}/{self._rounds}"
        self._progress.update(
            self._tasks[scheme],
            advance=min(result.round, 1),
            where=where if self._runs == 1 else f"#{seed} {where}",
            accuracy=f"{result.accuracy:.1%}",
            sent=as_bytes(self._bytes[scheme]),
            bits=f"{result.bits_per_parameter:.2f} bit/par" if result.round else "",
        )
        self._progress.update(self._all, advance=min(result.round, 1), sent=as_bytes(sum(self._bytes.values())))
        if result.round == self._rounds and not self._console.is_terminal:
            self.say(f"{self._labels[scheme]}: {result.accuracy:.1%}, {as_bytes(self._bytes[scheme])} sent so far")

    def skip(self, scheme: str) -> None:
        """Leave out a run that is there already."""
        for task in (self._tasks[scheme], self._all):
            self._progress.update(task, total=self._total(task) - self._rounds)

    def _total(self, number: TaskID) -> float:
        return next(task.total or 0.0 for task in self._progress.tasks if task.id == number)

    def fail(self, scheme: str, problem: str) -> None:
        """Show that a scheme's run ended early."""
        self._progress.stop_task(self._tasks[scheme])
        self.say(f"[red]{self._labels[scheme]} ended early:[/red] {problem}")
