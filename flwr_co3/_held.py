"""The client's side of the downlink: the model that it holds, brought to the version that the server has."""

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord

from flwr_co3._keeping import Keeper
from flwr_co3._planes import unpacked
from flwr_co3._protocol import BASE_KEY, FRAME_STYPE, MODEL_KEY, UNKNOWN_MODEL, UNREADABLE, run_of
from flwr_co3._versions import Tensors, Version, advanced
from flwr_co3.correct import Kept, LastUpdate
from flwr_co3.errors import FrameError


def received_model(record: ArrayRecord, config: Mapping[str, object], keeper: Keeper) -> tuple[ArrayRecord, int]:
    """Return the model that a message brings and its number, and keep it for the frames of later messages.

    Parameters
    ----------
    record : ArrayRecord
        The whole model, or the frames.
    config : Mapping[str, object]
        The message's config.
    keeper : Keeper
        Keeps the model.

    Raises
    ------
    ValueError
        If the frames start from a version that is not held here, do not lead to the one that they should, or cannot be
        read.
    """
    run, target = run_of(config), Version.read(config[MODEL_KEY])
    try:
        if BASE_KEY in config:
            frames = [frame_of(array) for array in record.values()]
            tensors = _brought(frames, Version.read(config[BASE_KEY]), target, *_held(keeper, run))
        else:
            tensors = unpacked(record)
    except FrameError as error:  # they are a later version's, most likely
        raise ValueError(f"This client {UNREADABLE}. {error}") from error
    except Exception as error:  # whatever is wrong, the server can send the whole model
        raise ValueError(f"This client {UNKNOWN_MODEL}. {error}") from error
    if Version.of(target.number, tensors) != target:
        raise ValueError(f"This client {UNKNOWN_MODEL}. With what was sent it is not the server's.")
    # A model is kept as a memory is: its tensors, and the version's number and name in place of the last update's.
    keeper.save(run, Kept(tensors, LastUpdate(target.number, target.write(), b"")))
    return ArrayRecord({name: Array(tensor) for name, tensor in tensors.items()}), target.number


def frame_of(array: Array) -> bytes:
    """Return the frame in an array: as it is or, for a NumPyClient, as numpy's array of bytes."""
    return array.data if array.stype == FRAME_STYPE else array.numpy().tobytes()


def _held(keeper: Keeper, run: str) -> tuple[Version | None, Tensors]:
    kept = keeper.load(run)
    if kept is None or kept.last is None or kept.last.base is None:
        return None, {}
    return Version.read(kept.last.base), kept.errors


def _brought(frames: list[bytes], base: Version, target: Version, version: Version | None, tensors: Tensors) -> Tensors:
    """Apply those frames that lead on from the version held: the first ones may have come with an earlier message."""
    one_each = target.number - base.number == len(frames)  # a frame for several versions starts from its base alone
    known = 0 if version is None else version.number - base.number
    if version != base and not (one_each and 0 < known <= len(frames)):
        if not base.is_nothing:
            held = "none of this run" if version is None else f"version {version.number}"
            raise ValueError(f"It holds {held}, and they start from version {base.number}.")
        known, tensors = 0, {}
    for frame in frames[known:]:
        tensors = advanced(tensors, frame)
    return tensors
