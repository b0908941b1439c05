"""Convert: arrays to level indices and back."""

from flwr_co3.convert.conversion import Converted, convert, keep, largest_number, magnitude_values
from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.convert.optimal_scale import distortion, optimal_scale

__all__ = [
    "Converted",
    "FloatFormat",
    "convert",
    "distortion",
    "keep",
    "largest_number",
    "magnitude_values",
    "optimal_scale",
]
