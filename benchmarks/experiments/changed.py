"""`python -m simulations`, with something changed by as much as its first argument says."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager


def simulate(change: Callable[[float], AbstractContextManager[None]]) -> None:
    """Run the simulations' command line; with its inline engine and one process, since others are not patched."""
    from simulations.cli import main

    with change(float(sys.argv.pop(1))):
        main()
