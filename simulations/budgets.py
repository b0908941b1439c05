"""Budgets that change over the rounds, as a setting: ``linear|start=1|end=0.05|rounds=25``."""

from flwr_co3 import schedules
from flwr_co3.schedules import Schedule
from simulations.choices import Choice, Value, look_up, only_options, parse_choice, unnested

_WHAT = "schedule"
_CURVES = {"linear": schedules.linear, "cosine": schedules.cosine}
_STEPS = "steps"


def parse_budget(value: Value) -> Value | Schedule:
    """Read a number, or a schedule of `flwr_co3.schedules`: `linear`, `cosine` or `steps`.

    >>> parse_budget("steps|1=0.5|10=0.1")
    steps({1: 0.5, 10: 0.1})

    Raises
    ------
    ValueError
        If there is no such schedule, a setting of it is missing or unknown, or a number is not above 0.
    """
    if not isinstance(value, str):
        return value
    choice = parse_choice(unnested(value), _WHAT)
    look_up({**_CURVES, _STEPS: None}, choice.name, _WHAT)
    for key, number in choice.options.items():
        if isinstance(number, str) or not number > 0:
            raise ValueError(f"The {_WHAT} {value!r} has {key}={number}, which must be a number above 0.")
    return _steps(choice) if choice.name == _STEPS else _curve(choice)


def _steps(choice: Choice) -> Schedule:
    for key in choice.options:
        if not key.isdecimal():
            raise ValueError(f"A {_WHAT} by steps has a number from each round on, steps|1=0.5|10=0.1, and no {key!r}.")
    return schedules.steps({int(key): float(number) for key, number in choice.options.items()})


def _curve(choice: Choice) -> Schedule:
    allowed: dict[str, type] = {"start": float, "end": float, "rounds": int}
    given = only_options(choice, allowed, _WHAT)
    for key in allowed:
        if key not in given:
            raise ValueError(f"The {_WHAT} {choice.name} has no {key}: write {choice.name}|start=1|end=0.05|rounds=25.")
    return _CURVES[choice.name](float(given["start"]), float(given["end"]), int(given["rounds"]))
