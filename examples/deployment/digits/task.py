"""The data, the model, and what training is: nothing here knows of Flower or CO3."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

Model = list[NDArray[Any]]  # weights of each layer, then biases of each
Examples = tuple[NDArray[np.float32], NDArray[np.int64]]

_TEST = 4  # every fourth digit is for testing
_BATCH, _LEARNING_RATE = 32, 0.1


def partition(number: int, partitions: int) -> Examples:
    """Return one node's digits."""
    pixels, digits = load_digits(return_X_y=True)
    training = np.flatnonzero(np.arange(len(digits)) % _TEST)[number::partitions]
    return (pixels[training] / 16).astype(np.float32), digits[training]


def initial_model(hidden: int) -> Model:
    """Draw the weights of a network with two hidden layers."""
    rng = np.random.default_rng(0)
    sizes = [(64, hidden), (hidden, hidden), (hidden, 10)]
    weights = [rng.normal(scale=np.sqrt(2 / inputs), size=(inputs, outputs)) for inputs, outputs in sizes]
    return [array.astype(np.float32) for array in [*weights, *(np.zeros(outputs) for _, outputs in sizes)]]


def train(model: Model, examples: Examples, seed: int) -> Model:
    """Go over the examples once, and return the new weights."""
    classifier = _classifier(model, seed)
    classifier.partial_fit(*examples)
    return [*classifier.coefs_, *classifier.intercepts_]


def accuracy(model: Model) -> float:
    """Return the share of the test digits that the model gets right."""
    pixels, digits = load_digits(return_X_y=True)
    return float(_classifier(model, 0).score((pixels[::_TEST] / 16).astype(np.float32), digits[::_TEST]))


def _classifier(model: Model, seed: int) -> MLPClassifier:
    """Make scikit-learn's network with these weights."""
    layers = len(model) // 2
    classifier = MLPClassifier(
        [bias.size for bias in model[layers:-1]],
        solver="sgd",
        batch_size=_BATCH,
        learning_rate_init=_LEARNING_RATE,
        random_state=seed,
    )
    # It learns how many inputs and classes there are from a first step, whose weights are written over.
    classifier.partial_fit(np.zeros((_BATCH, len(model[0])), np.float32), np.zeros(_BATCH, int), classes=np.arange(10))
    for own, given in zip([*classifier.coefs_, *classifier.intercepts_], model, strict=True):
        own[...] = given
    for velocity in classifier._optimizer.velocities:
        velocity[...] = 0
    return classifier
