"""Correct: error feedback. Knows nothing of Flower."""

from flwr_co3.correct.memory import MEMORY_DTYPES, ErrorMemory

__all__ = ["MEMORY_DTYPES", "ErrorMemory"]
