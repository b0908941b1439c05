"""A small image data set on disk, and a small finished comparison."""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from simulations.federation import RoundResult
from simulations.fits import fit_layer
from simulations.results import Comparison, Run
from simulations.settings import Settings

torch.set_num_threads(1)  # tests run side by side
CLASSES = ["cat", "dog", "owl"]


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that Hugging Face's loader reads: 120 + 30 coloured 12 x 10 pictures of three kinds."""
    folder = tmp_path_factory.mktemp("pictures")
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(names=CLASSES))
    for split, count in (("train", 120), ("test", 30)):
        pixels = rng.integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)
        rows = {"picture": [Image.fromarray(each) for each in pixels], "kind": [k % 3 for k in range(count)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture
def comparison() -> Comparison:
    """Two schemes, two seeds, three rounds, and what two layers' updates looked like."""
    rng = np.random.default_rng(0)
    found = Comparison(
        settings=Settings(rounds=3),
        clients=4,
        seeds=[0, 1],
        labels={"fedavg": "FedAvg (float32)", "co3-fp4": "CO3 fp4 (paper)"},
        environment={"flwr": "1.41"},
        command="python -m simulations compare --seeds 2",
        started="2025-01-01T00:00:00+00:00",
        seconds=12.5,
    )
    for seed in found.seeds:
        for scheme, size, nmse in (("fedavg", 4000, None), ("co3-fp4", 500, 0.1)):
            rounds = [RoundResult(0, 0.1, 2.3)]
            for number in (1, 2, 3):
                rounds.append(
                    RoundResult(number, 0.3 * number - 0.01 * seed, 1.0, size, size - 100, size, 8.0, 4, 0, nmse, nmse)
                )
            found.runs.append(Run(scheme, seed, rounds))
    for layer in ("conv.weight", "dense.weight"):
        fit = fit_layer(layer, 1, rng.laplace(size=(40, 50)))
        assert fit is not None
        found.fits.append(fit)
    return found
