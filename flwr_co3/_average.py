"""Weighted averages of clients' models in one array: what FedAvg computes, without a model for each client.

FedAvg adds ``array.numpy() * weight`` of each reply in turn to a running sum. For a compressed reply that would make
three arrays of the tensor's size: the update, the new weights, and the product. Instead, each update is added to one
`Sum`, times its weight, at the moment when its frame is decoded and found to be sound. What the strategy then gets from
``numpy()`` is a promise; products and sums of promises note who takes part and with what share; and the array that is
made of them in the end is that sum and the model that was sent, which is common to all replies.

A promise turns into a plain array for whatever else is done with it, and a strategy that leaves out a reply or weights
them in another way gets what it asks for: then each update is decoded anew.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from flwr_co3.frame import FrameReader

if TYPE_CHECKING:
    from flwr_co3._replies import Desk, SentModel

_AVERAGING = {cls.aggregate_train for cls in (FedAvg, FedAvgM, FedAdagrad, FedAdam, FedProx, FedYogi)}


def averages(strategy: Strategy) -> bool:
    """Whether a strategy does nothing with the arrays of replies but form their weighted average."""
    return type(strategy).aggregate_train in _AVERAGING


class Sum:
    """Updates of one model, added up with their weights as they come in.

    Parameters
    ----------
    model : SentModel
        What the clients were sent.
    """

    def __init__(self, model: SentModel) -> None:
        self.totals: dict[str, NDArray[Any]] = {}
        self.weights: dict[FrameReader, float] = {}
        self._model = model

    def add(self, reader: FrameReader, weight: float) -> None:
        """Add an update; its frame has been decoded without an error."""
        mine = {name: self._total(name) for name in reader.tensors if name not in reader.exact}
        reader.add_to(mine, weight)
        self.weights[reader] = weight

    def _total(self, name: str) -> NDArray[Any]:
        if name not in self.totals:
            spec = self._model.like[name]
            self.totals[name] = np.zeros(spec.shape, spec.dtype)
        return self.totals[name]

    def factor(self, shares: dict[FrameReader, float]) -> float | None:
        """What makes this sum one with these shares instead of the weights; None if no number does."""
        if shares.keys() != self.weights.keys():
            return None
        factor = sum(shares.values()) / (sum(self.weights.values()) or 1.0)
        fits = (math.isclose(shares[reader], factor * weight, rel_tol=1e-9) for reader, weight in self.weights.items())
        return factor if all(fits) else None


class Promise(NDArrayOperatorsMixin):
    """An array that is made when it is needed."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Make the array."""
        raise NotImplementedError

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Compute with the array instead."""
        return getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, Promise) else x for x in inputs), **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # numpy asks for protocols that are not there
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


class NewWeights(Promise):
    """One client's new weights of one tensor: what was sent, and the update.

    Parameters
    ----------
    name : str
        The tensor.
    model : SentModel
        What the client was sent.
    reader : FrameReader
        The client's frame.
    desk : Desk
        Where it is decoded.
    """

    def __init__(self, name: str, model: SentModel, reader: FrameReader, desk: Desk) -> None:
        self.name, self.model, self.reader, self.desk = name, model, reader, desk

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Make the new weights."""
        return np.asarray(self.desk.restore(self.model, self.reader, self.name), dtype)

    def __mul__(self, weight: Any) -> Any:
        """Promise the product with a number."""
        if isinstance(weight, (int, float)):
            return Average(self, float(weight))
        return np.asarray(self) * weight

    __rmul__ = __mul__


class Average(Promise):
    """A sum of clients' new weights of one tensor, each times its share.

    Parameters
    ----------
    first : NewWeights
        One client's new weights.
    share : float
        What they are multiplied by.
    """

    def __init__(self, first: NewWeights, share: float) -> None:
        self._first = first
        self._shares = {first.reader: share}
        self._others: NDArray[Any] | None = None  # sum of what is no promise: of clients that did not compress

    def __iadd__(self, other: Any) -> Average:
        """Add a term."""
        if isinstance(other, Average) and self._goes_with(other):
            self._shares |= other._shares
        else:
            array = np.asarray(other)
            self._others = array.copy() if self._others is None else self._others + array
        return self

    def _goes_with(self, other: Average) -> bool:
        """Whether another sum is of the same tensor of the same model, sent to other clients."""
        same = (self._first.model, self._first.name) == (other._first.model, other._first.name)
        return same and other._others is None and self._shares.keys().isdisjoint(other._shares)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Make the sum, in the type that the model was sent in."""
        name, model = self._first.name, self._first.model
        sent = model.load(name)
        average = sent * np.asarray(sum(self._shares.values()), model.like[name].dtype)
        average += self._updates(average)
        if self._others is not None:
            average += self._others
        return np.asarray(average, sent.dtype if dtype is None else dtype)

    def _updates(self, like: NDArray[Any]) -> NDArray[Any] | float:
        """Sum of the updates times their shares."""
        name, desk = self._first.name, self._first.desk
        sums = desk.sum_of(self._first.model)
        factor = None if sums is None else sums.factor(self._shares)
        if sums is not None and factor is not None:
            return sums.totals[name] * sums.totals[name].dtype.type(factor) if name in sums.totals else 0.0
        total = np.zeros_like(like)
        for reader, share in self._shares.items():
            if name in reader.tensors:  # else it did not fit into the client's budget
                with desk.timed():
                    desk.at_hand(reader, name).add_to({name: total}, share)
        return total
