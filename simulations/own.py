"""A task of the user's own: a Python file with a model, data and, if it takes another one, a training step."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

Part = tuple[NDArray[Any], NDArray[np.int64]]
Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


class OwnTask(NamedTuple):
    """What such a file defines.

    Attributes
    ----------
    make_model : Callable
        Returns a torch model; its weights are drawn after the seed was set.
    make_data : Callable
        Returns (inputs, labels) for training and (inputs, labels) for testing: arrays of as many rows each, labels
        whole numbers from 0. Inputs of unsigned bytes are scaled to -1 .. 1, all others are left as they are.
    training_step : Callable
        Takes the model, inputs and labels of a batch, and returns the loss to be minimised; the mean cross-entropy of
        the model's outputs unless the file says otherwise.
    """

    make_model: Callable[[], nn.Module]
    make_data: Callable[[], tuple[Part, Part]]
    training_step: Loss


def is_own(name: str) -> bool:
    """Tell whether a data set or model is a file of the user's own."""
    return name.endswith(".py")


def cross_entropy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of a batch, in nats."""
    return functional.cross_entropy(model(inputs), labels)


@functools.lru_cache(maxsize=4)
def own_task(path: str) -> OwnTask:
    """Run the file and take what it defines.

    Raises
    ------
    ValueError
        If there is no such file, it fails, or it lacks a function.
    """
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None  # as it ends with .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"The task {path!r} could not be loaded: {type(error).__name__}: {error}.") from error
    missing = [name for name in ("make_model", "make_data") if not callable(getattr(module, name, None))]
    if missing:
        raise ValueError(f"The task {path!r} defines no function {' and no '.join(missing)}, which it needs.")
    return OwnTask(module.make_model, module.make_data, getattr(module, "training_step", cross_entropy))
