"""The one way to write a choice with its settings: ``name:key=value,key=value``."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

Value = bool | int | float | str
T = TypeVar("T")

_LITERALS = {"true": True, "false": False}


class Choice(NamedTuple):
    """A named thing and the settings that go with it, such as ``dirichlet:alpha=0.5``."""

    name: str
    options: dict[str, Value]


def parse_choice(text: str, what: str) -> Choice:
    """Read ``name:key=value,key=value``.

    Parameters
    ----------
    text : str
        What the user wrote. Hyphens in keys are read as underscores.
    what : str
        What is being chosen, for error messages ("scheme", "partitioner", ...).

    Raises
    ------
    ValueError
        If the name is missing or a setting is not of the form key=value.
    """
    name, _, settings = text.strip().partition(":")
    if not name:
        raise ValueError(f"The {what} {text!r} has no name: write it as name or name:key=value,key=value.")
    options: dict[str, Value] = {}
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        key, equals, value = setting.partition("=")
        if not (equals and key and value):
            raise ValueError(f"The {what} {text!r} has the setting {setting!r}, which should read key=value.")
        options[key.strip().replace("-", "_")] = parse_value(value.strip())
    return Choice(name, options)


def unnested(text: str) -> str:
    """Write a choice that is itself a setting's value, ``name|key=value|key=value``, as any other.

    >>> unnested("topk|k=8|memory_decay=1")
    'topk:k=8,memory_decay=1'
    """
    name, _, settings = text.partition("|")
    return f"{name}:{settings.replace('|', ',')}"


def parse_value(text: str) -> Value:
    """Read a truth value, a whole number or a number; anything else stays text."""
    if text.lower() in _LITERALS:
        return _LITERALS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def split_choices(text: str) -> list[str]:
    """Split a list of choices at its commas, but not at those between the settings of one choice.

    ``"fedavg,co3:format=fp4,scale=40"`` holds two: a part with ``=`` and without ``:`` goes on with the one
    before.
    """
    choices: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if choices and "=" in part and ":" not in part.partition("=")[0]:
            choices[-1] += f",{part}"
        else:
            choices.append(part)
    return choices


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """Find ``name`` in ``table``.

    Raises
    ------
    ValueError
        If it isn't there; the message names what is.
    """
    if name not in table:
        raise ValueError(f"There is no {what} {name!r}. Choose one of: {', '.join(table)}.")
    return table[name]


def only_options(choice: Choice, allowed: Mapping[str, type], what: str) -> dict[str, Value]:
    """Return the options of ``choice`` as their declared types.

    Raises
    ------
    ValueError
        If there is an option that ``allowed`` doesn't name, or its value isn't of the type there.
    """
    for key, value in choice.options.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"The {what} {choice.name!r} has no setting {key!r}; its settings: {known}.")
        if not isinstance(value, allowed[key]) and not (allowed[key] is float and isinstance(value, int)):
            raise ValueError(
                f"The setting {key!r} of the {what} {choice.name!r} is {value!r}, "
                f"but should be of type {allowed[key].__name__}."
            )
    return {key: allowed[key](value) for key, value in choice.options.items()}
