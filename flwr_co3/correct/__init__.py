"""Correct: error feedback. Knows nothing of Flower."""

from flwr_co3.correct.kept import Kept, LastUpdate
from flwr_co3.correct.memory import MEMORY_DTYPES, ErrorMemory
from flwr_co3.correct.store import MemoryStore

__all__ = ["MEMORY_DTYPES", "ErrorMemory", "Kept", "LastUpdate", "MemoryStore"]
