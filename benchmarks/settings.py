"""The settings that are measured, by the names that tables give them."""

from flwr_co3 import CO3Config, RateLimit

FORMATS = {
    "fp4": CO3Config(),
    "fp4 Huffman": CO3Config(coder="huffman"),
    "e2m1": CO3Config(format="e2m1"),
    "fp8": CO3Config(format="fp8"),
    "fp8_143": CO3Config(format="fp8_143"),
}
BUDGETS = {f"{bits:g} bit": CO3Config(rate=RateLimit(bits_per_parameter=bits)) for bits in (2, 0.5, 0.1, 0.05, 0.01)}
SETTINGS = FORMATS | BUDGETS


def choose(names: str) -> dict[str, CO3Config]:
    """Pick settings by names separated by commas; "formats", "budgets" and "all" stand for several.

    Raises
    ------
    ValueError
        If there is no setting of a name.

    Examples
    --------
    >>> list(choose("fp8, 0.1 bit"))
    ['fp8', '0.1 bit']
    """
    groups = {"formats": FORMATS, "budgets": BUDGETS, "all": SETTINGS}
    chosen: dict[str, CO3Config] = {}
    for name in (part.strip() for part in names.split(",")):
        if name not in groups and name not in SETTINGS:
            raise ValueError(f"There is no setting {name!r}. Choose from: {', '.join([*SETTINGS, *groups])}.")
        chosen |= groups.get(name) or {name: SETTINGS[name]}
    return chosen
