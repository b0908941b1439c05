"""Trains models a little and keeps what changed: real updates, for the other commands to measure on.

A model is first trained on one client's images, which stands for the rounds before; what a second client then changes
is its update, ``w_local - w_global`` of all parameters. scikit-learn's digits, the default, need no network.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks import options
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update
from benchmarks.sources import FOLDER
from benchmarks.torchvision import import_torchvision
from flwr_co3 import GenNorm
from simulations.models import make_model
from simulations.settings import Settings
from simulations.tasks import Examples, Shape, image_shape, partition_examples
from simulations.training import train

MODELS = {"cnn": "cnn", "resnet18": "torchvision:resnet18", "densenet121": "torchvision:densenet121"}


def main(
    dataset: Annotated[str, typer.Option(help="digits, or a local folder of an image data set.")] = "digits",
    models: Annotated[str, typer.Option(help=f"Names separated by commas: {', '.join(MODELS)}.")] = ",".join(MODELS),
    examples: Annotated[int, typer.Option(min=2, help="Images that each of the two clients trains on.")] = 640,
    side: Annotated[
        int, typer.Option(min=1, help="Smaller images are enlarged: these models halve them five times.")
    ] = 64,
    batch_size: Annotated[int, typer.Option(min=2, help="Images in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Of SGD with momentum 0.9.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Of weights, images and their order.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where the updates go.")] = FOLDER,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Train, and write one file for each model."""
    unknown = set(models.split(",")) - set(MODELS)
    if unknown:
        raise ValueError(f"There is no model {', '.join(unknown)}. Choose from: {', '.join(MODELS)}.")
    settings = Settings(dataset=dataset, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    parts = [partition_examples(dataset, "iid", seed, client, 2) for client in range(2)]
    clients = [_first(examples, part, side) for part in parts]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in models.split(","):
        update, seconds = make_update(MODELS[name], clients, settings)
        np.savez(folder / f"{name}.npz", **update)  # type: ignore[arg-type]  # numpy takes the names for its own options
        rows.append({**_about(name, update), "seconds of local training": seconds})
    show([Table(f"Updates on {Path(dataset).name}", rows)], form)


def make_update(model_name: str, clients: list[Examples], settings: Settings) -> tuple[Update, float]:
    """Train on one client's images, then on another's.

    Returns
    -------
    tuple
        What the second client changed, and the seconds that it trained.
    """
    height, width = clients[0].images.shape[2:]
    shape = image_shape(settings.dataset)
    import_torchvision()
    model = make_model(model_name, Shape(shape.channels, height, width, shape.classes), seed=settings.seed)
    train(model, clients[0], settings, server_round=1, partition=0)
    received = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    start = time.perf_counter()
    train(model, clients[1], settings, server_round=2, partition=1)
    seconds = time.perf_counter() - start
    return {name: (p.detach() - received[name]).numpy() for name, p in model.named_parameters()}, seconds


def _first(count: int, examples: Examples, side: int) -> Examples:
    """Take the first images, enlarged by a whole factor to at least this side."""
    images, labels = examples.images[:count], examples.labels[:count]
    factor = -(-side // min(images.shape[2:]))
    return Examples(images.repeat(factor, axis=2).repeat(factor, axis=3), labels)


def _about(name: str, update: Update) -> Row:
    """Say what an update is like: its size, and the range of its tensors' shapes."""
    large = [tensor for tensor in update.values() if tensor.size > 1024 and np.any(tensor)]
    shapes = [GenNorm.fit(tensor).shape for tensor in large]
    zeros = [float(np.mean(tensor == 0)) for tensor in large]
    flat = np.concatenate([tensor.reshape(-1) for tensor in update.values()])
    return {
        "update": name,
        "entries": flat.size,
        "tensors": len(update),
        "of 1024 entries or fewer": sum(tensor.size <= 1024 for tensor in update.values()),
        "rms": float(np.sqrt(np.mean(np.square(flat, dtype=np.float64)))),
        "least shape of the others": min(shapes),
        "median": float(np.median(shapes)),
        "largest": max(shapes),
        "most zeros in one": max(zeros),
    }


if __name__ == "__main__":
    options.run(main)
