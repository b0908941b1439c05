"""A task of the user's own: the one in docs/comparisons.md, trained."""

import dataclasses
import re
from pathlib import Path

import pytest
from rich.console import Console

from simulations.compare import Plan, compare
from simulations.models import make_model
from simulations.presets import preset
from simulations.schemes import make_schemes
from simulations.settings import Settings
from simulations.subset import Subset
from simulations.tasks import Shape, evaluation_examples, partition_examples


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The example of the page, as a file."""
    page = Path("docs/comparisons.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    file = tmp_path / "task.py"
    file.write_text(example, encoding="utf-8")
    return str(file)


def test_the_pages_example_learns(path: str, tmp_path: Path) -> None:
    settings = Settings(**preset(path), rounds=12, learning_rate=0.1)
    plan = Plan(settings, make_schemes(["fedavg", "co3:bits_per_parameter=2"]), [0], 3, parallel=1, engine="inline")
    plan.check()
    found = compare(plan, tmp_path / "out", Console(quiet=True))

    assert [run.problem for run in found.runs] == ["", ""]
    for run in found.runs:
        assert run.rounds[-1].accuracy > 0.8 > 0.6 > run.rounds[0].accuracy
    assert found.runs[1].uplink_bytes < found.runs[0].uplink_bytes / 3


def test_its_training_step_is_used(path: str, tmp_path: Path) -> None:
    other = tmp_path / "plain.py"
    other.write_text(Path(path).read_text(encoding="utf-8").replace("label_smoothing=0.1", "label_smoothing=0.9"))
    losses = []
    for file in (path, str(other)):
        plan = Plan(Settings(**preset(file), rounds=3), make_schemes(["fedavg"]), [0], 2, parallel=1, engine="inline")
        losses.append(compare(plan, tmp_path / Path(file).stem, Console(quiet=True)).runs[0].rounds[-1].loss)

    assert losses[1] > losses[0] + 0.05


def test_its_data_are_divided_and_drawn_from_like_any_other(path: str) -> None:
    subset = Subset(train=200, test=100)

    assert sum(len(partition_examples(path, "iid", 0, part, 3, subset).labels) for part in range(3)) == 200
    assert evaluation_examples(path, subset).images.shape == (100, 20)
    assert len(evaluation_examples(path, subset._replace(validation=True)).labels) == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "defines no function make_model and no make_data"),
        ("import nothing_of_that_name", "could not be loaded: ModuleNotFoundError"),
        ("1 +", "could not be loaded: SyntaxError"),
    ],
)
def test_what_is_no_task_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "task.py"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        make_model(str(file), Shape(1, 1, 1, 2), seed=0)
    with pytest.raises(ValueError, match="could not be loaded: FileNotFoundError"):
        make_model(str(tmp_path / "nowhere.py"), Shape(1, 1, 1, 2), seed=0)


def test_data_of_different_lengths_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text("make_model = None.__class__\ndef make_data(): return ([[1.0]], [0]), ([[1.0], [2.0]], [0])\n")
    with pytest.raises(ValueError, match="have 2 inputs and 1 labels in a part"):
        evaluation_examples(str(file))


def test_a_preset_is_what_settings_take(path: str) -> None:
    assert dataclasses.asdict(Settings(**preset(path)))["model"] == path
