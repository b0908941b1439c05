"""Schemes to compare CO3 with, behind the codec's own interface: same frame, memory, mod and strategy.

>>> from flwr_co3 import CO3Config
>>> from flwr_co3.schemes import make_scheme
>>> CO3Config(scheme=make_scheme("qsgd", levels=4)).to_json()
'{"scheme":{"name":"qsgd","levels":4}}'
"""

from flwr_co3.schemes.registry import GROUP, make_scheme, scheme_class, scheme_names
from flwr_co3.schemes.scheme import Knob, Parts, Scheme, TensorScheme

__all__ = ["GROUP", "Knob", "Parts", "Scheme", "TensorScheme", "make_scheme", "scheme_class", "scheme_names"]
