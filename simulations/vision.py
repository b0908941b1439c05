"""Any of torchvision's classification models, by name; torchvision is imported only when one is asked for."""

import importlib
from typing import Any

import torch
from torch import nn

from simulations.tasks import Shape


def torchvision_model(name: str, shape: Shape) -> nn.Module:
    """Build one of torchvision's models, untrained, for the images' channels and the number of classes.

    Raises
    ------
    ValueError
        If torchvision has no such model.
    ImportError
        If torchvision can't be imported.
    """
    models = _import_models()
    if name not in models.list_models(module=models):
        raise ValueError(
            f"torchvision has no classification model {name!r}. Write it as in torchvision:resnet18; it has: "
            f"{', '.join(models.list_models(module=models))}."
        )
    model: nn.Module = models.get_model(name, weights=None, num_classes=shape.classes)
    if shape.channels != 3:
        _change_input_channels(model, shape.channels)
    return model


def _import_models() -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # a build for another PyTorch fails with a RuntimeError
        build = "CPU" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
        raise ImportError(
            f"torchvision could not be imported ({error}). Install the build that fits your PyTorch "
            f"{torch.__version__}: the one for {build}, from where that PyTorch came."
        ) from error


def _change_input_channels(model: nn.Module, channels: int) -> None:
    """Give the first convolution, which expects colour, another number of input channels."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            first = nn.Conv2d(
                channels,
                module.out_channels,
                kernel_size=(module.kernel_size[0], module.kernel_size[1]),
                stride=(module.stride[0], module.stride[1]),
                padding=module.padding,  # type: ignore[arg-type]  # as torch's own constructor left it
                bias=module.bias is not None,
            )
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, first)
            return
