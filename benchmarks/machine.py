"""The line that every figure needs: the machine, the versions, the code's own state."""

import importlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

THREADS, KERNELS = "FLWR_CO3_THREADS", "FLWR_CO3_KERNELS"  # environment variables that the kernels obey

_PACKAGES = ("flwr", "numpy", "scipy")
_ROOT = Path(__file__).parent.parent


def describe() -> dict[str, str]:
    """What figures depend on, by name; everything in it is text."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "flwr-co3": commit(),
        "kernels": engine(),
        "threads": os.environ.get(THREADS) or os.environ.get("OMP_NUM_THREADS") or "not set",
    }


def line() -> str:
    """The same in one line."""
    return ", ".join(f"{name} {value}" for name, value in describe().items())


def commit() -> str:
    """The commit that is measured, with a "+" where files differ from it; "unknown" outside a checkout."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def engine() -> str:
    """What runs the hot loops: "c" or "numpy"."""
    try:
        kernels = importlib.import_module("flwr_co3.kernels")
    except ModuleNotFoundError:  # a version before there were any
        return "numpy"
    return str(kernels.engine())


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = (
            entry.partition(":")[2] for entry in cpuinfo.read_text().splitlines() if entry.startswith("model name")
        )
        return next(names, platform.machine()).strip()
    return platform.processor() or platform.machine()
