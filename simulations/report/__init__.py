"""The report of a comparison: figures, and one HTML page that holds everything."""

from simulations.report.page import write_report

__all__ = ["write_report"]
