import importlib

import pytest
import torch

from benchmarks.torchvision import import_torchvision
from simulations.models import make_model
from simulations.tasks import Shape


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
@pytest.mark.parametrize(
    "shape", [Shape(1, 8, 8, 10), Shape(1, 28, 28, 10), Shape(3, 32, 32, 100), Shape(3, 12, 10, 3)]
)
def test_a_model_fits_the_images_and_classes(name: str, shape: Shape) -> None:
    model = make_model(name, shape, seed=0)

    outputs = model(torch.zeros(2, shape.channels, shape.height, shape.width))

    assert outputs.shape == (2, shape.classes)


def test_the_small_cnn_is_small() -> None:
    parameters = make_model("cnn", Shape(1, 8, 8, 10), seed=0).parameters()

    assert 30_000 < sum(parameter.numel() for parameter in parameters) < 60_000


def test_the_resnet_has_eleven_million_parameters_and_no_statistics() -> None:
    model = make_model("resnet18", Shape(3, 32, 32, 10), seed=0)

    assert 11.1e6 < sum(parameter.numel() for parameter in model.parameters()) < 11.3e6
    assert not list(model.buffers())


def test_weights_depend_on_the_seed_alone_and_leave_the_random_state() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (make_model("cnn", Shape(1, 8, 8, 10), seed=seed) for seed in (1, 1, 2))

    weights = [next(model.parameters()).detach() for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"There is no model 'vgg'. Choose one of: cnn, cnn-small, resnet18, torchv"):
        make_model("vgg", Shape(1, 8, 8, 10), seed=0)


def test_a_missing_torchvision_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def fail(name: str, package: str | None = None) -> object:
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")  # a build for another PyTorch
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"nms does not exist.*Install the build that fits your PyTorch"):
        make_model("torchvision:resnet18", Shape(3, 32, 32, 10), seed=0)


@pytest.fixture(scope="module")
def _torchvision() -> None:
    import_torchvision()


@pytest.mark.usefixtures("_torchvision")
@pytest.mark.parametrize("shape", [Shape(3, 64, 64, 7), Shape(1, 64, 64, 7)])
def test_torchvision_models_fit_the_channels_and_classes(shape: Shape) -> None:
    model = make_model("torchvision:resnet18", shape, seed=0).eval()

    assert model(torch.zeros(1, shape.channels, 64, 64)).shape == (1, 7)


@pytest.mark.usefixtures("_torchvision")
def test_an_unknown_torchvision_model_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no classification model 'resnet7'.*resnet18"):
        make_model("torchvision:resnet7", Shape(3, 32, 32, 10), seed=0)
