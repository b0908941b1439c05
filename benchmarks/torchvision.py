"""torchvision beside any build of PyTorch."""

import importlib
import re

import torch


def import_torchvision() -> None:
    """Make torchvision importable beside any build of PyTorch; its models don't need its compiled operators."""
    while True:
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:  # it wants to describe operators that this PyTorch didn't load
            missing = re.search(r"operator (torchvision::\w+) does not exist", str(error))
            if missing is None:
                raise
            torch.library.define(missing[1], "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
