import dataclasses

import pytest

from simulations.models import make_model
from simulations.presets import PRESETS, preset
from simulations.settings import Settings
from simulations.tasks import Shape


@pytest.mark.parametrize("name", PRESETS)
def test_a_task_is_settings(name: str) -> None:
    assert dataclasses.asdict(Settings(**preset(name))).items() >= preset(name).items()


def test_the_small_task_is_small() -> None:
    model = make_model(preset("cifar10-small")["model"], Shape(3, 32, 32, 10), seed=0)

    assert sum(parameter.numel() for parameter in model.parameters()) == 92_866


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"There is no task 'imagenet'. Choose one of: digits, cifar10, cifar10-small"):
        preset("imagenet")
