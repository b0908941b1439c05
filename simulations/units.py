"""Numbers as people read them."""


def as_bytes(count: float) -> str:
    """Write a number of bytes with three digits and a decimal unit.

    >>> as_bytes(950), as_bytes(15_430), as_bytes(2_310_000)
    ('950 B', '15.4 kB', '2.31 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{_three_digits(count)} {unit}"


def as_bits(bits: float) -> str:
    """Write bits per parameter.

    >>> as_bits(32.21), as_bits(2.1), as_bits(0.0977)
    ('32.2', '2.10', '0.098')
    """
    return f"{bits:.3f}" if bits < 0.9995 else _three_digits(bits)


def as_ratio(ratio: float) -> str:
    """Write how many times less.

    >>> as_ratio(1.0), as_ratio(12.34), as_ratio(256.7)
    ('1.00×', '12.3×', '257×')
    """
    return f"{_three_digits(ratio)}×"


def as_seconds(seconds: float) -> str:
    """Write a duration.

    >>> as_seconds(0.0042), as_seconds(42.3), as_seconds(135)
    ('4.20 ms', '42.3 s', '2 min 15 s')
    """
    if seconds < 1:
        return f"{_three_digits(1000 * seconds)} ms"
    if seconds < 60:
        return f"{_three_digits(seconds)} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
