"""Fills in a page's figures: each command that stands in a mark is run, and its tables replace what follows.

The marks are comments, which a reader of the page doesn't see:

    <!-- python -m benchmarks.startup -->
    (tables)
    <!-- end -->
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import options

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
BLOCK = re.compile(
    r"<!-- (?P<variables>(?:\w+=\S+ )*)python (?P<arguments>-m benchmarks\.[^\n]*) -->\n.*?<!-- end -->", re.S
)


def main(
    only: Annotated[str, typer.Option(help="Part of the commands that run.", show_default="all of them")] = "",
    page: Annotated[Path, typer.Option(help="The page.")] = PAGE,
) -> None:
    """Run a page's commands, and put their tables in."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        if only in block[0].partition("\n")[0]:
            typer.echo(f"python {block['arguments']}")
            text = text.replace(block[0], filled(block))
            page.write_text(text, encoding="utf-8")  # at once: a later command may fail


def filled(block: re.Match[str]) -> str:
    """Run a block's command, and return the block with its output.

    Raises
    ------
    RuntimeError
        If the command fails.
    """
    variables = dict(pair.split("=", 1) for pair in block["variables"].split())
    arguments = [*shlex.split(block["arguments"]), "--form", "markdown"]
    done = subprocess.run([sys.executable, *arguments], env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"python {block['arguments']} failed: {done.stderr.strip()[-600:]}")
    return f"{block[0].partition(chr(10))[0]}\n\n{done.stdout.strip(chr(10))}\n\n<!-- end -->"


if __name__ == "__main__":
    options.run(main)
