"""How well GenNorm, Laplace and normal describe what clients really send."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from flwr_co3 import GenNorm
from simulations.distributions import log_likelihood, wasserstein2

_LAYERS = 3
_SMALLEST_LAYER = 256  # entries; less says little about a distribution
_SAMPLE = 50_000
_BINS = np.linspace(-6.0, 6.0, 122)  # in standard deviations; an odd number of bins, so that one is centred at 0


@dataclass(frozen=True)
class ModelFit:
    """A distribution fitted to one layer's update.

    Attributes
    ----------
    name : str
        "GenNorm", "Laplace" or "normal".
    shape, scale : float
        Its parameters as a GenNorm's; the scale in standard deviations of the update.
    log_likelihood : float
        Mean over the entries, in bits; of the update divided by its standard deviation. More is better.
    w2 : float
        Wasserstein-2 distance, in standard deviations. Less is better.
    """

    name: str
    shape: float
    scale: float
    log_likelihood: float
    w2: float

    @property
    def distribution(self) -> GenNorm:
        """The distribution itself, of the update divided by its standard deviation."""
        return GenNorm(self.shape, self.scale)


@dataclass(frozen=True)
class LayerFit:
    """One layer's update in one round, and the distributions fitted to it.

    Attributes
    ----------
    entries, zeros : int, float
        Number of entries, and the share that is exactly zero.
    std : float
        Standard deviation of the update.
    edges, density : list of float
        Histogram of the update divided by its standard deviation.
    """

    layer: str
    round: int
    entries: int
    zeros: float
    std: float
    edges: list[float]
    density: list[float]
    models: list[ModelFit]

    @classmethod
    def revive(cls, content: dict[str, Any]) -> "LayerFit":
        """Make one from what ``dataclasses.asdict`` made of it."""
        return cls(**{**content, "models": [ModelFit(**model) for model in content["models"]]})


def fit_layer(layer: str, server_round: int, update: NDArray[Any]) -> LayerFit | None:
    """Fit the distributions to one layer's update; None if it is all zero or not finite.

    GenNorm is fitted as CO3 fits it, by its first two absolute moments; Laplace and normal by maximum
    likelihood. The location is 0 for all.
    """
    x = _sample(np.asarray(update, np.float64).ravel())
    std = float(np.sqrt(np.mean(x**2)))
    if not std > 0 or not np.isfinite(std):
        return None
    x /= std
    density, edges = np.histogram(x, _BINS)
    models = {
        "GenNorm": GenNorm.fit(x),
        "Laplace": GenNorm(1.0, float(np.mean(np.abs(x)))),
        "normal": GenNorm(2.0, float(np.sqrt(2.0))),
    }
    return LayerFit(
        layer=layer,
        round=server_round,
        entries=int(np.size(update)),
        zeros=float(np.mean(x == 0)),
        std=std,
        edges=edges.tolist(),
        density=(density / (len(x) * np.diff(edges))).tolist(),
        models=[_judge(name, model, x) for name, model in models.items()],
    )


def _judge(name: str, model: GenNorm, x: NDArray[np.float64]) -> ModelFit:
    return ModelFit(
        name=name,
        shape=float(model.shape),
        scale=float(model.scale),
        log_likelihood=log_likelihood(model, x),
        w2=wasserstein2(model, x),
    )


def _sample(x: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(x) <= _SAMPLE:
        return x.copy()
    return np.random.default_rng(0).choice(x, _SAMPLE, replace=False)


class UpdateWatcher:
    """Fits the distributions to some layers of one client's update, in three rounds of a run.

    Looks at weights that travel as they are; what it has found so far stands in ``fits``.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = {1, (rounds + 1) // 2, rounds}
        self.fits: list[LayerFit] = []

    def __call__(self, server_round: int, sent: ArrayRecord, replies: Sequence[Message]) -> None:
        """Look at the first reply, if the round is one of those chosen."""
        if server_round not in self._rounds:
            return
        before = sent.to_numpy_ndarrays(keep_input=True)
        answer = next(iter(replies[0].content.array_records.values()))
        after = answer.to_numpy_ndarrays(keep_input=True)
        updates = {name: new - old for name, new, old in zip(sent, after, before, strict=True)}
        for layer in some_layers(updates):
            fit = fit_layer(layer, server_round, updates[layer])
            if fit is not None:
                self.fits.append(fit)


def some_layers(updates: dict[str, NDArray[Any]]) -> list[str]:
    """Choose weight tensors: the first, the largest and the last of some size."""
    weights = [name for name, update in updates.items() if update.ndim > 1 and update.size >= _SMALLEST_LAYER]
    if len(weights) <= _LAYERS:
        return weights
    largest = max(weights[1:-1], key=lambda name: updates[name].size)
    return [weights[0], largest, weights[-1]]
