import dataclasses
import tomllib
from pathlib import Path

import pytest

from simulations.schemes import make_scheme
from simulations.settings import Settings


def test_the_run_config_of_the_app_holds_every_setting_with_its_default() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    config = project["tool"]["flwr"]["app"]["config"]

    assert Settings.from_config(config) == Settings()
    assert {field.name.replace("_", "-") for field in dataclasses.fields(Settings)} <= set(config)
    assert make_scheme(config["scheme"], config).config is not None


def test_settings_survive_the_way_to_a_client() -> None:
    settings = Settings(dataset="a folder/ö", learning_rate=0.1, seed=7)

    assert Settings.from_record(settings.to_record()) == settings


def test_numbers_may_come_as_text_or_whole() -> None:
    assert Settings.from_config({"learning-rate": 1, "rounds": "3"}) == Settings(learning_rate=1.0, rounds=3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rounds": 0}, "rounds is 0, but must be more than 0"),
        ({"rounds": 2.5}, "rounds is 2.5, but must be a whole number"),
        ({"learning-rate": "fast"}, "learning-rate is 'fast', but must be a number"),
        ({"fraction-train": 1.5}, "fraction-train is 1.5"),
        ({"optimizer": "lamb"}, "no optimizer 'lamb'"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"learning-rate-schedule": "steps"}, "no learning-rate-schedule 'steps'"),
        ({"outer-products": "topk"}, "don't say how many"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.from_config(config)


def test_the_learning_rate_follows_its_schedule_and_never_reaches_0() -> None:
    def rates(schedule: str) -> list[float]:
        settings = Settings(learning_rate=0.1, learning_rate_schedule=schedule, rounds=4)
        return [settings.learning_rate_in(server_round) for server_round in (1, 2, 3, 4)]

    assert rates("constant") == [0.1, 0.1, 0.1, 0.1]
    assert rates("linear") == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert rates("cosine") == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)
