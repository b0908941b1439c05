"""Convert, compress, correct: Flower clients that send a few hundredths of their updates' bytes, and learn as well.

>>> from flwr_co3 import Codec, CO3Config, RateLimit
"""

from flwr_co3 import schedules
from flwr_co3.client import CO3ClientMixin, CO3Mod
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.convert import FloatFormat
from flwr_co3.correct import ErrorMemory, MemoryStore
from flwr_co3.encoded import Encoded, Report, TensorReport
from flwr_co3.errors import FrameError
from flwr_co3.frame import FrameReader, TensorSpec
from flwr_co3.gennorm import GenNorm
from flwr_co3.rate import RateLimit
from flwr_co3.server import CO3Strategy

__version__ = "0.1.0"

__all__ = [
    "CO3ClientMixin",
    "CO3Config",
    "CO3Mod",
    "CO3Strategy",
    "Codec",
    "Encoded",
    "ErrorMemory",
    "FloatFormat",
    "FrameError",
    "FrameReader",
    "GenNorm",
    "MemoryStore",
    "RateLimit",
    "Report",
    "TensorReport",
    "TensorSpec",
    "schedules",
]
