"""The client's side of a round: compensate, compress, keep. What CO3Mod and CO3ClientMixin share."""

import time
from collections.abc import Iterable, Iterator, Mapping
from logging import getLogger
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flwr_co3._acknowledgements import settle
from flwr_co3._keeping import Keeper
from flwr_co3._protocol import ClientStats, Order, may_be_known
from flwr_co3._versions import as_it_travels, difference
from flwr_co3.codec import Codec, Seed
from flwr_co3.correct import ErrorMemory, Kept, LastUpdate
from flwr_co3.encoded import Encoded
from flwr_co3.frame import TensorSpec
from flwr_co3.rate import RateLimit
from flwr_co3.subspace import Sent, Subspace

Tensors: TypeAlias = Iterable[tuple[str, NDArray[Any], NDArray[Any]]]  # name, received, new

# What Flower's SecAgg+ leaves in messages and in a client's state. Its constants are internal to Flower.
SECAGG_RECORDS = frozenset({"secaggplus_configs", "secaggplus_state"})

logger = getLogger("flwr.co3")


class Compressed(NamedTuple):
    """An update as it is sent."""

    frame: bytes
    stats: ClientStats


def compress(
    tensors: Tensors, order: Order, keeper: Keeper | None, rate: RateLimit | None, seed: Seed | None = None
) -> Compressed:
    """Compress what a client learned, and keep what was lost.

    Parameters
    ----------
    tensors : Iterable[tuple[str, NDArray, NDArray]]
        Name, received value and new value of each tensor.
    order : Order
        What the server asked for.
    keeper : Keeper or None
        Keeps the client's error memory. What it keeps changes only when all else has succeeded. None is for an order
        without memory.
    rate : RateLimit or None
        The client's own limit; the tighter of it and the server's counts.
    seed : int or sequence of int, optional
        Of random draws; without one they differ each time.

    Raises
    ------
    ValueError
        If a tensor changed its shape or kind, or holds NaN or infinity. If the train message was answered before.
    """
    codec = Codec(order.config, seed=seed)
    exact: dict[str, NDArray[Any]] = {}
    lossy: dict[str, NDArray[Any]] = {}
    for name, received, new in tensors:
        new = _like(received, new, name)
        if codec.is_exact(name, new):
            exact[name] = new
        else:
            lossy[name] = difference(new, received)

    update = exact | lossy
    memory = _load(keeper, order, lossy, {name: TensorSpec.of(array) for name, array in update.items()})
    start = time.perf_counter()
    limit = None if rate is None else rate.bytes_for(sum(array.size for array in update.values()))
    known = order.known and may_be_known(array.dtype for array in update.values())
    encoded: Encoded | Sent
    if order.directions is None:
        encoded = codec.compress(update, memory=memory, max_bytes=limit, known=known)
    else:
        specs = {name: TensorSpec.of(array) for name, array in update.items()}
        subspace = Subspace.read(order.directions, specs, exact)
        encoded = subspace.compress(update, order.config, memory, max_bytes=limit, known=known, seed=seed)
    seconds = time.perf_counter() - start

    _save(keeper, order, memory, encoded.frame)
    return Compressed(encoded.frame, ClientStats(encoded.nmse, seconds, memory.norm))


def start_of(received: Mapping[str, NDArray[Any]], order: Order, keeper: Keeper | None) -> dict[str, NDArray[Any]]:
    """Return the model that a client trains from: as it was received, or a step ahead of that if the order says so.

    Parameters
    ----------
    received : Mapping[str, NDArray]
        The model, by tensor. Its arrays are not changed.
    order : Order
        What the server asked for.
    keeper : Keeper or None
        Keeps the client's error memory, which stays as it is.

    Raises
    ------
    ValueError
        If the train message was answered before.
    """
    share = order.config.step_ahead
    if not share:
        return dict(received)
    codec = Codec(order.config)
    lossy = {name: array for name, array in received.items() if not codec.is_exact(name, array)}
    like = {name: as_it_travels(array, name not in lossy) for name, array in received.items()}
    return {**received, **_load(keeper, order, lossy, like).step_ahead(lossy, share)}


def refuse_secure_aggregation(records: Iterable[str]) -> None:
    """Raise ValueError if one of a message's or a state's records is SecAgg's."""
    if not SECAGG_RECORDS.isdisjoint(records):
        raise ValueError(
            "Secure aggregation is on, and CO3 cannot work with it: entropy-coded updates cannot be added up "
            "under SecAgg's masks. Use either CO3 or SecAgg/SecAgg+."
        )


def _like(received: NDArray[Any], new: NDArray[Any], name: str) -> NDArray[Any]:
    if new.shape != received.shape:
        raise ValueError(
            f"Tensor '{name}' was received with shape {received.shape} and came back from training with shape "
            f"{new.shape}. CO3 sends what changed, so that the shapes must be the same."
        )
    if not np.can_cast(new.dtype, received.dtype, "same_kind"):
        raise ValueError(
            f"Tensor '{name}' was received as {received.dtype.name} and came back from training as "
            f"{new.dtype.name}, which would lose information. Return it in the type in which it came."
        )
    with np.errstate(over="ignore"):  # the codec says which tensor is not finite
        return new.astype(received.dtype, copy=False)


def _load(
    keeper: Keeper | None, order: Order, lossy: Mapping[str, NDArray[Any]], like: Mapping[str, TensorSpec]
) -> ErrorMemory:
    """Make the memory for these tensors, with what the server did not aggregate; without one kept it is empty."""
    decay, dtype = order.config.memory_decay, order.config.memory_dtype
    memory, last = ErrorMemory(decay, dtype), None
    if decay > 0 and keeper is not None:
        try:
            kept = keeper.load(order.run) or Kept({}, None)
            memory, last = _finite(ErrorMemory.adopt(decay, dtype, dict(_fitting(kept, lossy)))), kept.last
        except Exception as error:  # whatever is wrong with it, training goes on
            logger.warning("CO3's error memory cannot be used, and starts empty: %s", error)
    return settle(memory, last, order, like)


def _finite(memory: ErrorMemory) -> ErrorMemory:
    if not isfinite(memory.norm):
        raise ValueError("It holds numbers that are not finite.")
    return memory


def _fitting(kept: Kept, lossy: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, error in kept.errors.items():
        if name not in lossy:
            continue
        if error.shape == lossy[name].shape:
            yield name, error
        else:
            logger.warning(
                "CO3 drops the error memory of tensor '%s': its shape is %s, and the tensor's is %s now.",
                name,
                error.shape,
                lossy[name].shape,
            )


def _save(keeper: Keeper | None, order: Order, memory: ErrorMemory, frame: bytes) -> None:
    """Keep the memory and the update, before the update leaves."""
    if keeper is None:
        return
    last = None if order.turn is None else LastUpdate(order.turn, order.seen, frame, order.directions)
    keeper.save(order.run, Kept(memory.state, last) if order.config.memory_decay > 0 else None)
