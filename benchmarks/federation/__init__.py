"""A Flower federation of real processes on this machine: what a deployment runs, on loopback and free ports."""

from benchmarks.federation.deployment import Federation, Node, Run
from benchmarks.federation.processes import Process, TimeLimitError

__all__ = ["Federation", "Node", "Process", "Run", "TimeLimitError"]
