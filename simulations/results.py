"""What a comparison found, in memory and on disk: ``results.json`` and ``rounds.csv``."""

import csv
import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulations.federation import RoundResult
from simulations.files import replace_file
from simulations.fits import LayerFit
from simulations.schemes import PLAIN
from simulations.settings import Settings

RESULTS_FILE = "results.json"
ROUNDS_FILE = "rounds.csv"
_FORMAT = 1
_TARGET_BELOW = 0.02  # of accuracy
_LAST_SHARE = 0.2  # of the rounds; the final accuracy is their mean, as single rounds are noisy


@dataclass
class Run:
    """One scheme trained with one seed.

    Attributes
    ----------
    rounds : list of RoundResult
        Round 0 is the untrained model.
    problem : str
        Why the run ended early; empty if it didn't.
    learning_rate : float
        The clients'.
    """

    scheme: str
    seed: int
    rounds: list[RoundResult] = field(default_factory=list)
    problem: str = ""
    learning_rate: float = 0.0

    @classmethod
    def revive(cls, content: dict[str, Any]) -> "Run":
        """Make one from what ``dataclasses.asdict`` made of it."""
        return cls(**{**content, "rounds": [RoundResult(**result) for result in content["rounds"]]})

    @property
    def final_accuracy(self) -> float:
        """Mean accuracy of the last fifth of the rounds, at least one."""
        count = max(1, math.ceil(_LAST_SHARE * (len(self.rounds) - 1)))
        return statistics.fmean(result.accuracy for result in self.rounds[-count:])

    @property
    def uplink_bytes(self) -> int:
        """Bytes of all messages from the clients, over all rounds."""
        return sum(result.uplink_bytes for result in self.rounds)

    @property
    def downlink_bytes(self) -> int:
        """Bytes of all messages to the clients, over all rounds."""
        return sum(result.downlink_bytes for result in self.rounds)

    @property
    def simulated_seconds(self) -> list[float] | None:
        """What the simulated clock says after each round from round 0 on; None without one."""
        durations = [result.simulated_seconds for result in self.rounds]
        if any(duration is None for duration in durations[1:]):
            return None
        return list(itertools.accumulate(duration or 0.0 for duration in durations))

    def bytes_to(self, accuracy: float) -> float | None:
        """Bytes sent by all clients until a round first had this accuracy; None if none had."""
        return self._until(accuracy, list(itertools.accumulate(result.uplink_bytes for result in self.rounds)))

    def seconds_to(self, accuracy: float) -> float | None:
        """Simulated seconds until a round first had this accuracy; None if none had, or without a simulated clock."""
        clock = self.simulated_seconds
        return None if clock is None else self._until(accuracy, clock)

    def _until(self, accuracy: float, sums: Sequence[float]) -> float | None:
        reached = (number for number, result in enumerate(self.rounds) if result.accuracy >= accuracy)
        number = next(reached, None)
        return None if number is None else float(sums[number])

    @property
    def bits_per_parameter(self) -> float:
        """Mean over the rounds."""
        return statistics.fmean(result.bits_per_parameter for result in self.rounds[1:] or self.rounds)


@dataclass(frozen=True)
class Summary:
    """One row of the table: a scheme over all seeds.

    Attributes
    ----------
    accuracy, spread : float
        Mean over the seeds of the final accuracy, and its standard deviation (0 for one seed).
    bits_per_parameter, uplink_bytes, uplink_bytes_per_message, downlink_bytes : float
        Means over the seeds.
    ratio, both_ratio : float or None
        FedAvg's bytes over this scheme's, uplink alone and both ways; None without FedAvg.
    nmse, encode_seconds, decode_seconds : float or None
        Means over rounds and seeds.
    learning_rate : float
        The clients'.
    bytes_to_target, seconds_to_target : float or None
        Sent by all clients, and passed on the simulated clock, when the comparison's target accuracy was first reached:
        means over the seeds, None if one of them didn't reach it, or has no simulated clock.
    """

    scheme: str
    label: str
    seeds: int
    accuracy: float
    spread: float
    bits_per_parameter: float
    uplink_bytes: float
    uplink_bytes_per_message: float
    downlink_bytes: float
    ratio: float | None
    both_ratio: float | None
    nmse: float | None
    encode_seconds: float | None
    decode_seconds: float | None
    learning_rate: float
    bytes_to_target: float | None
    seconds_to_target: float | None


@dataclass
class Comparison:
    """Several schemes on one task.

    Attributes
    ----------
    labels : dict
        The schemes' labels by name, in the order in which they are shown.
    runs : list of Run
        By seed, and then in the schemes' order.
    tuning : list of Run
        By which each scheme's learning rate was chosen: another seed, evaluated on examples held out from training.
    learning_rates : list of float
        Those that were tried; empty if none was tuned.
    fits : list of LayerFit
        How well distributions fit real updates; empty without plain FedAvg.
    environment : dict
        Versions of what it was made with.
    problem : str
        Why the comparison is incomplete; empty if it isn't.
    target : float or None
        The accuracy up to which bytes and time are compared; see :attr:`target_accuracy`.
    """

    settings: Settings
    clients: int
    seeds: list[int]
    labels: dict[str, str]
    runs: list[Run] = field(default_factory=list)
    tuning: list[Run] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    fits: list[LayerFit] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    command: str = ""
    started: str = ""
    seconds: float = 0.0
    problem: str = ""
    target: float | None = None

    @property
    def target_accuracy(self) -> float:
        """The accuracy up to which bytes and time are compared.

        Unless one is given, it is two points less than FedAvg's final one, or than the best scheme's without FedAvg.
        """
        if self.target is not None:
            return self.target
        finals = {
            name: statistics.fmean(run.final_accuracy for run in runs)
            for name in self.labels
            if (runs := self.runs_of(name))
        }
        return finals.get(PLAIN, max(finals.values())) - _TARGET_BELOW

    def runs_of(self, scheme: str) -> list[Run]:
        """Return the runs of a scheme that got through at least one round."""
        return [run for run in self.runs if run.scheme == scheme and len(run.rounds) > 1]

    def summaries(self) -> list[Summary]:
        """Return one summary for each scheme that has results."""
        return [_summarise(self, scheme) for scheme in self.labels if self.runs_of(scheme)]

    def save(self, folder: Path) -> None:
        """Write ``results.json`` and ``rounds.csv``."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        replace_file(folder / RESULTS_FILE, json.dumps(content, indent=1))
        with (folder / ROUNDS_FILE).open("w", newline="", encoding="utf-8") as file:
            names = [each.name for each in dataclasses.fields(RoundResult)]
            table = csv.writer(file)
            table.writerow(["scheme", "seed", *names])
            for run in self.runs:
                table.writerows([run.scheme, run.seed, *dataclasses.astuple(result)] for result in run.rounds)

    @classmethod
    def load(cls, folder: Path) -> "Comparison":
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            If there is no such file, or it isn't one of ours.
        """
        path = folder / RESULTS_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"There is no {RESULTS_FILE} in {folder}: give the folder of a comparison.") from None
        except ValueError as error:
            raise ValueError(f"{path} is not a JSON file: {error}.") from error
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} is not a file of results in format {_FORMAT}: make the comparison again.")
        return _revive(content)


def problems(comparison: Comparison) -> list[str]:
    """List what went wrong, in sentences."""
    labels = comparison.labels
    runs = [
        f"{labels[run.scheme]}, seed {run.seed}, ended after round {len(run.rounds[1:])}: {run.problem.rstrip('.')}."
        for run in comparison.runs
        if run.problem
    ]
    done = {(run.scheme, run.seed) for run in comparison.runs}
    missing = len(comparison.seeds) * len(labels) - len(done)
    return [
        *([comparison.problem] if comparison.problem else []),
        *runs,
        *([f"{missing} of {missing + len(done)} runs were not started."] if missing else []),
    ]


def _revive(content: dict[str, Any]) -> Comparison:
    revived = {
        "settings": Settings(**content["settings"]),
        "runs": [Run.revive(run) for run in content["runs"]],
        "tuning": [Run.revive(run) for run in content.get("tuning", [])],
        "fits": [LayerFit.revive(fit) for fit in content["fits"]],
    }
    return Comparison(**{**content, **revived})


def _summarise(comparison: Comparison, scheme: str) -> Summary:
    runs = comparison.runs_of(scheme)
    accuracies = [run.final_accuracy for run in runs]
    replies = sum(result.replies + result.failures for run in runs for result in run.rounds)
    uplink = statistics.fmean(run.uplink_bytes for run in runs)
    return Summary(
        scheme=scheme,
        label=comparison.labels[scheme],
        seeds=len(runs),
        accuracy=statistics.fmean(accuracies),
        spread=statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
        bits_per_parameter=statistics.fmean(run.bits_per_parameter for run in runs),
        uplink_bytes=uplink,
        uplink_bytes_per_message=sum(run.uplink_bytes for run in runs) / max(replies, 1),
        downlink_bytes=statistics.fmean(run.downlink_bytes for run in runs),
        ratio=_ratio(comparison, runs, _up),
        both_ratio=_ratio(comparison, runs, _both),
        nmse=_mean(result.nmse for run in runs for result in run.rounds),
        encode_seconds=_mean(result.encode_seconds for run in runs for result in run.rounds),
        decode_seconds=_mean(result.decode_seconds for run in runs for result in run.rounds),
        learning_rate=runs[0].learning_rate,
        bytes_to_target=_mean_of_all(run.bytes_to(comparison.target_accuracy) for run in runs),
        seconds_to_target=_mean_of_all(run.seconds_to(comparison.target_accuracy) for run in runs),
    )


def _up(run: Run) -> int:
    return run.uplink_bytes


def _both(run: Run) -> int:
    return run.uplink_bytes + run.downlink_bytes


def _ratio(comparison: Comparison, runs: list[Run], sent: Callable[[Run], int]) -> float | None:
    """Compare bytes per round with FedAvg's, so that a run that ended early counts fairly."""
    plain = comparison.runs_of(PLAIN)
    if not plain:
        return None
    return _bytes_per_round(plain, sent) / max(_bytes_per_round(runs, sent), 1.0)


def _bytes_per_round(runs: list[Run], sent: Callable[[Run], int]) -> float:
    return sum(map(sent, runs)) / sum(len(run.rounds) - 1 for run in runs)


def _mean_of_all(values: Iterable[float | None]) -> float | None:
    """Return the mean, or None if one is missing."""
    known = list(values)
    return None if None in known else _mean(known)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
