"""Compress: level indices to bytes and back, without loss."""

from flwr_co3.compress.classes import Grid
from flwr_co3.compress.group import MAX_MAGNITUDE, Group, Model, Plan, ZeroModel, lowest_version, read_model
from flwr_co3.compress.levels import Levels, Part, divisible
from flwr_co3.compress.levels import write as write_levels
from flwr_co3.compress.stream import CODERS, likely_size, plan_all
from flwr_co3.compress.stream import read as read_stream
from flwr_co3.compress.stream import write as write_stream
from flwr_co3.compress.tables import Fit

__all__ = [
    "CODERS",
    "MAX_MAGNITUDE",
    "Fit",
    "Grid",
    "Group",
    "Levels",
    "Model",
    "Part",
    "Plan",
    "ZeroModel",
    "divisible",
    "likely_size",
    "lowest_version",
    "plan_all",
    "read_model",
    "read_stream",
    "write_levels",
    "write_stream",
]
