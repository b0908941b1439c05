"""What has to be measured in a process of its own: imports, memory, another number of threads, another Python."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PYTHON = sys.executable

_ROOT = Path(__file__).parent.parent


def run(arguments: Sequence[str], env: Mapping[str, str] | None = None, python: str = PYTHON) -> Any:
    """Run Python with these arguments, from the checkout's root, and read the JSON in its output's last line.

    Parameters
    ----------
    arguments : sequence of str
        Such as ``["-m", "benchmarks.codec", "--form", "json"]``.
    env : mapping of str to str, optional
        Environment variables to add.
    python : str
        The interpreter.

    Raises
    ------
    RuntimeError
        If it fails: the message ends with what it said.
    """
    # Modules are compiled once, as where a package is installed: else each process would compile those that changed.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([python, *arguments], cwd=_ROOT, env={**kept, **(env or {})}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{python} {' '.join(arguments)[:80]} failed: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_code(code: str, *arguments: str, env: Mapping[str, str] | None = None) -> Any:
    """Run lines of Python in a process of their own; see `run`."""
    return run(["-c", code, *arguments], env)
