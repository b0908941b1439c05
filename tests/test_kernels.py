"""Which loops run and who says so; and arguments that no caller gives, which the compiled ones must survive."""

import ast
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flwr_co3 import kernels
from tests.engines import NUMPY, VECTORS, running

ROOT = Path(__file__).parent.parent

#: What a fresh process prints: the engine and the threads, after an update has made its way there and back.
PROBE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
{before}
import numpy as np
from flwr_co3 import kernels
from flwr_co3.codec import Codec
x = {{"w": np.linspace(-1, 1, 3000, dtype="f4")}}
assert Codec().decode(Codec().encode(x))["w"].shape == (3000,)
print(kernels.engine(), kernels.threads())
"""
#: Makes the import of the extension fail, as where nothing was compiled.
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "flwr_co3._kernels":
            raise ImportError("nothing was compiled")
sys.meta_path.insert(0, Missing())
"""


def probe(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `PROBE` with some of the variables set and the others not."""
    ours = ("FLWR_CO3_KERNELS", "FLWR_CO3_THREADS", "OMP_NUM_THREADS")
    clean = {variable: text for variable, text in os.environ.items() if variable not in ours}
    return subprocess.run(
        [sys.executable, "-c", PROBE.format(before=before)],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# -- what is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, f"c {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"),
        ({"FLWR_CO3_KERNELS": "numpy", "FLWR_CO3_THREADS": "3"}, "numpy 3"),
        ({"FLWR_CO3_KERNELS": "c", "OMP_NUM_THREADS": "5"}, "c 5"),
        ({"FLWR_CO3_KERNELS": "auto", "FLWR_CO3_THREADS": "1", "OMP_NUM_THREADS": "5"}, "c 1"),
        ({"OMP_NUM_THREADS": "4,2"}, "c 4"),
    ],
    ids=str,
)
def test_the_environment_chooses(environment: dict[str, str], expected: str) -> None:
    with running(VECTORS):  # skips where it can't be
        assert lines(probe(**environment)) == [expected]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"FLWR_CO3_KERNELS": "fortran"}, "FLWR_CO3_KERNELS must be one of auto, c, numpy, not 'fortran'."),
        ({"FLWR_CO3_THREADS": "many"}, "FLWR_CO3_THREADS must be a whole number above 0, not 'many'."),
        ({"FLWR_CO3_THREADS": "0"}, "FLWR_CO3_THREADS must be a whole number above 0, not '0'."),
        ({"FLWR_CO3_THREADS": "-2"}, "FLWR_CO3_THREADS must be a whole number above 0, not '-2'."),
    ],
    ids=str,
)
def test_nonsense_in_the_environment_is_refused(environment: dict[str, str], reason: str) -> None:
    done = probe(**environment)
    assert done.returncode and done.stderr.splitlines()[-1] == f"ValueError: {reason}"


@pytest.mark.parametrize("text", ["", "nonsense", "0"])
def test_nonsense_for_other_libraries_is_not_ours_to_refuse(text: str) -> None:
    assert lines(probe(OMP_NUM_THREADS=text)) == lines(probe())


def test_without_the_extension_one_line_says_so_and_numpy_serves() -> None:
    log, result = lines(probe(WITHOUT, FLWR_CO3_THREADS="2"))
    assert log.startswith("flwr.co3 INFO ") and "numpy alone" in log and "nothing was compiled" in log
    assert result == "numpy 2"
    assert lines(probe(WITHOUT, FLWR_CO3_KERNELS="numpy", FLWR_CO3_THREADS="2")) == ["numpy 2"]


def test_without_the_extension_asking_for_it_is_an_error() -> None:
    done = probe(WITHOUT, FLWR_CO3_KERNELS="c")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("RuntimeError")]
    assert "asks for compiled loops, and they can't be loaded (nothing was compiled)" in error
    assert error.endswith("from a wheel for this platform.")


def test_a_block_may_choose() -> None:
    before = kernels.engine(), kernels.threads()
    with kernels.using("numpy", 7):
        assert (kernels.engine(), kernels.threads(), kernels.compiled()) == ("numpy", 7, None)
        with running(VECTORS):
            assert (kernels.engine(), kernels.threads()) == ("c", 7)
        assert kernels.engine() == "numpy"
    assert (kernels.engine(), kernels.threads()) == before
    with pytest.raises(ZeroDivisionError), kernels.using("numpy", 7):
        raise ZeroDivisionError
    assert (kernels.engine(), kernels.threads()) == before
    with pytest.raises(ValueError, match="must be one of"), kernels.using("fortran"):
        pass
    assert (kernels.engine(), kernels.threads()) == before


def test_nothing_is_logged_where_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flwr.co3"):
        kernels.use("auto")
    assert not caplog.records


# -- side by side -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("engine", [NUMPY, VECTORS])
def test_each_keeps_the_order_and_raises_what_is_raised(engine: str, threads: int) -> None:
    with running(engine, threads):
        assert kernels.each(lambda x: x * x, range(20)) == [x * x for x in range(20)]
        assert kernels.each(lambda x: x, range(0)) == []
        with pytest.raises(ZeroDivisionError):
            kernels.each(lambda x: 1 // (x - 3), range(20))


@pytest.mark.parametrize("fails", [0, 3])
def test_nothing_is_worked_on_once_an_error_is_raised(fails: int) -> None:
    begun, ended = [], []

    def work(item: int) -> None:
        if item == fails:
            raise ZeroDivisionError
        begun.append(item)
        time.sleep(0.01)
        ended.append(item)

    with running(VECTORS, 3):
        with pytest.raises(ZeroDivisionError):
            kernels.each(work, range(20))
        assert sorted(begun) == sorted(ended)
        so_far = len(begun)
        assert kernels.each(lambda x: x, range(20)) == list(range(20))
    assert len(begun) == so_far < 20


def test_callers_of_several_threads_share_the_helpers() -> None:
    def call(start: int) -> list[int]:
        return kernels.each(lambda x: x * x, range(start, start + 50))

    with running(VECTORS, 3), ThreadPoolExecutor(4) as callers:
        assert list(callers.map(call, range(20))) == [[x * x for x in range(start, start + 50)] for start in range(20)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes don't fork here")
def test_a_forked_process_has_helpers_of_its_own() -> None:
    forks = """
import os, signal, threading, time
from flwr_co3 import kernels

def worker(item):
    time.sleep(0.01)
    return threading.current_thread().name

def several():
    return len(set(kernels.each(worker, range(20)))) > 1

with kernels.using("c", 3):
    assert several()
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(not several())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    done = subprocess.run([sys.executable, "-c", forks], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
@pytest.mark.parametrize("engine", [NUMPY, VECTORS])
def test_shares_are_all_of_it_in_order(engine: str, threads: int) -> None:
    with running(engine, threads):
        for count in (0, 1, 2, 7, 1000):
            for entries in (0, 1 << 18, 1 << 20, 1 << 30):
                shares = kernels.shares(count, entries)
                assert [k for share in shares for k in share] == list(range(count))
                assert 1 <= len(shares) <= max(1, min(threads, count, entries >> 18))
                assert max(map(len, shares)) - min(map(len, shares)) <= 1
                assert engine == VECTORS or len(shares) == 1


# -- arguments that no caller gives -----------------------------------------------------------------------------------
#
# A call that is right, for each function, and then the same with one argument too short or absurd. Each runs in a
# process of its own, so that a crash is a failure of one test.

HUGE, TINY = (1 << 63) - 1, -(1 << 63)
LESS, LESS_IN = "a[{0}] = a[{0}].reshape(-1)[:-1].copy()", "a[{0}] = [x[:-1] for x in a[{0}]]"
CALLS = """
import importlib.util
import numpy as np
spec = importlib.util.spec_from_file_location("flwr_co3._kernels", PATH)
k = importlib.util.module_from_spec(spec)
spec.loader.exec_module(k)
f4 = lambda n: np.ones(n, "f4")
i8 = lambda *v: np.array(v, "i8")
u1 = lambda n: np.zeros(n, "u1")
u2 = lambda n: np.zeros(n, "u2")
log2 = np.append(0, np.rint(np.log2(np.arange(1, 16385)) * 65536)).astype("i4")
half = u2(256); half[:2] = 8192
chunk = k.rans_encode([u1(100)], i8(100, 1, 256, 0, 0), half, 8, 50, 0)
bits = np.zeros(1 << 14, "u1")
ones = np.ones(1 << 14, "u1")
edges = np.array([.25, .75, 1.25])
RIGHT = dict(
    moments=[[f4(100)], [f4(100)], 0.5, i8(0, 0, 100), np.zeros((1, 4)), i8(0), np.zeros((1, 4096), "u4")],
    convert=[
        *([f4(100)], [f4(100)], 0.5, i8(0, 0, 100), f4(1), f4(1), f4(6), (1, 1, 5), np.zeros(100, "i4")),
        *(u1(100), i8(0), [f4(100)], np.zeros((1, 11), "u4"), np.zeros(1), np.zeros(6, "f4")),
    ],
    keep=[[f4(100)], [f4(100)], 0.5, i8(0, 0, 100), np.zeros((1, 256), "f4"), u1(100), i8(0), -1, [f4(100)]],
    counted_table=[np.arange(11), True, log2],
    fitted_frequencies=[bytes([127, 0, 127]), edges, 0],
    packed_frequencies=[i8(8192, 8192), 3],
    dense_group=[np.arange(1, 8), edges, bytes([127, 0, 127]), bytes([127, 0, 127]), True, log2],
    rans_cost=[[u1(100)], i8(100, 1, 256, 0, 0), half, log2],
    rans_encode=[[u1(100)], i8(100, 1, 256, 0, 0), half, 8, 50, 0],
    rans_decode=[chunk, i8(100), half, 8, 50, 0, [u1(100)]],
    huffman_encode=[u1(100), 0, np.ones(256, "u2"), u2(256), 30],
    huffman_decode=[bytes(13), i8(13), bits, ones, 100, u1(100)],
    gaps=[np.repeat(np.array([5, 6], "u1"), [90, 10]), 5, 1, 10, 0],
    zero_pairs=[u1(100), 0, 10, 3],
    token_table=[np.arange(64, dtype="u1"), 2, log2],
    place=[np.full(10, 3, "u1"), bytes(4), 2, u1(10), 1, 2, 10, 1000, 2, f4(2), f4(1000)],
    activity=[u1(120), 4, 10, 3, 5, np.zeros(4, "i8"), np.zeros(10, "i8")],
    sort_classes=[u1(120), 4, 10, 3, u1(4), u1(10), 1, i8(0), u1(120), np.zeros((1, 256), "i8")],
    merge_classes=[u1(120), 4, 10, 3, u1(4), u1(10), 1, i8(0), u1(120)],
    dequantize=[[u1(50)], i8(2, 0, 0, 3), f4(3), i8(0, 0, 100), [f4(100)], True],
)
"""


#: One entry less than the work needs, by function; lists are of arrays.
SHORT: dict[str, list[str]] = {
    "moments": [LESS_IN.format(k) for k in (0, 1)] + [LESS.format(k) for k in (4, 5, 6)],
    "convert": [LESS_IN.format(k) for k in (0, 1, 11)] + [LESS.format(k) for k in (4, 5, 6, 8, 9, 10, 12, 13, 14)],
    "keep": [LESS_IN.format(k) for k in (0, 1, 8)] + [LESS.format(k) for k in (4, 5, 6)],
    "counted_table": [LESS.format(2)],
    "token_table": [LESS.format(2)],
    "dense_group": [LESS.format(k) for k in (0, 1, 5)] + [f"a[{k}] = a[{k}][:2]" for k in (2, 3)],
    "rans_cost": [LESS_IN.format(0), LESS.format(2), LESS.format(3)],
    "rans_encode": [LESS_IN.format(0), LESS.format(2)],
    "rans_decode": [LESS_IN.format(6), LESS.format(2), "a[0] = a[0][:31]"],
    "huffman_encode": [LESS.format(k) for k in (2, 3)],
    "huffman_decode": [LESS.format(2), LESS.format(3), "a[0] = a[0][:-1]"],
    "activity": [LESS.format(k) for k in (0, 5, 6)],
    "sort_classes": [LESS.format(k) for k in (0, 4, 5, 7, 8, 9)],
    "merge_classes": [LESS.format(k) for k in (0, 4, 5, 7, 8)],
    "place": [LESS.format(k) for k in (3, 9, 10)] + ["a[1] = a[1][:-1]"],
    "dequantize": [LESS_IN.format(0), LESS.format(1), LESS.format(2), LESS_IN.format(4)],
}
PACKINGS = [
    *(f"a[1] = i8({count}, {factor}, 256, 0, 0)" for count, factor in [(101, 1), (-1, 1), (HUGE, 1), (100, 0)]),
    *(f"a[1] = i8(100, {factor}, 256, 0, 0)" for factor in (9, -1, HUGE)),
]
#: Absurd numbers, by function and place.
ABSURD: dict[str, list[str]] = {
    "moments": [
        *(f"a[3] = i8({t}, {start}, {stop})" for t, start, stop in [(1, 0, 9), (-1, 0, 9), (0, -1, 9), (0, 9, 3)]),
        *(f"a[3] = i8({t}, {start}, {stop})" for t, start, stop in [(0, 0, 101), (0, 0, HUGE), (0, TINY, 9)]),
        f"a[3] = i8({HUGE}, 0, 9)",
        *(f"a[5] = i8({row})" for row in (1, -1, HUGE, TINY)),
        "a[0] = [None]",
        "a[0] = []",
    ],
    "convert": [
        *(f"a[3] = i8(0, {start}, {stop})" for start, stop in [(0, 101), (-1, 9), (9, 3), (0, HUGE)]),
        *(f"a[10] = i8({start})" for start in (1, -1, HUGE, TINY)),
        *(f"a[7] = {fmt}" for fmt in [(1, 1, 0), (1, 1, -1), (1, 1, 128), (24, 1, 5), (-1, 1, 5), (1, 300, 5)]),
        *(f"a[7] = {fmt}" for fmt in [(1, -300, 5), (1, 1 << 30, 5), (1 << 30, 1, 5)]),
        *(f"a[14][0] = {edge}" for edge in ("1e-45", "np.inf", "np.nan")),
        "a[0] = [None]",
    ],
    "keep": [
        *(f"a[3] = i8(0, {start}, {stop})" for start, stop in [(0, 101), (-1, 9), (9, 3), (0, HUGE)]),
        *(f"a[6] = i8({start})" for start in (1, -1, HUGE, TINY)),
        "a[0] = [None]",
        "a[8] = [None]",
        "a[8] = []",
    ],
    "counted_table": ["a[0] = i8()", "a[0] = np.ones(257, 'i8')"],
    "fitted_frequencies": [
        *(f"a[0] = bytes({fit})" for fit in ([], [127, 0], [127, 0, 0], [127, 224, 255])),
        *("a[1] = np.ones(128)", "a[2] = -1", f"a[2] = {(1 << 14) - 5}", f"a[2] = {HUGE}"),
    ],
    "packed_frequencies": ["a[0] = i8()", "a[0] = np.ones(257, 'i8')", "a[1] = 0", "a[1] = -3", "a[1] = 9"],
    "dense_group": [
        *("a[2] = bytes([127, 0, 0])", "a[3] = bytes([127, 224, 255])"),
        *("a[0] = np.zeros(7, 'i8')", "a[1] = np.ones(128)", "a[0] = -a[0]"),
    ],
    "rans_cost": [*PACKINGS, "a[0] = [None]"],
    "rans_encode": [
        *PACKINGS,
        *(f"a[3] = {lanes}" for lanes in (0, -1, 4097)),
        "a[4] = 0",
        "a[4] = -1",
        "a[5] = -1",
        "a[0] = [None]",
    ],
    "rans_decode": [
        *(f"a[1] = i8({length})" for length in (101, -1, HUGE)),
        *(f"a[3] = {lanes}" for lanes in (0, -1, 4097)),
        "a[4] = 0",
        "a[5] = -1",
        "a[6] = [None]",
    ],
    "huffman_encode": ["a[4] = 0", "a[4] = -1", "a[2] = np.full(256, 65535, 'u2')", "a[2] = np.full(256, 15, 'u2')"],
    "huffman_decode": [
        *(f"a[1] = i8({size})" for size in (14, -1, HUGE)),
        "a[4] = 0",
        "a[4] = 99",
        "a[1] = i8(13, 0)",
        f"a[4] = {HUGE}; a[1] = i8()",
    ],
    "gaps": [f"a[3] = {levels}" for levels in (9, 11, 0, -1, 101, HUGE)],
    "zero_pairs": [f"a[{k}] = {size}" for k in (2, 3) for size in (0, -1, TINY)] + [f"a[2] = {HUGE}"],
    "token_table": ["a[0] = u1(0)", "a[0][:] = 64", "a[1] = -1", "a[1] = 41"],
    "activity": [f"a[{k}] = {size}" for k in (1, 2, 3) for size in (0, -1, 5, HUGE)],
    "sort_classes": [
        *(f"a[{k}] = {size}" for k in (1, 2, 3) for size in (0, -1, 7, HUGE)),
        *(f"a[6] = {bits}" for bits in (-1, 4, 1 << 30)),
        *(f"a[7] = i8({start})" for start in (1, -1, HUGE)),
        *("a[4][:] = 8", "a[4][3] = 255", "a[5][0] = 2", "a[5][:] = 1"),
    ],
    "merge_classes": [
        *(f"a[{k}] = {size}" for k in (1, 2, 3) for size in (0, -1, 7, HUGE)),
        *(f"a[7] = i8({start})" for start in (1, -1, HUGE)),
        *("a[4][:] = 8", "a[5][0] = 2", "a[5][:] = 1"),
    ],
    "place": [
        *(f"a[6] = {levels}" for levels in (11, -1, HUGE, HUGE - 7)),
        *(f"a[7] = {entries}" for entries in (1001, HUGE)),
        *(f"a[2] = {shift}" for shift in (3, -1, 41)),
        *(f"a[4] = {factor}" for factor in (0, -1, 9)),
        *(f"a[5] = {alphabet}" for alphabet in (0, 1, 3, -1, 257)),
        # So many tokens that what they stand for lies far beyond the data.
        f"a[0] = u1(1 << 24); a[1] = b''; a[2] = 0; a[6] = {HUGE}; a[7] = {HUGE}; a[8] = 0",
    ],
    "dequantize": [
        *(f"a[1] = i8({factor}, 0, 0, 3)" for factor in (0, 1, -1, 9, HUGE)),
        *(f"a[1] = i8(2, {first}, 0, 3)" for first in (1, -1, HUGE, HUGE - 50, TINY)),
        *(f"a[1] = i8(2, 0, {base}, 3)" for base in (1, -1, HUGE, TINY)),
        *(f"a[1] = i8(2, 0, 0, {alphabet})" for alphabet in (1, 4, 257, 0, -1, HUGE, TINY)),
        *(f"a[3] = i8(0, {start}, {stop})" for start, stop in [(0, 101), (-1, 9), (9, 3), (0, HUGE), (TINY, 9)]),
        *(f"a[3] = i8({t}, 0, 9)" for t in (1, -1, HUGE)),
        "a[0] = [None]",
        "a[0] = []",
        "a[4] = [None]",
        "a[4] = []",
    ],
}
#: Nonsense that means nothing, but is no reason to fall over either: whatever comes of it, the process goes on.
SURVIVED: dict[str, list[str]] = {
    "moments": ["a[1] = None", "a[2] = float('nan')", "a[0][0][5] = np.nan", "a[3] = i8(0, 7, 7)"],
    "convert": [
        *(f"a[{k}][0] = {v}" for k in (4, 5, 6) for v in ("np.nan", "np.inf", "-1", "1e-45")),
        *("a[0][0][5] = np.nan", "a[8][:] = -1 << 31", "a[8][:] = 2**31 - 1", "a[8] = None", "a[11] = None"),
        *("a[8] = a[14] = None", "a[8] = None; a[14][1:] = np.nan", "a[8] = None; a[14][1:] = np.inf"),
        *("a[11] = [None]", "a[1] = None", "a[2] = float('nan')", "a[2] = 1e300"),
    ],
    "counted_table": [f"a[0][3] = {value}" for value in (HUGE, TINY, -1)] + ["a[2][:] = -5"],
    "fitted_frequencies": ["a[0] = bytes([0, 1, 0])", "a[1][:] = np.nan", "a[1][:] = -1"],
    "packed_frequencies": [f"a[0][1] = {value}" for value in (HUGE, TINY, 0)],
    "dense_group": [f"a[0][3] = {value}" for value in (HUGE, TINY)] + ["a[5][:] = 0", "a[2] = bytes(3)"],
    "rans_cost": ["a[2][:] = 0", "a[2][:] = 65535", "a[3][:] = -5", "a[3][:-1] = -1 << 31; a[3][-1] = 2**31 - 1"],
    "rans_encode": ["a[2][:] = 0", "a[2][:] = 65535", "a[5] = 99", f"a[5] = {HUGE}", f"a[4] = {HUGE}; a[5] = 3"],
    "rans_decode": ["a[2][:] = 0", "a[2][:] = 65535", "a[5] = 99", f"a[5] = {HUGE}", f"a[4] = {HUGE}; a[5] = 3"],
    "huffman_encode": [f"a[1] = {base}" for base in (-1, 255, 1 << 30)] + [f"a[4] = {HUGE}"],
    "huffman_decode": ["a[3][:] = 255", "a[3][:] = 0", "a[0] = b''; a[1] = i8(0)"],
    "gaps": ["a[1] = 1000", "a[1] = -7", "a[2] = 1 << 30", "a[4] = 1 << 30", "a[4] = -1 << 31"],
    "zero_pairs": ["a[0] = u1(0)", "a[1] = 1000", "a[2] = 101", f"a[3] = {HUGE}", f"a[2] = 101; a[3] = {HUGE}"],
    "token_table": ["a[2][:] = -5"],
    "activity": ["a[4] = 1000", "a[5][:] = -1"],
    "sort_classes": ["a[0][:] = 255", "a[9][:] = -1"],
    "merge_classes": ["a[0][:] = 255"],
    "place": ["a[0] = u1(0)", "a[8] = 7", "a[8] = -1", "a[0][:] = 255", "a[3][:] = 255", f"a[7] = {TINY}; a[8] = 0"],
    "dequantize": ["a[0][0][:] = 255", "a[3] = i8(0, 7, 7)", "a[3] = i8()", "a[2][:] = np.nan"],
    "keep": ["a[7] = 300", "a[7] = -9", "a[1] = None", "a[5][:] = 255"],
}


HARMLESS = {"fine", "ValueError", "MemoryError"}

#: Calls the changed functions one by one, each from scratch, and says what came of it.
RUN = """
import sys
for change in {changes!r}:
    print("", flush=True)
    scope = {{}}
    exec({calls!r} + "a = RIGHT[{function!r}]\\n" + change, scope)
    try:
        scope["k"].{function}(*scope["a"])
    except Exception as error:
        print(type(error).__name__, end="", flush=True)
    else:
        print("fine", end="", flush=True)
"""


def results(function: str, changes: Sequence[str]) -> dict[str, str]:
    """What each change comes to; a crash ends the process, and all after it is not known."""
    path = f"PATH = {kernels.compiled().__file__!r}\n"
    code = RUN.format(changes=list(changes), calls=path + CALLS, function=function)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, errors = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
    found = out.split("\n")[1:]
    if not found or not found[-1]:
        found = [*found[:-1], f"exit {process.returncode} {errors[-300:]}"]
    return dict(zip(changes, found, strict=False))


def test_every_compiled_function_is_among_them() -> None:
    with running(VECTORS):
        functions = {name for name in dir(kernels.compiled()) if not name.startswith("_")}
    assert functions - {"use"} == set(SURVIVED) == set(ABSURD)


def test_the_stub_has_the_arguments_that_the_docstrings_have() -> None:
    stub = ast.parse((ROOT / "flwr_co3" / "_kernels.pyi").read_text(encoding="utf-8"))
    typed = {f.name: [a.arg for a in f.args.posonlyargs] for f in stub.body if isinstance(f, ast.FunctionDef)}
    with running(VECTORS):
        docs = {name: doc for name, f in vars(kernels.compiled()).items() if callable(f) and (doc := f.__doc__)}
    written = {name: re.findall(r"\w+", doc[len(name) : doc.index(")")]) for name, doc in docs.items()}
    assert typed == {name: arguments for name, arguments in written.items() if not name.startswith("_")}


@pytest.mark.parametrize("function", sorted(SURVIVED))
def test_forged_arguments_are_refused_and_end_no_process(function: str) -> None:
    with running(VECTORS):
        refused = SHORT.get(function, []) + ABSURD[function]
        wrong, changes = {}, ["pass", *refused, *SURVIVED[function]]
        while changes:
            for change, result in results(function, changes).items():
                changes.remove(change)
                allowed = {"fine"} if change == "pass" else {"ValueError"} if change in refused else HARMLESS
                if result not in allowed:
                    wrong[change] = result
        assert not wrong
