"""The models, by name, each fitted to the images' shape and the number of classes."""

import itertools
from collections import OrderedDict

import torch
from torch import nn

from simulations.own import is_own, own_task
from simulations.resnet import resnet18
from simulations.tasks import Shape
from simulations.vision import torchvision_model

_TORCHVISION = "torchvision:"


def make_model(name: str, shape: Shape, *, seed: int) -> nn.Module:
    """Build a model with freshly drawn weights.

    Parameters
    ----------
    name : str
        A Python file (see :mod:`simulations.own`), ``cnn``, ``cnn-small``, ``resnet18``
        (GroupNorm, small-image stem) or ``torchvision:<name>`` for any of
        torchvision's.
    shape : Shape
        The images' shape and the number of classes.
    seed : int
        The same seed gives the same weights.

    Raises
    ------
    ValueError
        If there is no such model.
    ImportError
        If a torchvision model is asked for and torchvision can't be imported.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_own(name):
            return own_task(name).make_model()
        if name == "cnn":
            return small_cnn(shape)
        if name == "cnn-small":
            return strided_cnn(shape)
        if name == "resnet18":
            return resnet18(shape)
        if name.startswith(_TORCHVISION):
            return torchvision_model(name.removeprefix(_TORCHVISION), shape)
    raise ValueError(f"There is no model {name!r}. Choose one of: cnn, cnn-small, resnet18, torchvision:<name>.")


def small_cnn(shape: Shape) -> nn.Module:
    """Build a plain CNN: 3 x 3 convolutions that halve the image down to 4 x 4, then two dense layers.

    38,000 parameters for 8 x 8 images, 126,000 for 32 x 32. It has no normalisation layers: what is sent is
    weights.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"], layers["relu1"] = nn.Conv2d(shape.channels, 16, 3, padding=1), nn.ReLU()
    width, side = 16, min(shape.height, shape.width)
    for stage in itertools.count(2):
        wider = min(2 * width, 64)
        layers[f"conv{stage}"], layers[f"relu{stage}"] = nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()
        width, side = wider, side // 2
        if side <= 7:
            layers["pool"] = nn.AdaptiveMaxPool2d(4)
            break
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["dense1"], layers["relu"] = nn.Linear(16 * width, 64), nn.ReLU()
    layers["dense2"] = nn.Linear(64, shape.classes)
    return nn.Sequential(layers)


def strided_cnn(shape: Shape) -> nn.Module:
    """Build a CNN for quick studies: each convolution halves the image, so that it trains twice as fast.

    92,866 parameters for 32 x 32 images in colour and ten classes.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"], layers["relu1"] = nn.Conv2d(shape.channels, 24, 4, stride=2, padding=1), nn.ReLU()
    layers["conv2"], layers["relu2"] = nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU()
    layers["conv3"], layers["relu3"] = nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()
    if (shape.height, shape.width) != (32, 32):  # these are 4 x 4 by now
        layers["pool"] = nn.AdaptiveAvgPool2d(4)
    layers["flatten"] = nn.Flatten()
    layers["dense1"], layers["relu"] = nn.Linear(16 * 64, 64), nn.ReLU()
    layers["dense2"] = nn.Linear(64, shape.classes)
    return nn.Sequential(layers)
