"""The option ``outer-products``: how many of a weight gradient's outer products clients compute, and which."""

from dataclasses import dataclass

from simulations.choices import look_up, only_options, parse_choice

EXACT = "exact"
"""All of them: plain back-propagation."""

SELECTIONS = ("topk", "weighted", "random")
_WHAT = "outer products"


@dataclass(frozen=True)
class OuterProducts:
    """How the gradient of a dense layer's weights is approximated: Mem-AOP-GD (arXiv:2110.09164).

    Attributes
    ----------
    selection : str
        Which products are computed. "topk": those of the largest norm. "weighted": drawn without replacement,
        with weights that are the squared norms. "random": drawn without replacement, all alike.
    k : int
        How many, of a batch's one for each example.
    memory_decay : float
        What is left from step to step of the products that were not computed: rho, 0 (no memory) to 1.

    Raises
    ------
    ValueError
        If there is no such selection, or a number is out of range.
    """

    selection: str
    k: int
    memory_decay: float = 1.0

    def __post_init__(self) -> None:
        look_up(dict.fromkeys(SELECTIONS), self.selection, f"selection of {_WHAT}")
        if self.k < 1:
            raise ValueError(f"k of the {_WHAT} is {self.k}, but at least one must be computed.")
        if not 0 <= self.memory_decay <= 1:
            raise ValueError(f"memory-decay of the {_WHAT} is {self.memory_decay}, but must be from 0 to 1.")


def parse_outer_products(text: str) -> OuterProducts | None:
    """Read ``exact``, which gives None, or a choice such as ``topk:k=32,memory_decay=1``.

    Raises
    ------
    ValueError
        If there is no such selection or setting, or its value makes no sense.
    """
    choice = parse_choice(text, _WHAT)
    exact = look_up({EXACT: True, **dict.fromkeys(SELECTIONS, False)}, choice.name, f"selection of {_WHAT}")
    allowed: dict[str, type] = {} if exact else {"k": int, "memory_decay": float}
    options = only_options(choice, allowed, _WHAT)
    if exact:
        return None
    if "k" not in options:
        raise ValueError(f"The {_WHAT} {text!r} don't say how many are computed: write {choice.name}:k=8.")
    return OuterProducts(choice.name, int(options["k"]), float(options.get("memory_decay", 1.0)))
