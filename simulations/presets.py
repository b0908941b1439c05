"""Tasks by name: settings that belong together."""

from pathlib import Path
from typing import Any

from simulations.choices import look_up
from simulations.own import is_own

CIFAR10 = "uoft-cs/cifar10"  # its name on the Hugging Face Hub

PRESETS: dict[str, dict[str, Any]] = {
    "digits": {},
    "cifar10": {"dataset": CIFAR10, "rounds": 15, "batch_size": 32, "learning_rate": 0.02},
    # For studies of many runs: some 15 seconds of one core each.
    "cifar10-small": {
        "dataset": CIFAR10,
        "train_examples": 3000,
        "test_examples": 2000,
        "model": "cnn-small",
        "rounds": 25,
    },
}


def preset(name: str) -> dict[str, Any]:
    """Return the settings of a task that differ from the defaults; a Python file is data set and model.

    Raises
    ------
    ValueError
        If there is no such task.
    """
    if is_own(name):
        return {"dataset": str(Path(name).resolve()), "model": str(Path(name).resolve())}
    return dict(look_up(PRESETS, name, "task"))
