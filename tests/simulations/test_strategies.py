import pytest
from flwr.serverapp.strategy import FedAdam, FedAvgM, FedProx, Krum

from simulations.strategies import make_strategy


def test_strategies_are_flowers_with_their_settings() -> None:
    momentum = make_strategy("fedavgm:server_momentum=0.9", 0.5)
    proximal = make_strategy("fedprox:proximal_mu=1", 1.0)

    assert isinstance(momentum, FedAvgM) and momentum.server_momentum == 0.9 and momentum.fraction_train == 0.5
    assert isinstance(proximal, FedProx) and proximal.proximal_mu == 1.0
    assert isinstance(make_strategy("fedadam:eta=0.01", 1.0), FedAdam)
    assert isinstance(make_strategy("krum:num_malicious_nodes=1", 1.0), Krum)


def test_every_strategy_can_be_made_by_its_name_alone() -> None:
    for name in ("fedavg", "fedadagrad", "fedyogi", "fedmedian", "fedtrimmedavg", "multikrum", "bulyan"):
        make_strategy(name, 1.0)


def test_an_unknown_strategy_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"There is no strategy 'fedsgd'. Choose one of: fedavg, fedavgm"):
        make_strategy("fedsgd", 1.0)
