"""One training run as a job: what it is to do, how it is done on a grid, and the file that it becomes."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flwr.serverapp import Grid

from simulations.federation import RoundResult, federate
from simulations.files import replace_file
from simulations.fits import LayerFit, UpdateWatcher
from simulations.results import Run
from simulations.schemes import Scheme
from simulations.settings import Settings

_FORMAT = 1
_DIGITS = 12  # of the hash that tells one job's file from another's


@dataclass(frozen=True)
class Job:
    """One scheme to be trained with one seed.

    Attributes
    ----------
    scheme : Scheme
        How the updates travel.
    settings : Settings
        What is trained, with its seed.
    clients : int
        Number of simulated clients.
    watched : bool
        Whether distributions are fitted to some of the updates.
    """

    scheme: Scheme
    settings: Settings
    clients: int
    watched: bool = False

    @property
    def key(self) -> str:
        """A file's name: the same for the same job, and for no other."""
        # Of a budget that is a schedule, the name says the rest.
        config = None if self.scheme.config is None else self.scheme.config.at(1).to_json()
        what = [self.scheme.name, config, dataclasses.asdict(self.settings), self.clients, self.watched]
        digest = hashlib.blake2b(json.dumps(what).encode()).hexdigest()[:_DIGITS]
        readable = "".join(sign if sign.isalnum() or sign in ".-" else "-" for sign in self.scheme.name)
        return f"{readable[:60]}-seed{self.settings.seed}-{digest}"


@dataclass
class Outcome:
    """What a job gave."""

    run: Run
    fits: list[LayerFit] = field(default_factory=list)


def do(job: Job, grid: Grid, on_round: Callable[[RoundResult], None]) -> Outcome:
    """Train; what ``on_round`` raises ends it."""
    watcher = UpdateWatcher(job.settings.rounds) if job.watched else None
    rounds = federate(grid, job.settings, job.scheme, on_round=on_round, watch=watcher)
    run = Run(job.scheme.name, job.settings.seed, rounds, learning_rate=job.settings.learning_rate)
    return Outcome(run, watcher.fits if watcher else [])


class RunFiles:
    """The finished runs in a folder, a file each, so that an interrupted comparison goes on where it was.

    A file is written beside its place and renamed into it: it is there as a whole or not at all. A run that was
    interrupted has none, and is made again from its start, with the same result.

    Parameters
    ----------
    folder : Path
        Made when the first run is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, job: Job, outcome: Outcome) -> None:
        """Keep a finished run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._path(job), json.dumps({"format": _FORMAT, **dataclasses.asdict(outcome)}, indent=1))

    def read(self, job: Job) -> Outcome | None:
        """Return the job's outcome if it was kept, and can be read."""
        try:
            content = json.loads(self._path(job).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                return None
            return Outcome(Run.revive(content["run"]), [LayerFit.revive(fit) for fit in content["fits"]])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def forget(self, job: Job) -> None:
        """Remove a job's file."""
        self._path(job).unlink(missing_ok=True)

    def _path(self, job: Job) -> Path:
        return self._folder / f"{job.key}.json"
