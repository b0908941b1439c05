import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import updates
from benchmarks.output import Form
from benchmarks.sources import read


def test_a_trained_model_leaves_its_update(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updates.main("digits", "cnn", 32, 8, 16, 0.02, 0, tmp_path, Form.JSON)

    update = read(tmp_path / "cnn.npz")
    assert "conv1.weight" in update and all(tensor.dtype == np.float32 for tensor in update.values())
    assert all(np.any(tensor) for tensor in update.values())
    ((row,),) = (table["rows"] for table in json.loads(capsys.readouterr().out))
    assert row["entries"] == sum(tensor.size for tensor in update.values())


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model vgg. Choose from: cnn, resnet18, densenet121"):
        updates.main("digits", "vgg", 32, 8, 16, 0.02, 0, tmp_path, Form.JSON)
