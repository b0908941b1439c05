"""The strategies that aggregate, by name; CO3 wraps any of them."""

from typing import Any

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from simulations.choices import look_up, only_options, parse_choice

_ADAPTIVE: dict[str, type] = {"eta": float, "eta_l": float, "tau": float}
_ROBUST: dict[str, type] = {"num_malicious_nodes": int}

_STRATEGIES: dict[str, tuple[Any, dict[str, type]]] = {
    "fedavg": (flower.FedAvg, {}),
    "fedavgm": (flower.FedAvgM, {"server_learning_rate": float, "server_momentum": float}),
    "fedadagrad": (flower.FedAdagrad, _ADAPTIVE),
    "fedadam": (flower.FedAdam, {**_ADAPTIVE, "beta_1": float, "beta_2": float}),
    "fedyogi": (flower.FedYogi, {**_ADAPTIVE, "beta_1": float, "beta_2": float}),
    "fedprox": (flower.FedProx, {"proximal_mu": float}),
    "fedmedian": (flower.FedMedian, {}),
    "fedtrimmedavg": (flower.FedTrimmedAvg, {"beta": float}),
    "krum": (flower.Krum, _ROBUST),
    "multikrum": (flower.MultiKrum, {**_ROBUST, "num_nodes_to_select": int}),
    "bulyan": (flower.Bulyan, _ROBUST),
}


def make_strategy(text: str, fraction_train: float) -> Strategy:
    """Make one of Flower's strategies.

    Parameters
    ----------
    text : str
        Its name and settings, such as ``fedavgm:server_momentum=0.9``.
    fraction_train : float
        Share of the clients that train in each round. None evaluates: the server does, on the test split.

    Raises
    ------
    ValueError
        If there is no such strategy or setting.
    """
    choice = parse_choice(text, "strategy")
    kind, allowed = look_up(_STRATEGIES, choice.name, "strategy")
    options = only_options(choice, allowed, "strategy")
    strategy: flower.FedAvg = kind(fraction_train=fraction_train, min_train_nodes=1, min_available_nodes=1, **options)
    strategy.fraction_evaluate = 0.0  # set afterwards, as the constructor warns of it, and here it is meant
    return strategy
