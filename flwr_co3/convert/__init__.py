"""Convert: arrays to level indices and back."""

from flwr_co3.convert.conversion import Converted, convert, keep, largest_number, magnitude_values
from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.convert.optimal_scale import distortion, least_error, optimal_scale
from flwr_co3.convert.quantizer import RECONSTRUCTIONS, ROUNDINGS, Cells, Codes, Quantizer, points_of
from flwr_co3.convert.thinning import Thinning

__all__ = [
    "RECONSTRUCTIONS",
    "ROUNDINGS",
    "Cells",
    "Codes",
    "Converted",
    "FloatFormat",
    "Quantizer",
    "Thinning",
    "convert",
    "distortion",
    "keep",
    "largest_number",
    "least_error",
    "magnitude_values",
    "optimal_scale",
    "points_of",
]
