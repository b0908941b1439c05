"""A NumPyClient that learns least squares."""

from typing import Any

import numpy as np
from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp

from flwr_co3 import CO3ClientMixin

SIZE = 1000


class LeastSquares(CO3ClientMixin, NumPyClient):
    """Takes some steps on data of its own; the solution is 1, 1, 1, ..."""

    def fit(self, parameters: Any, config: Any) -> Any:
        """Train."""
        assert self.context is not None
        features = np.random.default_rng(self.context.node_id).normal(size=(2 * SIZE, SIZE)).astype(np.float32)
        targets = features @ np.ones(SIZE, np.float32)
        (w,) = parameters
        for _ in range(5):
            w = w - 0.3 * features.T @ (features @ w - targets) / len(targets)
        return [w.astype(np.float32)], len(targets), {}


def client_fn(context: Context) -> Client:
    """Make the client."""
    return LeastSquares(context=context).to_client()


app = ClientApp(client_fn)
