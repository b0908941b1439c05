"""Mem-AOP-GD: layers whose weight gradient is a sum of some of its outer products, with a memory of the others.

Of a dense layer y = W x + b, the gradient of W over a batch is the sum of the outer products g_m x_m^T: x_m is the
m-th row of the input and g_m that of the loss's gradient with respect to y. Only K of them are computed. The rows of
the others stay in a memory, and are added to the rows of the next batch (E. E. Hernandez, S. Rini and T. M. Duman,
"Speeding-up back-propagation in DNN: approximate outer product with memory", arXiv:2110.09164).

The paper multiplies both factors by the square root of the learning rate. That rate is constant while a client
trains, so it is left to the optimiser here, which makes the same steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from simulations.outer_products import OuterProducts


def approximate(model: nn.Module, products: OuterProducts | None) -> list["OuterProductMemory"]:
    """Let the model's dense layers and 1 x 1 convolutions approximate their weight gradients, from now on.

    The layers keep their parameters and the names of these; what they compute is the same. Layers of classes derived
    from torch's stay as they are, and so do convolutions in groups or with padding.

    Parameters
    ----------
    model : nn.Module
        Is changed in place.
    products : OuterProducts or None
        Which products are computed; None for all of them, which leaves the model as it is.

    Returns
    -------
    list of OuterProductMemory
        One for each layer that approximates, in the model's order.

    Raises
    ------
    ValueError
        If the model has no such layer inside.
    """
    if products is None:
        return []
    memories = []
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            kind = _kind(layer)
            if kind is not None:
                memories.append(OuterProductMemory(products))
                setattr(parent, name, kind(layer, memories[-1]))
    if not memories:
        raise ValueError(
            f"The model {type(model).__name__} has no dense layer and no 1 x 1 convolution, so there are no outer "
            "products to choose from. Leave outer-products at exact."
        )
    return memories


def share_saved(memories: list["OuterProductMemory"]) -> float:
    """Return the share of the multiplications for these layers' weight gradients that was saved so far."""
    exact = sum(memory.multiplications.exact for memory in memories)
    return 1 - sum(memory.multiplications.done for memory in memories) / exact if exact else 0.0


class Multiplications(NamedTuple):
    """Multiplications for a layer's weight gradients.

    Attributes
    ----------
    exact : int
        What exact gradients take: rows * in * out for each batch.
    done : int
        What was done instead: chosen rows * in * out, and slots * (in + out) for the norms by which the rows were
        chosen, and as many for a memory that decays.
    """

    exact: int = 0
    done: int = 0


class OuterProductMemory:
    """Computes one layer's weight gradients, and keeps the rows whose products were left out.

    It has a slot for each row of a batch. A smaller batch counts as one whose last rows are zero: these slots hold
    what they held, and may be chosen. A larger one adds slots.

    Parameters
    ----------
    products : OuterProducts
        How many products, and which.

    Attributes
    ----------
    inputs, gradients : Tensor or None
        The rows that are kept, (slots, in) and (slots, out); None before the first batch, and without memory.
    multiplications : Multiplications
        Of all batches so far.
    """

    def __init__(self, products: OuterProducts) -> None:
        self.products = products
        self.inputs: torch.Tensor | None = None
        self.gradients: torch.Tensor | None = None
        self.multiplications = Multiplications()

    def weight_gradient(self, inputs: torch.Tensor, gradients: torch.Tensor, positions: int = 1) -> torch.Tensor:
        """Approximate the gradient of a batch.

        Parameters
        ----------
        inputs, gradients : Tensor
            The layer's input, (rows, in), and the gradient with respect to its output, (rows, out).
        positions : int (default: 1)
            Rows of each example of the batch. K times as many products are computed.

        Returns
        -------
        Tensor
            The gradient of the weights, (out, in).
        """
        x, g = _add_rows(self.inputs, inputs), _add_rows(self.gradients, gradients)
        scores = _SCORES[self.products.selection](x, g)
        chosen = scores.topk(min(self.products.k * positions, len(x)), sorted=False).indices
        gradient = g[chosen].T @ x[chosen]
        if self.products.memory_decay > 0:
            self.inputs, self.gradients = self._left(x, chosen), self._left(g, chosen)
        self._count(len(inputs), len(chosen), gradient.numel(), x.numel() + g.numel())
        return gradient

    def _left(self, rows: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return what stays of one factor: the product of both is to decay by rho, each by its root."""
        left = rows.index_fill(0, chosen, 0)
        return left if self.products.memory_decay == 1 else left.mul_(self.products.memory_decay**0.5)

    def _count(self, rows: int, chosen: int, weights: int, entries: int) -> None:
        exact, done = self.multiplications
        passes = (self.products.selection != "random") + (0 < self.products.memory_decay < 1)
        self.multiplications = Multiplications(exact + rows * weights, done + chosen * weights + passes * entries)


def _add_rows(kept: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """Add two matrices, of which one may lack rows at its end."""
    if kept is None:
        return rows
    few, many = sorted((kept, rows), key=len)
    if len(few) == len(many):
        return few + many
    total = many.clone()
    total[: len(few)] += few
    return total


def _squared_norms(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return the squared Frobenius norms of the outer products, (slots,)."""
    return x.square().sum(1) * g.square().sum(1)


def _race(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return scores whose K largest are K draws without replacement, weighted by the squared norms.

    Each slot waits an exponential time, on average one over its weight, and the first K to come are drawn
    (P. S. Efraimidis and P. G. Spirakis, 2006). Slots of weight zero come last.
    """
    norms = _squared_norms(x, g)
    return norms / torch.empty_like(norms).exponential_()


def _at_random(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(x), device=x.device)


_SCORES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "topk": _squared_norms,
    "weighted": _race,
    "random": _at_random,
}


class _Dense(torch.autograd.Function):
    """rows @ weight.T + bias, whose weight gradient an OuterProductMemory computes; the others are exact."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        memory: OuterProductMemory,
        positions: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.memory, ctx.positions = memory, positions
        return functional.linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            gradient @ weight if needs_rows else None,
            ctx.memory.weight_gradient(rows, gradient, ctx.positions) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
            None,
            None,
        )


_apply = cast(Callable[..., torch.Tensor], _Dense.apply)  # torch leaves it untyped


class _Layer(nn.Module):
    """A layer with the parameters of another, whose gradients it approximates."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, memory: OuterProductMemory) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.memory = memory

    def _dense(self, rows: torch.Tensor, examples: int) -> torch.Tensor:
        """Apply the layer to rows (rows, in), of which each example has as many."""
        positions = max(len(rows) // max(examples, 1), 1)
        return _apply(rows, self.weight.flatten(1), self.bias, self.memory, positions)


class ApproximateLinear(_Layer):
    """A dense layer with approximate weight gradients.

    A drop-in for the ``torch.nn.Linear`` given; the first axis of its input counts examples, all but the last one
    count rows.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (examples, ..., in) to (examples, ..., out)."""
        rows = x.reshape(-1, x.shape[-1])
        return self._dense(rows, len(x)).reshape(*x.shape[:-1], -1)


class ApproximateConv1x1(_Layer):
    """A 1 x 1 convolution with approximate weight gradients: a dense layer at each position of the output.

    A drop-in for the ``torch.nn.Conv2d`` given.
    """

    def __init__(self, layer: nn.Conv2d, memory: OuterProductMemory) -> None:
        super().__init__(layer, memory)
        self._stride = layer.stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (examples, in, height, width) to (examples, out, height / stride, width / stride)."""
        down, right = self._stride
        seen = x[:, :, ::down, ::right].permute(0, 2, 3, 1)
        rows = self._dense(seen.reshape(-1, seen.shape[-1]), len(x))
        return rows.reshape(*seen.shape[:-1], -1).permute(0, 3, 1, 2)


def _kind(layer: nn.Module) -> Callable[[Any, OuterProductMemory], nn.Module] | None:
    """Return what takes the place of a layer; None for one that stays."""
    if type(layer) is nn.Linear:  # what is derived from it may be used in other ways than by calling it
        return ApproximateLinear
    if type(layer) is nn.Conv2d:
        plain = layer.kernel_size == (1, 1) and layer.groups == 1 and layer.padding == (0, 0)
        return ApproximateConv1x1 if plain else None
    return None
