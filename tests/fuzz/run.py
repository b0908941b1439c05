"""Hand a target in Python to libFuzzer; the script ``fuzz`` prepares what this needs."""

import importlib
import os
import sys
from typing import Any


def main() -> None:
    """See the module."""
    atheris: Any = importlib.import_module("atheris")
    # numpy's twins of the loops are to be compared with, not to be explored: instrumented they would be slower still.
    twins = ["flwr_co3.arithmetic", "flwr_co3.compress.rans", "flwr_co3.compress.huffman", "flwr_co3.compress.packing"]
    with atheris.instrument_imports(include=["flwr_co3"], exclude=twins):
        from flwr_co3 import kernels
        from tests.fuzz.targets import TARGETS
    loops = kernels.compiled()
    if loops is None or not loops.__file__.startswith(os.environ["CO3_FUZZ_BUILD"]):
        sys.exit("The loops in use are not those of the instrumented build.")
    # libFuzzer starts this command, word by word, for the parts of a merge.
    atheris.Setup([os.environ["CO3_FUZZ_COMMAND"], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
