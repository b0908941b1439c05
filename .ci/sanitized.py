"""Checks that the loops which a process runs are instrumented: as a plugin of pytest, in each of its processes.

Run by itself, it replays the inputs of ``tests/fuzz/loops.zip``.
"""

import ctypes
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest

from flwr_co3 import kernels

SCRATCH = Path(os.environ["FLWR_CO3_SANITIZED"])

_NO_PARAMETERS = SimpleNamespace(params={})


def check_module() -> None:
    """Exit unless the loops in use are those built in the scratch folder."""
    loops = kernels.compiled()
    if loops is None:
        sys.exit("numpy serves, not the compiled loops.")
    if not Path(loops.__file__).is_relative_to(SCRATCH):
        sys.exit(f"The loops were loaded from {loops.__file__}, not from {SCRATCH}.")


def check_sanitizer() -> None:
    """Exit unless a read where none is allowed ends the process."""
    packed, values, out = np.zeros(64, np.uint8), np.zeros(3, np.float32), np.zeros(64, np.float32)
    child = os.fork()
    if not child:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        poison = ctypes.CDLL(None).__asan_poison_memory_region
        poison(ctypes.c_void_p(packed.ctypes.data), ctypes.c_size_t(packed.size))
        digits, segments = np.array([1, 0, 0, 3]), np.array([0, 0, 64])
        kernels.compiled().dequantize([packed], digits, values, segments, [out], False)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 1:
        sys.exit("The loops read memory that the address sanitizer forbids, and it says nothing.")


def pytest_configure() -> None:
    """Check before any test; instrumented loops take several times as long, so properties have fewer examples."""
    check_module()
    check_sanitizer()
    hypothesis.settings.register_profile("sanitized", max_examples=30)
    hypothesis.settings.load_profile("sanitized")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what runs on numpy alone, and the 65,536 tensors that run what a thousand do."""

    def on_numpy(item: pytest.Item) -> bool:
        parameters = getattr(item, "callspec", _NO_PARAMETERS).params.values()
        return any(isinstance(value, str) and value == "numpy" for value in parameters)

    items[:] = [item for item in items if not on_numpy(item) and "as_many_tensors_as_a_frame_can_hold" not in item.name]


def replay() -> None:
    """Run the inputs that fuzzing kept."""
    import loops

    count = 0
    with zipfile.ZipFile(SCRATCH / "tests" / "fuzz" / "loops.zip") as corpus:
        for name in corpus.namelist():
            loops.replay(corpus.read(name))
            count += 1
    print(f"{count} inputs of the loops replayed.")


if __name__ == "__main__":
    check_module()
    check_sanitizer()
    replay()
