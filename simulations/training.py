"""Training on one client's examples, and evaluation on the test split."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from simulations.own import cross_entropy, is_own, own_task
from simulations.settings import Settings
from simulations.tasks import Examples

_EVALUATION_BATCH = 512


class Score(NamedTuple):
    """How good a model is: the share of right answers, and the mean cross-entropy in nats."""

    accuracy: float
    loss: float


def device() -> torch.device:
    """Return the GPU when there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module,
    examples: Examples,
    settings: Settings,
    *,
    server_round: int,
    partition: int,
    proximal_mu: float = 0.0,
) -> float:
    """Train ``model`` in place for the settings' number of epochs.

    The order of the batches depends on the seed, the round and the partition alone, so that every scheme that
    is compared sees the same.

    Parameters
    ----------
    proximal_mu : float (default: 0.0)
        FedProx's weight of the squared distance from the received model.

    Returns
    -------
    float
        The mean loss over the last epoch, in nats.
    """
    target = device()
    model.to(target).train()
    rng = np.random.default_rng((settings.seed, server_round, partition))
    torch.manual_seed(int(rng.integers(2**31)))  # dropout and the like
    images, labels = _on(target, examples)
    received = [parameter.detach().clone() for parameter in model.parameters()] if proximal_mu else []
    optimizer = _make_optimizer(model, settings, settings.learning_rate_in(server_round))
    training_step = own_task(settings.model).training_step if is_own(settings.model) else cross_entropy
    total = torch.zeros((), device=target)
    for _ in range(settings.local_epochs):
        total.zero_()
        order = torch.from_numpy(rng.permutation(len(labels))).to(target)
        for batch in torch.split(order, settings.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = training_step(model, _as_input(images[batch]), labels[batch])
            total += loss.detach() * len(batch)
            for parameter, start in zip(model.parameters(), received, strict=bool(received)):
                loss = loss + proximal_mu / 2 * (parameter - start).square().sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
    return float(total) / max(len(labels), 1)


def gradients(model: nn.Module, examples: Examples, settings: Settings) -> dict[str, NDArray[np.float32]]:
    """Return the gradient of the first batch's mean loss with respect to each parameter."""
    target = device()
    model.to(target).train()
    first = slice(settings.batch_size)
    images, labels = _on(target, Examples(examples.images[first], examples.labels[first]))
    parameters = dict(model.named_parameters())
    loss = functional.cross_entropy(model(_as_input(images)), labels)
    found = torch.autograd.grad(loss, list(parameters.values()))
    return {name: gradient.cpu().numpy() for name, gradient in zip(parameters, found, strict=True)}


@torch.inference_mode()
def evaluate(model: nn.Module, examples: Examples) -> Score:
    """Score ``model`` on ``examples``."""
    target = device()
    model.to(target).eval()
    images, labels = _on(target, examples)
    correct, loss = 0, 0.0
    for start in range(0, len(labels), _EVALUATION_BATCH):
        part = slice(start, start + _EVALUATION_BATCH)
        outputs = model(_as_input(images[part]))
        correct += int((outputs.argmax(1) == labels[part]).sum())
        loss += float(functional.cross_entropy(outputs, labels[part], reduction="sum"))
    return Score(correct / len(labels), loss / len(labels))


def _make_optimizer(model: nn.Module, settings: Settings, learning_rate: float) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=learning_rate)
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=settings.momentum)


def _on(target: torch.device, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(examples.images).to(target), torch.from_numpy(examples.labels).to(target)


def _as_input(images: torch.Tensor) -> torch.Tensor:
    """Pixels 0 .. 255 as floats -1 .. 1; what isn't bytes stays as it is."""
    return images.float().div_(127.5).sub_(1.0) if images.dtype == torch.uint8 else images
