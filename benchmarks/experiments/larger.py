"""`python -m simulations`, where budgets keep only the largest levels of what takes so many times too much.

The factor is the first argument. So the least that is sent lies at a larger share of the step: a wider dead zone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks.experiments.changed import simulate
from flwr_co3 import budget


@contextmanager
def larger(factor: float) -> Iterator[None]:
    """Let each budget's second conversion aim at so many times the budget, and thin that, whatever fits."""
    coded = budget._coded

    def thinned(limit: int, fixed: int, fits: Any, larger: Any, *rest: Any) -> Any:
        found, count = (None, 0) if larger is None else coded(limit, fixed, None, larger, *rest)
        return coded(limit, fixed, fits, None, *rest) if found is None else (found, count)

    first_fits, never_good, all_sizes = (0.9, *budget._AIMS[1:]), 1.01, 1 << 40
    aims: dict[str, Any] = {"_AIMS": first_fits, "_GOOD": never_good, "_WELL_ABOVE": factor, "_ENOUGH": 2 * factor}
    with patch.multiple(budget, _coded=thinned, _TINY=all_sizes, _SMALL=all_sizes, **aims):
        yield


if __name__ == "__main__":
    simulate(larger)
