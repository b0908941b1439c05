"""Options that several commands share, and how a command line is run."""

import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console

from benchmarks.output import Form

Runs: TypeAlias = Annotated[int, typer.Option(min=1, help="Runs that the medians are taken over.")]
Shown: TypeAlias = Annotated[Form, typer.Option("--form", help="How the tables are written.")]
Settings: TypeAlias = Annotated[
    str, typer.Option(help="Names separated by commas: fp4, 0.1 bit, ..., or formats, budgets, all.")
]
Updates: TypeAlias = Annotated[
    str,
    typer.Option(help='Names separated by commas: "one tensor", ResNet-18, DenseNet-121, .npz files, or real for '
                      "all that benchmarks.updates made."),
]  # fmt: skip
Entries: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Entries of the drawn updates.", show_default="as the models have")
]


def run(command: Callable[..., Any]) -> None:
    """Run a function as this module's command line; an error is a sentence and not a traceback."""
    run_app(app_of(command))


def app_of(command: Callable[..., Any]) -> typer.Typer:
    """The app of a module that is one command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    return app


def run_app(app: typer.Typer) -> None:
    """Run an app of several commands; an error is a sentence and not a traceback."""
    try:
        app()
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        Console(stderr=True).print(f"[bold red]Error:[/bold red] {error}", highlight=False)
        sys.exit(1)
