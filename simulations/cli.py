"""The commands of ``python -m simulations``."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from simulations.choices import split_choices
from simulations.presets import PRESETS, preset
from simulations.settings import Settings

if TYPE_CHECKING:
    from simulations.results import Comparison

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated training with CO3 through Flower's Simulation Runtime.",
)
_DEFAULTS = Settings()
_console = Console()


@app.command()
def compare(
    schemes: Annotated[
        str,
        typer.Option(
            help="Names separated by commas, with settings: fedavg,co3-fp4,co3:format=fp4,scale=40. "
            "'default' stands for the default ones."
        ),
    ] = "default",
    task: Annotated[
        str, typer.Option(help=f"{', '.join(PRESETS)}: what settings below are unless given; or your own Python file.")
    ] = "digits",
    dataset: Annotated[
        str | None, typer.Option(help="digits, a local folder, or the name of an image data set on the Hub.")
    ] = None,
    clients: Annotated[int, typer.Option(help="Number of simulated clients.")] = 10,
    partitioner: Annotated[str | None, typer.Option(help="iid, dirichlet:alpha=0.5 or shards:per_client=2.")] = None,
    fraction_train: Annotated[float | None, typer.Option(help="Share of the clients that train in a round.")] = None,
    model: Annotated[str | None, typer.Option(help="cnn, cnn-small, resnet18 or torchvision:<name>.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.")] = None,
    local_epochs: Annotated[int | None, typer.Option(help="A client's epochs in a round.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples in a batch.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="The clients' optimiser: sgd or adam.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The clients' learning rate.")] = None,
    learning_rate_schedule: Annotated[
        str | None, typer.Option(help="How it falls to 0 over the rounds: constant (not at all), linear or cosine.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="The clients' momentum, for sgd.")] = None,
    outer_products: Annotated[
        str | None,
        typer.Option(
            help="Approximate the clients' weight gradients: topk:k=8,memory_decay=1, weighted:k=8, random:k=8."
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="The strategy that aggregates, such as fedavgm:server_momentum=0.9.")
    ] = None,
    links: Annotated[
        str | None,
        typer.Option(help="Simulated time on iot, 3g, 4g, dsl, wifi, wan, lognormal, 3g+4g:spread=0.5, trace:path=F."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="What trains: profile:examples_per_second=1000 or measured:factor=10.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Simulated seconds of a round, after which updates are lost.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Accuracy (0 to 1) up to which bytes and simulated time are compared.")
    ] = None,
    learning_rates: Annotated[
        str, typer.Option(help="Tune each scheme's learning rate over these, separated by commas.")
    ] = "",
    bits: Annotated[
        str, typer.Option(help="Give each scheme that has no fixed rate each of these budgets, in bits per parameter.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="Repeat everything with so many seeds.")] = 1,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.")] = _DEFAULTS.seed,
    engine: Annotated[
        str,
        typer.Option(help="flower: Flower's Simulation Runtime, clients side by side; inline: runs side by side."),
    ] = "flower",
    parallel: Annotated[
        int | None, typer.Option(help="Clients or runs that train at once.", show_default="one per processor")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder on a disk with room for the clients' memories while they train: 4 bytes per parameter and "
            "client, twice that with a downlink.",
            show_default="in RAM",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results and report. Runs that are there are kept.")] = Path(
        "results"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Make all runs again, also those that are there.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Flower's own log.")] = False,
) -> None:
    """Train the same model with several schemes and report accuracy against bytes.

    Ends with a table here, and results.json, rounds.csv, report.html and the figures in the folder --out.
    """
    # The packages that train take seconds to import; --help and errors in options shouldn't.
    from simulations.compare import Plan
    from simulations.compare import compare as run
    from simulations.schemes import at_budgets, make_schemes

    given = {
        "dataset": dataset,
        "partitioner": partitioner,
        "model": model,
        "strategy": strategy,
        "fraction_train": fraction_train,
        "rounds": rounds,
        "local_epochs": local_epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "learning_rate_schedule": learning_rate_schedule,
        "momentum": momentum,
        "outer_products": outer_products,
        "links": links,
        "device": device,
        "deadline": deadline,
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    settings = Settings(**{**preset(task), **chosen, "seed": first_seed})
    if seeds < 1:
        raise ValueError(f"{seeds} seeds are none at all: give at least one.")
    plan = Plan(
        settings=settings,
        schemes=make_schemes(at_budgets(split_choices(schemes), _numbers(bits, "bits"))),
        seeds=list(range(first_seed, first_seed + seeds)),
        clients=clients,
        parallel=parallel,
        store=store,
        engine=engine,
        target=target,
        learning_rates=tuple(_numbers(learning_rates, "learning-rates")),
    )
    plan.check()
    comparison = run(plan, out, _console, verbose=verbose, command=_command(), fresh=fresh)
    if trouble := _finish(comparison, out):
        raise RuntimeError(f"The comparison is incomplete. {trouble}")


@app.command()
def aop(
    dataset: Annotated[str, typer.Option(help="MNIST: a local folder, or its name on the Hub.")] = "ylecun/mnist",
    rows: Annotated[
        str, typer.Option(help='Rows of the table, such as "exact; topk, memory; topk".', show_default="all")
    ] = "",
    runs: Annotated[int, typer.Option(help="Runs of each entry, with the seeds 0, 1, ...")] = 10,
    epochs: Annotated[int, typer.Option(help="Epochs of a run.")] = 30,
    once: Annotated[
        bool, typer.Option("--once", help="Apply the softmax once, and not twice as for the published table.")
    ] = False,
    parallel: Annotated[int | None, typer.Option(help="Runs at once.", show_default="one per processor")] = None,
) -> None:
    """Train the MNIST table of Mem-AOP-GD (arXiv:2110.09164) again, and show it beside the published one."""
    from simulations.aop import reproduce

    _console.print(reproduce(dataset, rows=rows, runs=runs, epochs=epochs, twice=not once, parallel=parallel))


@app.command()
def distributions(
    cifar10: Annotated[str, typer.Option(help="CIFAR-10: a local folder, or its name on the Hub.")] = "uoft-cs/cifar10",
    rounds: Annotated[int, typer.Option(help="Rounds of training, at least three.")] = 7,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for distributions.csv.")] = Path("results"),
) -> None:
    """Ask whether GenNorm is the answer: which distribution fits what clients send, and what that is worth in bits.

    Three networks, of which four clients train each: a CNN on CIFAR-10, a CNN and a ResNet-18 on digits.
    """
    from simulations.gennorm_question import ask, tables

    if rounds < 3:
        raise ValueError(f"{rounds} rounds have no start, middle and end: give at least three.")
    settings = Settings(rounds=rounds, seed=seed, partitioner="iid")
    networks = {
        "CNN, CIFAR-10": (dataclasses.replace(settings, dataset=cifar10, learning_rate=0.02), 20),
        "CNN, digits": (settings, 4),
        "ResNet-18, digits": (dataclasses.replace(settings, model="resnet18", learning_rate=0.02), 4),
    }
    for table in tables(ask(networks, out)):
        _console.print(table)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of earlier comparisons.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report.", show_default="the comparison's own, for one")
    ] = None,
) -> None:
    """Make tables, figures and report.html again from results.json; of several comparisons on one task, one report."""
    from simulations.joining import join
    from simulations.results import Comparison

    if len(folders) > 1 and out is None:
        raise ValueError("Several comparisons make one report, and it needs a folder: give --out.")
    found = [Comparison.load(folder) for folder in folders]
    if trouble := _finish(found[0] if len(found) == 1 else join(found), out or folders[0]):
        _console.print(f"The comparison is incomplete. {trouble}")


def _finish(comparison: "Comparison", folder: Path) -> str:
    """Show the table and write the report of what there is; return why that isn't everything, if it isn't."""
    from simulations.report import write_report
    from simulations.results import problems
    from simulations.table_files import write_tables
    from simulations.tables import terminal_table

    trouble = " ".join(problems(comparison))
    if not comparison.summaries():
        raise RuntimeError(f"There is nothing to report. {trouble} Flower's log is in {folder}.")
    page = write_report(comparison, folder)
    write_tables(comparison, folder)
    _console.print(terminal_table(comparison))
    _console.print(f"Report: {page}", highlight=False, soft_wrap=True)
    return trouble


def _numbers(text: str, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"--{option} is {text!r}, but must be numbers separated by commas.") from None
    if not all(number > 0 for number in numbers):
        raise ValueError(f"--{option} is {text!r}, but all of them must be above 0.")
    return numbers


def _command() -> str:
    """Return the command line that was given, to be repeated by whoever reads the report."""
    return shlex.join(["python", "-m", "simulations", *sys.argv[1:]])


def main() -> None:
    """Run the command line; an error is a sentence and not a traceback."""
    try:
        app(prog_name="python -m simulations")
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        Console(stderr=True).print(f"[bold red]Error:[/bold red] {error}", highlight=False)
        sys.exit(1)
