import copy
import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simulations.approximate_gradients import OuterProductMemory, approximate, share_saved
from simulations.models import make_model
from simulations.outer_products import SELECTIONS, OuterProducts
from simulations.tasks import Shape

ROWS, IN, OUT = 6, 5, 3
DRAWS = 2000


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch(rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, IN), torch.randn(rows, OUT)


def outer(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """All outer products g_m x_m^T, (rows, out, in)."""
    return torch.einsum("mo,mi->moi", g, x)


def gradients(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The gradients with respect to the input and to each parameter of a loss that is not linear."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    model(x).square().sum().backward()
    assert x.grad is not None
    return x.grad, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_with_all_products_the_gradient_is_exact_and_nothing_is_left(selection: str, decay: float) -> None:
    memory = OuterProductMemory(OuterProducts(selection, ROWS, decay))

    for _ in range(2):
        x, g = batch()
        torch.testing.assert_close(memory.weight_gradient(x, g), g.T @ x)
    for kept in (memory.inputs, memory.gradients):
        assert kept is None if decay == 0 else kept is not None and not kept.any()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_nothing_is_lost_with_a_memory_that_does_not_decay(selection: str) -> None:
    memory = OuterProductMemory(OuterProducts(selection, 2))
    sums_x, sums_g = torch.zeros(ROWS, IN), torch.zeros(ROWS, OUT)

    for _ in range(5):
        x, g = batch()
        sums_x, sums_g = sums_x + x, sums_g + g
        gradient = memory.weight_gradient(x, g)
        assert memory.inputs is not None and memory.gradients is not None
        used = (memory.inputs == 0).all(1)
        assert used.sum() == 2 and torch.equal(used, (memory.gradients == 0).all(1))
        # What was chosen is in the gradient, what wasn't is all there still.
        torch.testing.assert_close(gradient, outer(sums_x, sums_g)[used].sum(0))
        torch.testing.assert_close(memory.inputs, torch.where(used[:, None], 0.0, sums_x))
        torch.testing.assert_close(memory.gradients, torch.where(used[:, None], 0.0, sums_g))
        sums_x[used], sums_g[used] = 0.0, 0.0


def test_what_is_left_of_a_product_decays_by_rho() -> None:
    x, g = batch()
    left = {}
    for decay in (1.0, 0.25):
        memory = OuterProductMemory(OuterProducts("topk", 2, decay))
        memory.weight_gradient(x, g)
        assert memory.inputs is not None and memory.gradients is not None
        left[decay] = outer(memory.inputs, memory.gradients)

    torch.testing.assert_close(left[0.25], 0.25 * left[1.0])


def test_without_memory_each_batch_stands_alone() -> None:
    memory = OuterProductMemory(OuterProducts("topk", 2, 0.0))
    x, g = batch()
    first = memory.weight_gradient(x, g)
    memory.weight_gradient(*batch())

    assert torch.equal(memory.weight_gradient(x, g), first)


def test_topk_takes_the_products_of_largest_norm() -> None:
    x, g = batch()
    products = outer(x, g)
    largest = products.flatten(1).norm(dim=1).argsort()[-2:]

    found = OuterProductMemory(OuterProducts("topk", 2)).weight_gradient(x, g)

    torch.testing.assert_close(found, products[largest].sum(0))


def chosen_pairs(selection: str, norms: torch.Tensor) -> dict[tuple[int, int], float]:
    """How often each two of four products, with the given squared norms, are chosen together."""
    x = torch.eye(4) * norms.sqrt()[:, None]
    counts = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for _ in range(DRAWS):
        found = OuterProductMemory(OuterProducts(selection, 2, 0.0)).weight_gradient(x, torch.ones(4, 1))
        first, second = found[0].nonzero().ravel().tolist()
        counts[first, second] += 1
    return {pair: count / DRAWS for pair, count in counts.items()}


@pytest.mark.parametrize("selection", ["weighted", "random"])
def test_draws_are_without_replacement_and_have_their_weights(selection: str) -> None:
    norms = torch.tensor([1.0, 2.0, 3.0, 4.0])
    weights = (norms if selection == "weighted" else torch.ones(4)) / (10 if selection == "weighted" else 4)

    found = chosen_pairs(selection, norms)

    for (a, b), share in found.items():
        expected = float(weights[a] * weights[b] * (1 / (1 - weights[a]) + 1 / (1 - weights[b])))
        assert abs(share - expected) < 4.5 * (expected * (1 - expected) / DRAWS) ** 0.5


def test_weighted_draws_take_what_is_zero_last() -> None:
    x, g = batch()
    g[2:] = 0

    found = OuterProductMemory(OuterProducts("weighted", 3)).weight_gradient(x, g)

    torch.testing.assert_close(found, g.T @ x)


def test_a_smaller_batch_is_one_whose_last_rows_are_zero() -> None:
    small, padded = (OuterProductMemory(OuterProducts("topk", 2)) for _ in range(2))
    x, g = batch()
    for memory in (small, padded):
        memory.weight_gradient(x, g)
    few_x, few_g = batch(2)

    found = small.weight_gradient(few_x, few_g)

    zeros = torch.zeros(ROWS - 2, 1)
    wide_x, wide_g = (torch.cat([rows, zeros.expand(-1, rows.shape[1])]) for rows in (few_x, few_g))
    torch.testing.assert_close(found, padded.weight_gradient(wide_x, wide_g))
    assert small.inputs is not None and padded.inputs is not None
    torch.testing.assert_close(small.inputs, padded.inputs)


def test_a_larger_batch_adds_slots() -> None:
    memory = OuterProductMemory(OuterProducts("topk", 1))
    memory.weight_gradient(*batch(2))
    memory.weight_gradient(*batch(5))

    assert memory.inputs is not None and memory.inputs.shape == (5, IN)


def test_a_small_batch_without_memory_has_all_its_products() -> None:
    x, g = batch(2)

    torch.testing.assert_close(OuterProductMemory(OuterProducts("random", 4, 0.0)).weight_gradient(x, g), g.T @ x)


@pytest.mark.parametrize("shape", [(ROWS, IN), (ROWS, 4, IN), (IN,)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_keeps_its_output_and_all_other_gradients(shape: tuple[int, ...], bias: bool) -> None:
    exact = nn.Sequential(nn.Linear(IN, OUT, bias=bias))
    model = copy.deepcopy(exact)
    approximate(model, OuterProducts("topk", 2))
    x = torch.randn(shape)

    torch.testing.assert_close(model(x), exact(x))
    assert list(model.state_dict()) == list(exact.state_dict())
    (of_input, found), (of_exact_input, expected) = gradients(model, x), gradients(exact, x)
    torch.testing.assert_close(of_input, of_exact_input)
    assert found.keys() == expected.keys()
    if bias:
        torch.testing.assert_close(found["0.bias"], expected["0.bias"])
    alone = len(shape) == 1  # one row, so nothing to leave out
    assert torch.allclose(found["0.weight"], expected["0.weight"]) == alone


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
def test_a_1x1_convolution_is_a_dense_layer_at_each_position(stride: int | tuple[int, int]) -> None:
    layer = nn.Conv2d(IN, OUT, 1, stride)
    exact = nn.Sequential(layer)
    model, dense = copy.deepcopy(exact), nn.Sequential(nn.Linear(IN, OUT))
    dense.load_state_dict({name: value.flatten(1) if value.ndim > 1 else value for name, value in
                           exact.state_dict().items()})  # fmt: skip
    for each in (model, dense):
        approximate(each, OuterProducts("topk", 2))
    x = torch.randn(ROWS, IN, 5, 4)
    down, right = layer.stride
    rows = x[:, :, ::down, ::right].permute(0, 2, 3, 1)

    torch.testing.assert_close(model(x), exact(x))
    (of_input, found), (of_exact_input, expected) = gradients(model, x), gradients(exact, x)
    torch.testing.assert_close(of_input, of_exact_input)
    torch.testing.assert_close(found["0.bias"], expected["0.bias"])
    of_dense = gradients(dense, rows)[1]["0.weight"]
    torch.testing.assert_close(found["0.weight"].flatten(1), of_dense)
    assert not torch.allclose(found["0.weight"], expected["0.weight"])


def test_frozen_weights_and_evaluation_leave_the_memory_alone() -> None:
    model = nn.Sequential(nn.Linear(IN, OUT))
    (memory,) = approximate(model, OuterProducts("topk", 2))
    model(torch.randn(ROWS, IN))
    model.requires_grad_(False)
    model(torch.randn(ROWS, IN, requires_grad=True)).sum().backward()

    assert memory.inputs is None and memory.multiplications.exact == 0


def test_all_that_can_be_approximated_is() -> None:
    model = make_model("resnet18", Shape(3, 32, 32, 10), seed=0)
    names = list(model.state_dict())

    memories = approximate(model, OuterProducts("random", 2))

    assert len(memories) == 3 + 1  # the shortcuts that change the width, and the last layer
    assert list(model.state_dict()) == names
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(memory.multiplications.exact for memory in memories)
    assert share_saved(memories) == 0.5


def test_what_cannot_be_approximated_stays() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, padding=1))
    layers = list(model.children())

    with pytest.raises(ValueError, match=r"Sequential has no dense layer .* Leave outer-products at exact"):
        approximate(model, OuterProducts("topk", 2))
    assert approximate(nn.Sequential(nn.Linear(2, 2)), None) == []
    assert list(model.children()) == layers


@pytest.mark.parametrize(("selection", "decay", "passes"), [("random", 1, 0), ("topk", 0, 1), ("weighted", 0.5, 2)])
def test_multiplications_are_counted(selection: str, decay: float, passes: int) -> None:
    model = nn.Sequential(nn.Linear(IN, OUT))
    (memory,) = approximate(model, OuterProducts(selection, 2, decay))
    x = torch.randn(ROWS, IN)

    with FlopCounterMode(display=False) as counter:  # counts those of matrix products, and as many additions
        model(x).sum().backward()

    forward = ROWS * IN * OUT
    exact, done = memory.multiplications
    assert exact == ROWS * IN * OUT
    assert done == counter.get_total_flops() / 2 - forward + passes * ROWS * (IN + OUT)
    assert share_saved([memory]) == pytest.approx(1 - done / exact)
