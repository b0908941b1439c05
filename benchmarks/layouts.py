"""The shapes of models' tensors, and updates drawn for them."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.pipeline import Update

Shape = tuple[int, ...]

SHAPE, WIDTH = 0.8, 1e-3  # of the generalised normal that updates are drawn from
_BLOCK = 1 << 18
_SMALL = 64  # a layout that shrinks leaves tensors of so few entries as they are


def resnet18() -> list[Shape]:
    """Shapes of the 62 tensors of torchvision's ResNet-18 for 1000 classes: 11.7 million entries."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    width = 64
    for outputs in (64, 128, 256, 512):
        for block in range(2):
            for inputs in (width, outputs):
                shapes += [(outputs, inputs, 3, 3), (outputs,), (outputs,)]
            if block == 0 and outputs != 64:
                shapes += [(outputs, width, 1, 1), (outputs,), (outputs,)]
            width = outputs
    return [*shapes, (1000, 512), (1000,)]


def densenet121() -> list[Shape]:
    """Shapes of the 364 tensors of torchvision's DenseNet-121 for 1000 classes: 8.0 million entries."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    width = 64
    for layers in (6, 12, 24, 16):
        for _ in range(layers):
            shapes += [(width,), (width,), (128, width, 1, 1), (128,), (128,), (32, 128, 3, 3)]
            width += 32
        if layers != 16:  # a transition, which halves the width
            shapes += [(width,), (width,), (width // 2, width, 1, 1)]
            width //= 2
    return [*shapes, (width,), (width,), (1000, width), (1000,)]


LAYOUTS: dict[str, Callable[[], list[Shape]]] = {
    "one tensor": lambda: [(10_000_000,)],
    "ResNet-18": resnet18,
    "DenseNet-121": densenet121,
}


def shrunk(shapes: list[Shape], entries: int) -> list[Shape]:
    """Flat shapes of the same shares of so many entries, but for the small tensors, which stay as they are."""
    sizes = [math.prod(shape) for shape in shapes]
    share = entries / sum(sizes)
    return [(max(round(size * share), min(size, _SMALL)),) for size in sizes]


def draw(shapes: list[Shape], *, shape: float = SHAPE, seed: int = 0) -> Update:
    """Draw an update from a generalised normal, with scales over two decades where there are several tensors."""
    rng = np.random.default_rng(seed)
    decades = rng.uniform(-1, 1, len(shapes)) * (len(shapes) > 1)
    update: Update = {}
    for index, (form, decade) in enumerate(zip(shapes, decades, strict=True)):
        tensor = np.empty(math.prod(form), np.float32)
        for block in _blocks(tensor):
            # |x|^shape is gamma distributed
            rng.standard_gamma(1 / shape, dtype=np.float32, out=block)
            np.power(block, np.float32(1 / shape), out=block)
            block *= np.float32(WIDTH * 10**decade)
            np.negative(block, out=block, where=rng.integers(2, size=block.size, dtype=np.uint8).view(np.bool_))
        update[f"layer{index}.weight"] = tensor.reshape(form)
    return update


def draw_layout(name: str, entries: int | None = None, seed: int = 0) -> Update:
    """Draw an update for one of `LAYOUTS`; of another size, if that is given."""
    shapes = LAYOUTS[name]()
    return draw(shapes if entries is None else shrunk(shapes, entries), seed=seed)


def _blocks(
    flat: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]
