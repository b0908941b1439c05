"""Every choice of a training run in one record, however it was given: run config, command line or message."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord

from flwr_co3 import schedules
from simulations.outer_products import EXACT, parse_outer_products
from simulations.subset import Subset

_MESSAGE_KEY = "settings"
_POSITIVE = ("local_epochs", "batch_size", "learning_rate", "rounds")

# By name: makes, of the first learning rate and the number of rounds, that of each round.
_LEARNING_RATES: dict[str, Callable[[float, int], schedules.Schedule]] = {
    "constant": lambda first, rounds: lambda server_round: first,
    "linear": lambda first, rounds: schedules.linear(first, 0.0, rounds + 1),
    "cosine": lambda first, rounds: schedules.cosine(first, 0.0, rounds + 1),
}


@dataclass(frozen=True)
class Settings:
    """What is trained, on what, by whom and how; all but the scheme that carries the updates.

    The defaults are those of ``[tool.flwr.app.config]``, where underscores are written as hyphens.
    """

    dataset: str = "digits"  # "digits", or an image data set on the Hub or in a local folder
    train_examples: int = 0  # of the training split; 0 for all
    test_examples: int = 0  # of the test split; 0 for all
    validation: bool = False  # evaluate on a tenth of the training examples, held out, instead of the test split
    partitioner: str = "dirichlet:alpha=0.5"  # iid | dirichlet:alpha= | shards:per_client=
    model: str = "cnn"  # cnn | cnn-small | resnet18 | torchvision:<name>
    strategy: str = "fedavg"  # the inner strategy, such as fedavgm:server_momentum=0.9
    fraction_train: float = 1.0  # share of the clients that train in a round
    rounds: int = 20
    local_epochs: int = 1
    batch_size: int = 16
    optimizer: str = "sgd"  # sgd | adam
    learning_rate: float = 0.05
    learning_rate_schedule: str = "constant"  # constant | linear | cosine: to 0 after the last round
    momentum: float = 0.9  # of the clients' SGD
    outer_products: str = EXACT  # of the clients' weight gradients: exact | topk:k=8 | weighted:k= | random:k=
    links: str = ""  # 3g | 3g+4g:spread=0.5 | lognormal:uplink=1e6 | trace:path=links.csv; empty: no simulated time
    device: str = "profile:examples_per_second=1000"  # what trains, for simulated time; or measured:factor=10
    deadline: float = 0.0  # simulated seconds of a round, after which updates are lost; 0 for none
    seed: int = 0  # partitions, initial weights, batch order, sampled clients

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{_written(name)} is {getattr(self, name)}, but must be more than 0.")
        if not 0 <= self.deadline < math.inf:
            raise ValueError(f"deadline is {self.deadline}, but must be a number of seconds, or 0 for none.")
        if not 0 < self.fraction_train <= 1:
            raise ValueError(f"fraction-train is {self.fraction_train}, but must be above 0 and at most 1.")
        for name in ("train_examples", "test_examples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{_written(name)} is {getattr(self, name)}, but must be 0, for all, or more.")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"There is no optimizer {self.optimizer!r}. Choose one of: sgd, adam.")
        if self.learning_rate_schedule not in _LEARNING_RATES:
            raise ValueError(
                f"There is no learning-rate-schedule {self.learning_rate_schedule!r}. "
                f"Choose one of: {', '.join(_LEARNING_RATES)}."
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}, but must be at least 0 and below 1.")
        parse_outer_products(self.outer_products)

    def learning_rate_in(self, server_round: int) -> float:
        """Return the learning rate of a round, from 1, by the schedule."""
        return _LEARNING_RATES[self.learning_rate_schedule](self.learning_rate, self.rounds)(server_round)

    @property
    def subset(self) -> Subset:
        """Which examples of the data set are used."""
        return Subset(self.train_examples, self.test_examples, self.validation)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Settings":
        """Read the settings out of a Flower run config; keys that name no field are left to others.

        Raises
        ------
        ValueError
            If a value can't be read as its field's type, or is out of range.
        """
        fields = {_written(field.name): field for field in dataclasses.fields(cls)}
        given = {field.name: _typed(config[key], field) for key, field in fields.items() if key in config}
        return cls(**given)

    def to_record(self) -> ConfigRecord:
        """Pack what differs from the defaults into the record that goes to the clients with every training message."""
        defaults = Settings()
        changed = {name: value for name, value in vars(self).items() if value != getattr(defaults, name)}
        return ConfigRecord({_MESSAGE_KEY: json.dumps(changed, separators=(",", ":"))})

    @classmethod
    def from_record(cls, record: ConfigRecord) -> "Settings":
        """Unpack what :meth:`to_record` packed."""
        return cls(**json.loads(str(record[_MESSAGE_KEY])))


def _written(field_name: str) -> str:
    return field_name.replace("_", "-")


def _typed(value: Any, field: "dataclasses.Field[Any]") -> Any:
    kind: type[Any] = type(field.default)
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{_written(field.name)} is {value!r}, but must be true or false.")
    if kind is int and not (isinstance(value, int) or str(value).lstrip("-").isdigit()):
        raise ValueError(f"{_written(field.name)} is {value!r}, but must be a whole number.")
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{_written(field.name)} is {value!r}, but must be a number.") from None
