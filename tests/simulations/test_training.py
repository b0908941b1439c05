import dataclasses

import pytest
import torch

from simulations.models import make_model
from simulations.settings import Settings
from simulations.tasks import Examples, evaluation_examples, image_shape, partition_examples
from simulations.training import evaluate, train

SETTINGS = Settings(local_epochs=2, learning_rate=0.02)


def trained(settings: Settings, examples: Examples, server_round: int = 1, mu: float = 0.0) -> torch.nn.Module:
    model = make_model("cnn", image_shape("digits"), seed=0)
    train(model, examples, settings, server_round=server_round, partition=0, proximal_mu=mu)
    return model.cpu()


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.fixture
def examples() -> Examples:
    return partition_examples("digits", "iid", 0, 0, 4)


def test_training_learns(examples: Examples) -> None:
    test = evaluation_examples("digits")
    before = evaluate(make_model("cnn", image_shape("digits"), seed=0), test)

    after = evaluate(trained(dataclasses.replace(SETTINGS, local_epochs=8), examples), test)

    assert before.accuracy < 0.25 and after.accuracy > 0.6
    assert after.loss < before.loss


def test_training_depends_on_seed_round_and_partition_alone(examples: Examples) -> None:
    first = weights(trained(SETTINGS, examples))
    torch.manual_seed(99)

    assert torch.equal(first, weights(trained(SETTINGS, examples)))
    assert not torch.equal(first, weights(trained(SETTINGS, examples, server_round=2)))
    assert not torch.equal(first, weights(trained(dataclasses.replace(SETTINGS, seed=1), examples)))


def test_the_proximal_term_holds_the_model_back(examples: Examples) -> None:
    start = weights(make_model("cnn", image_shape("digits"), seed=0))
    settings = dataclasses.replace(SETTINGS, momentum=0.0)

    free, held = (torch.dist(weights(trained(settings, examples, mu=mu)), start) for mu in (0.0, 5.0))

    assert held < 0.8 * free


def test_adam_is_another_optimiser(examples: Examples) -> None:
    adam = dataclasses.replace(SETTINGS, optimizer="adam", learning_rate=1e-3)

    assert not torch.equal(weights(trained(adam, examples)), weights(trained(SETTINGS, examples)))


def test_a_round_trains_with_the_learning_rate_of_its_schedule(examples: Examples) -> None:
    falling = dataclasses.replace(SETTINGS, learning_rate_schedule="linear", rounds=2)
    halved = dataclasses.replace(SETTINGS, learning_rate=SETTINGS.learning_rate / 2)

    first, last = (weights(trained(falling, examples, server_round=number)) for number in (1, 2))

    assert torch.equal(first, weights(trained(SETTINGS, examples)))
    assert torch.equal(last, weights(trained(halved, examples, server_round=2)))
