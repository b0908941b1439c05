"""The compiled hot loops, when they are there and wanted.

Every loop over the entries of a tensor has two forms that write the same bytes: one in ``_kernels.c``, compiled when
the package is built, and one in numpy, in the function that calls it. Two settings, read from the environment when
the package is imported, say which is used and how many threads it may take:

``FLWR_CO3_KERNELS``
    ``auto`` (the default: compiled if possible), ``c`` (an error where it is not), or ``numpy``.
``FLWR_CO3_THREADS``
    Threads for large updates; by default ``OMP_NUM_THREADS``, as in other numerical libraries, or else all the cores
    that this process may use. Frames are the same whatever their number.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from logging import getLogger
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

ENGINES = ("auto", "c", "numpy")

logger = getLogger("flwr.co3")

Item = TypeVar("Item")
Result = TypeVar("Result")


def _load() -> tuple[ModuleType | None, str]:
    """Load the compiled loops, or say why that can't be done."""
    try:
        from flwr_co3 import _kernels
    except ImportError as error:
        return None, str(error)
    return _kernels, ""


_built, _why_not = _load()


def compiled() -> Any:
    """Return the module of compiled loops, or None where numpy serves."""
    return _compiled


def engine() -> str:
    """Return what runs the hot loops: "c" or "numpy"."""
    return "numpy" if _compiled is None else "c"


def use(name: str) -> None:
    """Choose what runs the hot loops from now on.

    Parameters
    ----------
    name : str
        "auto", "c" or "numpy".

    Raises
    ------
    ValueError
        If it is none of these.
    RuntimeError
        If it is "c", and the compiled loops are not there.
    """
    global _compiled
    if name not in ENGINES:
        raise ValueError(f"FLWR_CO3_KERNELS must be one of {', '.join(ENGINES)}, not {name!r}.")
    if name == "c" and _built is None:
        raise RuntimeError(
            f"FLWR_CO3_KERNELS asks for compiled loops, and they can't be loaded ({_why_not}): "
            "install flwr-co3 where a C compiler is, or from a wheel for this platform."
        )
    _compiled = None if name == "numpy" else _built


@contextmanager
def using(name: str, threads: int | None = None) -> Iterator[None]:
    """Run a block with another engine, and another number of threads."""
    global _compiled, _threads
    before = _compiled, _threads
    try:
        use(name)
        _threads = _threads if threads is None else threads
        yield
    finally:
        _compiled, _threads = before


def threads() -> int:
    """Return how many threads a large update may take."""
    return _threads


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply a function to all items, side by side if there are several; an error is raised once none is worked on."""
    workers = min(_threads, len(items))
    if workers < 2 or _compiled is None:
        return [function(item) for item in items]
    pool = _helpers(_threads - 1)
    first, *others = items
    waiting = [pool.submit(function, item) for item in others]
    try:
        results = [function(first)]
        # Helpers begin at the front: what none has begun with is done here, from the end.
        ours: list[Result] = []
        while len(ours) < len(others) and waiting[-1 - len(ours)].cancel():
            ours.append(function(others[-1 - len(ours)]))
        results += [future.result() for future in waiting[: len(others) - len(ours)]]
        return results + ours[::-1]
    finally:
        for future in waiting:
            if not future.cancel():
                future.exception()


@lru_cache(maxsize=1)
def _helpers(count: int) -> ThreadPoolExecutor:
    """Threads beside the one that calls; they stay, for starting them costs as much as a million entries."""
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and small updates never need it

    return ThreadPoolExecutor(count, thread_name_prefix="flwr-co3")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # a child process has no thread but the one that forked


def shares(count: int, entries: int) -> list[range]:
    """Cut the numbers below `count` into runs, one for each thread that so many entries are worth."""
    workers = max(1, min(_threads, count, entries // _ENTRIES_PER_THREAD))
    if _compiled is None:
        workers = 1
    bounds = [count * k // workers for k in range(workers + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]


_ENTRIES_PER_THREAD = 1 << 18  # below it, waking a thread costs more than it saves


def _threads_from(environment: dict[str, str]) -> int:
    for variable in ("FLWR_CO3_THREADS", "OMP_NUM_THREADS"):
        text = environment.get(variable, "").split(",")[0].strip()
        if text.isdigit() and int(text):
            return int(text)
        if text and variable == "FLWR_CO3_THREADS":
            raise ValueError(f"FLWR_CO3_THREADS must be a whole number above 0, not {text!r}.")
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_compiled: ModuleType | None = None
_threads = _threads_from(dict(os.environ))
use(os.environ.get("FLWR_CO3_KERNELS", "auto"))
if _built is None and engine() == "numpy" and os.environ.get("FLWR_CO3_KERNELS", "auto") == "auto":
    logger.info("flwr-co3 runs on numpy alone, many times slower: its compiled loops can't be loaded (%s).", _why_not)
