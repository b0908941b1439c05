"""Real updates, made in a moment: what a client of a small network learns in some steps, in numpy."""

import numpy as np

from tests.samples import Array


def trained_update(seed: int, inputs: int = 64, hidden: int = 32, steps: int = 10) -> dict[str, Array]:
    """The update of a network of two layers after some steps of gradient descent on ten classes.

    As with images, some inputs are always 0, and some units are dead: there are zeros, in rows and columns, and tails.
    """
    rng = np.random.default_rng(seed)
    alive = rng.random(inputs) < 0.8
    centres = rng.normal(size=(10, inputs)) * alive
    first = {
        "fc1.weight": rng.normal(size=(hidden, inputs)) * (2 / inputs) ** 0.5,
        "fc1.bias": rng.normal(size=hidden) - 0.5,
        "fc2.weight": rng.normal(size=(10, hidden)) * (2 / hidden) ** 0.5,
        "fc2.bias": np.zeros(10),
    }
    now = {name: tensor.copy() for name, tensor in first.items()}
    for _ in range(steps):
        labels = rng.integers(10, size=32)
        x = np.maximum(centres[labels] + 0.8 * rng.normal(size=(32, inputs)) * alive, 0)
        h = np.maximum(x @ now["fc1.weight"].T + now["fc1.bias"], 0)
        logits = h @ now["fc2.weight"].T + now["fc2.bias"]
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = share / share.sum(axis=1, keepdims=True) - np.eye(10)[labels]
        back = (error @ now["fc2.weight"]) * (h > 0)
        for name, gradient in (
            ("fc1.weight", back.T @ x),
            ("fc1.bias", back.sum(axis=0)),
            ("fc2.weight", error.T @ h),
            ("fc2.bias", error.sum(axis=0)),
        ):
            now[name] -= 0.05 / 32 * gradient
    return {name: (now[name] - tensor).astype("f4") for name, tensor in first.items()}
