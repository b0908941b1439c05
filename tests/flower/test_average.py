"""Averages of compressed replies: the same as FedAvg's own, whatever else is done with the arrays."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedProx, Krum, Strategy

from flwr_co3 import CO3Config, CO3Mod, CO3Strategy, RateLimit
from flwr_co3._average import Average, NewWeights, Promise, averages
from tests.flower.helpers import LocalGrid, Tensors, arrays, record, reply_with_change
from tests.samples import gennorm

pytestmark = pytest.mark.usefixtures("task")

EXAMPLES = {1: 10, 2: 30, 3: 20, 4: 5}


def model(dtype: str = "f4") -> Tensors:
    return {
        "w": gennorm(0.8, (300, 40), 0.1).astype(dtype),
        "b": gennorm(0.8, 40, 0.1, 1).astype(dtype),
        "bn.running_mean": gennorm(1.5, 8, 1.0, 2).astype(dtype),
        "steps": np.array(7),
    }


def replies_to(strategy: CO3Strategy, sent: Tensors, *, uncompressed: tuple[int, ...] = ()) -> list[Any]:
    """Real replies of clients that train differently."""

    def change(node: int) -> Any:
        def train(name: str, tensor: np.ndarray[Any, Any]) -> Any:
            if tensor.dtype.kind != "f":
                return tensor + node
            return (tensor + gennorm(0.8, tensor.shape or 1, 1e-2, node).reshape(tensor.shape)).astype(tensor.dtype)

        return train

    def client(node: int) -> Any:
        app = reply_with_change(change(node), EXAMPLES[node])
        return app if node in uncompressed else lambda m, c: CO3Mod()(m, c, app)

    grid = LocalGrid({node: client(node) for node in EXAMPLES})
    messages = strategy.configure_train(1, record(sent), ConfigRecord(), grid)
    return grid.send_and_receive(messages)


def aggregated(strategy: CO3Strategy, replies: list[Any]) -> Tensors:
    result, metrics = strategy.aggregate_train(1, replies)
    assert result is not None and metrics is not None
    assert all(type(array).__module__.startswith("flwr.") for array in result.values())
    return arrays(result)


def plain(strategy: type[Strategy]) -> type[Strategy]:
    """The same strategy, but of a class that might do anything: it gets arrays, not promises."""

    class Custom(strategy):  # type: ignore[misc, valid-type]
        def aggregate_train(self, server_round: int, replies: Any) -> tuple[ArrayRecord | None, MetricRecord | None]:
            result: tuple[ArrayRecord | None, MetricRecord | None] = super().aggregate_train(server_round, replies)
            return result

    return Custom


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
@pytest.mark.parametrize("strategy", [FedAvg, FedAvgM, FedAdam, FedProx])
@pytest.mark.parametrize("uncompressed", [(), (1,), (3,), (1, 2)])
def test_averages_are_those_of_arrays(dtype: str, strategy: type[Strategy], uncompressed: tuple[int, ...]) -> None:
    sent, options = model(dtype), {"fraction_evaluate": 0.0, **({"proximal_mu": 0.1} if strategy is FedProx else {})}
    lazy, eager = (CO3Strategy(cls(**options), CO3Config()) for cls in (strategy, plain(strategy)))
    assert averages(lazy.strategy) and not averages(eager.strategy)
    eager._order = lazy._order
    tolerance = {"f2": 4e-3, "f4": 2e-6, "f8": 1e-12}[dtype]
    new = aggregated(lazy, replies_to(lazy, sent, uncompressed=uncompressed))
    reference = aggregated(eager, replies_to(eager, sent, uncompressed=uncompressed))
    assert list(new) == list(reference)
    for name, tensor in reference.items():
        assert new[name].dtype == tensor.dtype
        np.testing.assert_allclose(new[name], tensor, rtol=tolerance, atol=tolerance)


def test_one_reply_is_its_own_average() -> None:
    sent = model()
    strategy = CO3Strategy(FedAvg(fraction_evaluate=0.0))
    (reply, *_) = replies_to(strategy, sent)
    new = aggregated(strategy, [reply])
    assert any(np.any(new[name] != sent[name]) for name in sent)


def test_clients_whose_budget_held_nothing_count_with_what_they_were_sent() -> None:
    sent = model()
    strategy = CO3Strategy(FedAvg(fraction_evaluate=0.0), CO3Config(rate=RateLimit(bytes_per_round=1)))
    new = aggregated(strategy, replies_to(strategy, sent))
    for name in ("w", "b", "bn.running_mean"):
        np.testing.assert_allclose(new[name], sent[name], rtol=1e-6)


@pytest.mark.parametrize("strategy", [FedMedian, Krum])
def test_other_strategies_get_arrays(strategy: type[Strategy]) -> None:
    assert not averages(strategy())


def first_promises(use: Any, weights: Any = None) -> Any:
    """What a strategy's own function for metrics makes of the replies' promises of one tensor, in the round itself."""
    seen: list[Any] = []

    def look(contents: list[Any], key: str) -> MetricRecord:
        seen.append(use([content["arrays"]["w"].numpy() for content in contents]))
        return MetricRecord({"n": 1})

    strategy = CO3Strategy(FedAvg(fraction_evaluate=0.0, train_metrics_aggr_fn=look))
    strategy.aggregate_train(1, replies_to(strategy, model()))
    return seen[0]


def test_promises_behave_as_arrays() -> None:
    """A strategy's own function for metrics may look at the arrays, and do with them what it likes."""

    def look(promises: list[Any]) -> None:
        new = promises[0]
        product, total = new * 0.25, promises[0] * 0.5
        total += promises[1] * 0.25
        assert isinstance(new, NewWeights) and isinstance(product, Average) and isinstance(total, Average)
        values = [np.asarray(promise).copy() for promise in promises]
        expected = [values[0], values[0] * 0.25, values[0] * 0.5 + values[1] * 0.25]
        for promise, value in zip((new, product, total), expected, strict=True):
            assert isinstance(promise, Promise)
            np.testing.assert_allclose(np.asarray(promise), value, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(promise - 1, value - 1, rtol=1e-5)
            np.testing.assert_allclose(2 / (promise + 10), 2 / (value + 10), rtol=1e-5)
            np.testing.assert_allclose(np.square(promise), np.square(value), rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(promise.mean(axis=0), value.mean(axis=0), rtol=1e-4, atol=1e-7)
            assert promise.shape == value.shape and promise.dtype == value.dtype
            with pytest.raises(AttributeError):
                promise.nonsense  # noqa: B018
        np.testing.assert_allclose(new * np.arange(40.0), values[0] * np.arange(40.0), rtol=1e-5)
        array = np.ones_like(values[0])
        array += product
        np.testing.assert_allclose(array, values[0] * 0.25 + 1, rtol=1e-5)
        product += values[1]
        product += product
        np.testing.assert_allclose(np.asarray(product), 2 * (values[0] * 0.25 + values[1]), rtol=1e-5, atol=1e-6)

    first_promises(look)


@pytest.mark.parametrize("shares", [[0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.0], [1.0, 0, 0, 0]])
@pytest.mark.parametrize("count", [2, 4])
def test_other_shares_than_the_weights_and_fewer_replies_are_honoured(shares: list[float], count: int) -> None:
    def look(promises: list[Any]) -> None:
        total = promises[0] * shares[0]
        expected = np.asarray(promises[0]) * shares[0]
        for promise, share in list(zip(promises, shares, strict=True))[1:count]:
            total += promise * share
            expected += np.asarray(promise) * share
        np.testing.assert_allclose(np.asarray(total), expected, rtol=1e-5, atol=1e-7)

    first_promises(look)


def test_a_reply_of_another_form_takes_no_part() -> None:
    """It is decoded, and so in the sum, before the others show that its metrics are unlike theirs."""
    sent = model()
    strategy, other = (CO3Strategy(FedAvg(fraction_evaluate=0.0)) for _ in range(2))
    without = aggregated(other, [r for r in replies_to(other, sent) if r.metadata.src_node_id != 2])
    replies = replies_to(strategy, sent)
    odd = next(reply for reply in replies if reply.metadata.src_node_id == 2)
    odd.content["metrics"]["something-else"] = 1.0
    for name, tensor in aggregated(strategy, replies).items():
        np.testing.assert_allclose(tensor, without[name], rtol=1e-6, atol=1e-7)
