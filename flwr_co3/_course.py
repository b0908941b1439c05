"""How far a run has come, which is what rates that change over its rounds go by."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from flwr_co3.config import CO3Config
from flwr_co3.schedules import Loss


class Course:
    """The rounds and the losses of a run, from one server process to the next.

    Parameters
    ----------
    rounds : int (default: 0)
        Rounds that were aggregated before this process, whose own rounds Flower counts from 1 again.
    losses : Mapping[str, Loss] (default: {})
        What clients reported so far, by metric: all positive numbers among their aggregated metrics.
    """

    def __init__(self, rounds: int = 0, losses: Mapping[str, Loss] | None = None) -> None:
        self._before = rounds
        self._rounds = rounds
        self._losses = dict(losses or {})

    def config(self, config: CO3Config, server_round: int, node: int | None = None) -> CO3Config:
        """Return the settings of a round, and of a node in it."""
        return config.at(self._before + server_round, node, self._losses)

    def record(self, server_round: int, metrics: Mapping[str, Any] | None) -> None:
        """Note that a round was aggregated, and its aggregated metrics."""
        self._rounds = max(self._rounds, self._before + server_round)
        for name, value in (metrics or {}).items():
            if isinstance(value, (int, float)) and isfinite(value) and value > 0:
                first = self._losses[name].first if name in self._losses else float(value)
                self._losses[name] = Loss(first, float(value))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON has it."""
        return {"rounds": self._rounds, "losses": self._losses}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Course":
        """Read what `to_dict` returned.

        Raises
        ------
        ValueError, TypeError, AttributeError
            If it is something else.
        """
        losses = {str(name): Loss(*map(float, loss)) for name, loss in fields.get("losses", {}).items()}
        return cls(int(fields.get("rounds", 0)), losses)
