"""Rates that change over rounds and nodes: told to clients, kept by them, and held against what they send."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord
from flwr.common import FitIns, ndarrays_to_parameters
from flwr.server import SimpleClientManager
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import FedAvg, FedMedian, Strategy

from flwr_co3 import CO3Config, CO3Mod, CO3Strategy, Codec, FrameError, RateLimit
from flwr_co3.legacy import CO3LegacyStrategy
from flwr_co3.schedules import follow_loss, linear, steps
from tests.flower.helpers import (
    App,
    LocalGrid,
    Tensors,
    arrays,
    avg,
    context,
    frame_of,
    model_of,
    record,
    reply_with_change,
    specs,
)
from tests.flower.test_client import ORDER, Client, frame_of_fit
from tests.flower.test_legacy import proxy
from tests.flower.test_server import client, edited, reframed, run, step

pytestmark = pytest.mark.usefixtures("task")

FALLING = RateLimit(bytes_per_round=steps({1: 520, 2: 460, 3: 1}))


def limits_of(grid: LocalGrid) -> list[float | None]:
    """What the train messages named, in their order."""
    configs = [CO3Config.from_json(str(message.content["config"]["co3"])) for message in grid.sent]
    return [None if config.limit is None else config.limit.to_dict()["bytes_per_round"] for config in configs]


def sizes(grid: LocalGrid) -> list[int]:
    return [len(frame_of(reply)) for reply in grid.train_replies()]


def test_each_round_has_its_limit_and_a_plain_number_travels(model: Tensors) -> None:
    grid = LocalGrid({1: client(1)})
    run(CO3Strategy(avg(), CO3Config(rate=FALLING)), grid, model, rounds=4)
    assert limits_of(grid) == [520, 460, 1, 1]
    first, second, *empty = sizes(grid)
    assert 460 < first <= 520 and 400 < second <= 460 and empty == [1, 1]


def rising_when_loss_falls(losses: list[float]) -> App:
    """A client whose loss is the next of these."""
    values = iter(losses)

    def app(message: Message, ctx: Any) -> Message:
        reply = reply_with_change(step(1))(message, ctx)
        metrics = reply.content.metric_records["metrics"]
        reply.content["metrics"] = MetricRecord({**metrics, "loss": next(values)})
        return reply

    return lambda message, ctx: CO3Mod()(message, ctx, app)


def test_a_rate_may_follow_the_loss_that_clients_report(model: Tensors) -> None:
    grid = LocalGrid({1: rising_when_loss_falls([4.0, 1.0, 0.25, 1.0])})
    config = CO3Config(rate=RateLimit(bytes_per_round=follow_loss(500, metric="loss")))
    run(CO3Strategy(avg(), config), grid, model, rounds=4)
    assert limits_of(grid) == [500, 500, 1000, 2000]


def test_a_run_that_is_resumed_goes_on_with_its_schedules(model: Tensors) -> None:
    config = CO3Config(rate=RateLimit(bytes_per_round=linear(500, 900, 5)))
    strategy = CO3Strategy(avg(), config)
    run(strategy, LocalGrid({1: client(1)}), model, rounds=2)
    grid = LocalGrid({1: client(1)})
    run(CO3Strategy(avg(), config, resume=strategy.progress), grid, model, rounds=2)
    assert limits_of(grid) == [700, 800]

    following = CO3Config(rate=RateLimit(bytes_per_round=follow_loss(500, metric="loss")))
    strategy = CO3Strategy(avg(), following)
    run(strategy, LocalGrid({1: rising_when_loss_falls([4.0, 1.0])}), model, rounds=2)
    grid = LocalGrid({1: rising_when_loss_falls([1.0])})
    run(CO3Strategy(avg(), following, resume=strategy.progress), grid, model)
    assert limits_of(grid) == [1000]


def by_node(round: int, node: int) -> RateLimit | None:
    """Node 1 is fast, node 2 slow and slower from the second round on, node 3 without a limit."""
    return {1: RateLimit(bytes_per_round=1200), 2: RateLimit(bytes_per_round=steps({1: 500, 2: 480}))}.get(node)


def test_nodes_have_budgets_of_their_own(model: Tensors) -> None:
    grid = LocalGrid({node: client(node) for node in (1, 2, 3)})
    run(CO3Strategy(avg(), CO3Config(rate=by_node)), grid, model, rounds=2)
    assert limits_of(grid) == [1200, 500, None, 1200, 480, None]
    assert all(limit is None or size <= limit for size, limit in zip(sizes(grid), limits_of(grid), strict=True))


@pytest.mark.parametrize("strategy", [FedAvg, FedMedian])
def test_updates_of_different_budgets_are_aggregated_as_they_are(model: Tensors, strategy: type[FedAvg]) -> None:
    """Budgets change what each client sends, not how it counts."""
    seen: list[Tensors] = []

    class Watching(strategy):  # type: ignore[valid-type, misc]
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            replies = list(replies)
            seen.extend(arrays(model_of(reply.content)) for reply in replies)
            return super().aggregate_train(server_round, replies)

    def outcome(kind: type[Strategy], rate: Any) -> tuple[Tensors, LocalGrid]:
        grid = LocalGrid({node: client(node, 10 * node) for node in (1, 2, 3)})
        wrapped = CO3Strategy(kind(fraction_evaluate=0.0), CO3Config(rate=rate))  # type: ignore[call-arg]
        return arrays(run(wrapped, grid, model).arrays), grid

    together, grid = outcome(strategy, by_node)
    watched, _ = outcome(Watching, by_node)
    assert limits_of(grid) == [1200, 500, None]
    weights = np.array([10, 20, 30]) / 60
    for name in ("conv.weight", "fc.weight"):
        stacked = np.stack([each[name] for each in seen])
        expected = np.median(stacked, axis=0) if strategy is FedMedian else np.tensordot(weights, stacked, 1)
        np.testing.assert_allclose(watched[name], expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(together[name], expected, rtol=1e-5, atol=1e-7)
    alone = [outcome(strategy, lambda round, node, only=only: by_node(round, only))[1] for only in (1, 2, 3)]
    for place, single in enumerate(alone):  # each node sends what it would if all had its budget
        assert sizes(grid)[place] == sizes(single)[place]


@pytest.mark.parametrize("rate", [FALLING, by_node, RateLimit(bytes_per_round=follow_loss(500))])
def test_a_frame_above_its_own_limit_is_set_aside(model: Tensors, rate: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The limit of its node in its round, whatever others may send."""
    free = CO3Config().to_json()

    def greedy(message: Message, ctx: Any) -> Message:
        message.content.config_records["config"]["co3"] = free
        return client(2)(message, ctx)

    grid = LocalGrid({1: client(1), 2: greedy})
    result = run(CO3Strategy(avg(), CO3Config(rate=rate)), grid, model, rounds=2)
    for server_round in (1, 2):
        metrics = result.train_metrics_clientapp[server_round]
        assert (metrics["co3-replies"], metrics["co3-quarantined"]) == (2, 1)
    limit = limits_of(grid)[1]
    assert f"more than the {limit} that the rate allows" in caplog.text
    assert "set aside the reply of node 2" in caplog.text and "reply of node 1" not in caplog.text


def test_a_broken_frame_within_its_limit_is_still_broken(model: Tensors) -> None:
    grid = LocalGrid({1: client(1), 2: edited(client(2), reframed(lambda frame: frame[:-1] + b"?"))})
    result = run(CO3Strategy(avg(), CO3Config(rate=by_node)), grid, model)
    assert result.train_metrics_clientapp[1]["co3-quarantined"] == 1


def test_the_clients_own_limit_binds_too(model: Tensors) -> None:
    def app(message: Message, ctx: Any) -> Message:
        return CO3Mod(rate=RateLimit(bytes_per_round=490))(message, ctx, reply_with_change(step(1)))

    grid = LocalGrid({1: app})
    run(CO3Strategy(avg(), CO3Config(rate=FALLING)), grid, model, rounds=2)
    first, second = sizes(grid)
    assert 460 < first <= 490 and second <= 460


def test_a_client_has_no_schedules() -> None:
    with pytest.raises(ValueError, match="a client knows nothing of the rounds: give it numbers"):
        CO3Mod(rate=FALLING)


@pytest.mark.parametrize("as_attribute", [False, True])
@pytest.mark.parametrize(("server", "mine", "limit"), [(None, 550, 550), (500, 550, 500), (600, 550, 550)])
def test_the_mixin_has_a_limit_of_its_own(
    model: Tensors, server: int | None, mine: int, limit: int, as_attribute: bool
) -> None:
    own = RateLimit(bytes_per_round=mine)
    if as_attribute:
        numpy_client = Client(context=context())
        numpy_client.rate = own
    else:
        numpy_client = Client(context=context(), rate=own)
    rate = None if server is None else RateLimit(bytes_per_round=server)
    order = {**ORDER, "co3": CO3Config(rate=rate).to_json()}
    assert 1 < len(frame_of_fit(numpy_client.fit(list(model.values()), order))) <= limit


def test_the_mixins_limit_must_be_one(model: Tensors) -> None:
    for rate, words in ((0.5, "must be a RateLimit or None"), (FALLING, "knows nothing of the rounds")):
        numpy_client = Client(context=context(), rate=rate)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=rf"Client's rate .*{words}"):
            numpy_client.fit(list(model.values()), ORDER)


def test_a_legacy_strategy_has_schedules_and_budgets_by_node(model: Tensors) -> None:
    manager = SimpleClientManager()
    for cid in ("1", "2"):
        manager.register(proxy(cid))
    parameters = ndarrays_to_parameters(list(model.values()))
    falling = RateLimit(bytes_per_round=steps({1: 900, 2: 300}))

    def slow_second(round: int, node: int) -> RateLimit:
        return RateLimit(bytes_per_round=900) if node == 1 else falling

    for rate, expected in ((falling, {"1": 300, "2": 300}), (slow_second, {"1": 900, "2": 300})):
        strategy = CO3LegacyStrategy(LegacyFedAvg(), CO3Config(rate=rate))
        results = []
        for asked, ins in strategy.configure_fit(2, parameters, manager):
            limit = CO3Config.from_json(str(ins.config["co3"])).limit
            assert limit == RateLimit(bytes_per_round=expected[asked.cid])
            free = FitIns(ins.parameters, {**ins.config, "co3": CO3Config().to_json()})
            results.append((asked, Client(context=context()).to_client().fit(free if asked.cid == "2" else ins)))
        _, metrics = strategy.aggregate_fit(2, results, [])
        assert (metrics["co3-replies"], metrics["co3-quarantined"]) == (2, 1)


def test_the_downlink_has_schedules_but_no_budgets_by_node(model: Tensors) -> None:
    downlink = CO3Config(rate=RateLimit(bytes_per_round=steps({1: 900, 3: 600})))
    grid = LocalGrid({1: client(1)})
    run(CO3Strategy(avg(), downlink=downlink), grid, model, rounds=3)
    _, second, third = ([len(array.data) for array in model_of(message.content).values()] for message in grid.sent)
    assert 600 < second[0] <= 900 and third[0] <= 600
    with pytest.raises(ValueError, match="all nodes are sent the same frames"):
        CO3Strategy(avg(), downlink=dataclasses.replace(downlink, rate=by_node))


def test_exact_tensors_above_the_budget_leave_the_empty_update_and_the_metrics_say_so(model: Tensors) -> None:
    """64 statistics take 256 bytes: nothing goes out, all that was learned stays, and the round counts it."""
    grid = LocalGrid({1: client(1)})
    result = run(CO3Strategy(avg(), CO3Config(rate=RateLimit(bytes_per_round=200))), grid, model)
    assert sizes(grid) == [1]
    metrics = result.train_metrics_clientapp[1]
    assert metrics["co3-empty"] == 1 and metrics["co3-nmse"] == 1.0
    memory = arrays(grid.contexts[1].state.array_records["co3-memory"])
    for name in ("conv.weight", "fc.weight"):
        np.testing.assert_allclose(memory[name], step(1)(name, model[name]) - model[name], atol=1e-7)
    assert record(model).keys() == result.arrays.keys()
    for name, array in arrays(result.arrays).items():
        np.testing.assert_array_equal(array, model[name])


def test_a_server_that_knows_the_tensors_gets_frames_without_their_names(model: Tensors) -> None:
    """Not where there are whole numbers: FedAvg makes fractions of them, and the table would be another."""
    del model["bn.num_batches_tracked"]
    rate = RateLimit(bytes_per_round=400)
    grid = LocalGrid({1: client(1), 2: client(2)})
    result = run(CO3Strategy(avg(), CO3Config(rate=rate)), grid, model)
    for reply in grid.train_replies():
        with pytest.raises(FrameError, match="refers to a table of tensors that its receiver knows"):
            Codec().decode(frame_of(reply))
    updates = [Codec().decode(frame_of(reply), like=specs(model)) for reply in grid.train_replies()]
    for name in ("conv.weight", "fc.weight"):
        expected = model[name] + (updates[0][name] + updates[1][name]) / 2
        np.testing.assert_allclose(arrays(result.arrays)[name], expected, atol=1e-6)


def test_a_lost_update_without_names_is_put_back(model: Tensors) -> None:
    del model["bn.num_batches_tracked"]
    grid = LocalGrid({1: client(1)})
    strategy = CO3Strategy(avg(), CO3Config(rate=RateLimit(bytes_per_round=400)))
    (lost,) = strategy.configure_train(1, record(model), ConfigRecord(), grid)
    (frame,) = map(frame_of, grid.send_and_receive([lost]))  # and the reply never comes
    assert np.any(Codec().decode(frame, like=specs(model))["conv.weight"])
    result = run(strategy, grid, model)
    memory = arrays(grid.contexts[1].state.array_records["co3-memory"])
    for name in ("conv.weight", "fc.weight"):
        learnt = 2 * (step(1)(name, model[name]) - model[name])
        np.testing.assert_allclose(arrays(result.arrays)[name] + memory[name], model[name] + learnt, atol=1e-6)
