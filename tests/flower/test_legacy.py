"""CO3LegacyStrategy: the same for NumPyClients and the strategies of flwr.server.strategy."""

import logging
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    Status,
    ndarray_to_bytes,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.compat.common.recorddict_compat import (
    fitins_to_recorddict,
    fitres_to_recorddict,
    recorddict_to_fitres,
)
from flwr.server import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg, FedMedian, Strategy
from flwr.serverapp.strategy import FedAvg as MessageFedAvg
from numpy.typing import NDArray

from flwr_co3.client import CO3ClientMixin, CO3Mod
from flwr_co3.config import CO3Config
from flwr_co3.frame import FrameReader
from flwr_co3.legacy import CO3LegacyStrategy
from flwr_co3.rate import RateLimit
from tests.flower.helpers import EVERYTHING_EXACT, Tensors, context, message, specs

FitResult = tuple[list[NDArray[Any]], int, dict[str, Any]]
Answer = Callable[[FitIns], FitRes]


def step(seed: int, index: int, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind != "f":
        return array + 1
    noise = np.random.default_rng([seed, index]).laplace(scale=0.01, size=array.shape)
    return np.asarray(array + noise.astype(array.dtype))


class Plain(NumPyClient):
    """A client that does not compress."""

    def __init__(self, seed: int, examples: int = 10) -> None:
        self.seed = seed
        self.examples = examples

    def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
        new = [step(self.seed, index, array) for index, array in enumerate(parameters)]
        return new, self.examples, {"loss": 0.5 * self.seed}


class Compressing(CO3ClientMixin, Plain):
    pass


def proxy(cid: str) -> ClientProxy:
    client = Mock(spec=ClientProxy)
    client.cid = cid
    return client


def one_round(strategy: Strategy, answers: list[Answer], parameters: Parameters) -> Any:
    """Ask each client to train once, and aggregate."""
    manager = SimpleClientManager()
    for index in range(len(answers)):
        manager.register(proxy(str(index)))
    results, failures = [], []
    for client, ins in sorted(strategy.configure_fit(1, parameters, manager), key=lambda item: item[0].cid):
        try:
            results.append((client, answers[int(client.cid)](ins)))
        except RuntimeError as error:
            failures.append(error)
    return strategy.aggregate_fit(1, results, failures)  # type: ignore[arg-type]


def answer_of(client: NumPyClient) -> Answer:
    return client.to_client().fit


def answers_with(*clients: NumPyClient) -> list[Answer]:
    return [answer_of(client) for client in clients]


def compressing(seed: int, examples: int = 10) -> Compressing:
    return Compressing(seed, examples, context=context(seed))


@pytest.fixture
def parameters(model: Tensors) -> Parameters:
    return ndarrays_to_parameters(list(model.values()))


def avg(**kwargs: Any) -> FedAvg:
    def losses(metrics: list[tuple[int, dict[str, Scalar]]]) -> dict[str, Scalar]:
        assert all(set(mine) == {"loss"} for _, mine in metrics), "CO3's statistics should be gone"
        return {"loss": sum(float(mine["loss"]) for _, mine in metrics)}

    # In place, Flower cuts whole numbers off: 0.1 * 8 examples + ... = 0.
    return FedAvg(
        inplace=False,
        min_fit_clients=1,
        min_available_clients=1,
        fit_metrics_aggregation_fn=losses,
        **kwargs,
    )


def expected_mean(model: Tensors, seeds_and_weights: dict[int, int]) -> list[NDArray[Any]]:
    total = sum(seeds_and_weights.values())
    return [
        np.asarray(sum(step(s, i, array) * (w / total) for s, w in seeds_and_weights.items()))
        for i, array in enumerate(model.values())
    ]


def assert_same(parameters: Parameters | None, expected: list[NDArray[Any]]) -> None:
    assert parameters is not None and parameters.tensor_type == "numpy.ndarray"
    for ours, theirs in zip(parameters_to_ndarrays(parameters), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_config_carries_the_settings_and_the_users_stays(parameters: Parameters) -> None:
    mine: dict[str, Scalar] = {"lr": 0.1}
    strategy = CO3LegacyStrategy(avg(on_fit_config_fn=lambda _: mine), CO3Config(format="fp8"))
    seen: list[FitIns] = []

    def look(ins: FitIns) -> FitRes:
        seen.append(ins)
        raise RuntimeError

    one_round(strategy, [look, look], parameters)
    assert mine == {"lr": 0.1}
    assert seen[0].config is not seen[1].config
    for ins in seen:
        assert ins.config["lr"] == 0.1
        assert CO3Config.from_json(str(ins.config["co3"])) == CO3Config(format="fp8")
        assert ins.config["co3-run"] == seen[0].config["co3-run"]


def test_the_mean_of_exact_results_is_exact(model: Tensors, parameters: Parameters) -> None:
    strategy = CO3LegacyStrategy(avg(), EVERYTHING_EXACT)
    result, metrics = one_round(
        strategy, answers_with(compressing(1, 10), compressing(2, 30), Plain(3, 60)), parameters
    )
    assert_same(result, expected_mean(model, {1: 10, 2: 30, 3: 60}))
    assert metrics["loss"] == 3.0
    assert (metrics["co3-replies"], metrics["co3-quarantined"], metrics["co3-uncompressed"]) == (3, 0, 1)


def test_lossy_results_are_the_model_plus_the_update(model: Tensors, parameters: Parameters) -> None:
    frames = []

    def listening(ins: FitIns) -> FitRes:
        result = answer_of(compressing(1))(ins)
        frames.append(parameters_to_ndarrays(result.parameters)[0].tobytes())
        return result

    result, _ = one_round(CO3LegacyStrategy(avg()), [listening], parameters)
    reader = FrameReader(frames[0], like=specs(dict(zip(map(str, range(5)), model.values(), strict=True))))
    assert_same(
        result,
        [
            reader.read(str(i)) if str(i) in reader.exact else array + reader.read(str(i))
            for i, array in enumerate(model.values())
        ],
    )


def test_the_mod_works_with_numpy_clients_too(model: Tensors, parameters: Parameters) -> None:
    app = ClientApp(client_fn=lambda _: Plain(1).to_client(), mods=[CO3Mod()])
    ctx = context()

    def answer(ins: FitIns) -> FitRes:
        reply = app(message(fitins_to_recorddict(ins, keep_input=True)), ctx)
        return recorddict_to_fitres(reply.content, keep_input=True)

    result, metrics = one_round(CO3LegacyStrategy(avg(), EVERYTHING_EXACT), [answer], parameters)
    assert_same(result, expected_mean(model, {1: 1}))
    assert metrics["co3-uncompressed"] == 0


def test_another_strategy(model: Tensors, parameters: Parameters) -> None:
    strategy = CO3LegacyStrategy(FedMedian(min_fit_clients=1, min_available_clients=1), EVERYTHING_EXACT)
    result, _ = one_round(strategy, answers_with(*map(compressing, (1, 2, 3))), parameters)
    stacks = [[step(s, i, array) for s in (1, 2, 3)] for i, array in enumerate(model.values())]
    assert_same(result, [np.median(stack, axis=0) for stack in stacks])


def edited(edit: Callable[[FitRes], None], seed: int = 1) -> Answer:
    return edited_answer(answer_of(compressing(seed)), edit)


def edited_answer(answer: Answer, edit: Callable[[FitRes], None]) -> Answer:
    """A client whose result is changed on its way."""

    def answering(ins: FitIns) -> FitRes:
        result = answer(ins)
        edit(result)
        return result

    return answering


def garbage(result: FitRes) -> None:
    frame = parameters_to_ndarrays(result.parameters)[0]
    result.parameters.tensors[0] = ndarray_to_bytes(frame[: len(frame) // 2])


def no_tensors(result: FitRes) -> None:
    result.parameters.tensors.clear()


def no_array(result: FitRes) -> None:
    result.parameters.tensors[0] = b"no array"


def negative_weight(result: FitRes) -> None:
    result.num_examples = -1


def weights_of_another_model(result: FitRes) -> None:
    result.parameters = ndarrays_to_parameters([np.ones(3)])
    result.metrics = {"loss": 0.0}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (garbage, "checksum"),
        (no_tensors, "0 tensors instead of one frame"),
        (no_array, ""),
        (negative_weight, "-1"),
        (weights_of_another_model, "'1' is only on one side"),
    ],
)
def test_bad_results_become_failures(
    model: Tensors,
    parameters: Parameters,
    edit: Callable[[FitRes], None],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = avg()
    aggregate = Mock(side_effect=inner.aggregate_fit)
    inner.aggregate_fit = aggregate  # type: ignore[method-assign]

    def raising(ins: FitIns) -> FitRes:
        raise RuntimeError("out of memory in layer 3")

    strategy = CO3LegacyStrategy(inner, EVERYTHING_EXACT)
    result, metrics = one_round(strategy, [edited(edit), raising, answer_of(compressing(2))], parameters)
    assert_same(result, expected_mean(model, {2: 1}))
    assert (metrics["co3-replies"], metrics["co3-quarantined"]) == (2, 1)
    raised, set_aside = aggregate.call_args.args[2]
    assert "layer 3" in str(raised)
    assert "client 0" in str(set_aside) and words in str(set_aside)
    (warning,) = [entry for entry in caplog.records if entry.name == "flwr.co3"]
    assert warning.levelno == logging.WARNING and warning.getMessage() == str(set_aside)


def test_a_frame_above_the_budget_becomes_a_failure(parameters: Parameters, caplog: pytest.LogCaptureFixture) -> None:
    strategy = CO3LegacyStrategy(avg(), CO3Config(rate=RateLimit(bytes_per_round=100)))

    def greedy(ins: FitIns) -> FitRes:
        return answer_of(compressing(1))(FitIns(ins.parameters, {**ins.config, "co3": "{}"}))

    result, metrics = one_round(strategy, [greedy], parameters)
    assert result is None
    assert metrics["co3-quarantined"] == 1
    assert "more than the 100 that the rate allows" in caplog.text


def test_a_client_that_was_not_asked_becomes_a_failure(parameters: Parameters) -> None:
    strategy = CO3LegacyStrategy(avg())
    result = FitRes(Status(Code.OK, ""), parameters, 10, {})
    aggregated, metrics = strategy.aggregate_fit(1, [(proxy("7"), result)], [])
    assert aggregated is None
    assert metrics["co3-quarantined"] == 1


def test_memory_is_kept_between_rounds(model: Tensors, parameters: Parameters) -> None:
    ctx = context()
    strategy = CO3LegacyStrategy(avg())
    current = parameters
    for _ in range(4):
        current, _ = one_round(strategy, [answer_of(Compressing(1, context=ctx))], current)
    final = parameters_to_ndarrays(current)
    memory = {name: array.numpy() for name, array in ctx.state.array_records["co3-memory"].items()}
    for index in (0, 1):
        array = list(model.values())[index]
        change = step(1, index, np.zeros_like(array))
        np.testing.assert_allclose(final[index] + memory[str(index)], array + 4 * change, atol=1e-5)


def lost(answer: Answer) -> Answer:
    """The client trains and answers, and the server never hears of it."""

    def answering(ins: FitIns) -> FitRes:
        answer(ins)
        raise RuntimeError("the line went dead")

    return answering


@pytest.mark.parametrize("with_mod", [False, True])
def test_a_lost_result_is_sent_again(model: Tensors, parameters: Parameters, with_mod: bool) -> None:
    ctx = context()

    def by_mod(ins: FitIns) -> FitRes:
        app = ClientApp(client_fn=lambda _: Plain(1).to_client(), mods=[CO3Mod()])
        return recorddict_to_fitres(app(message(fitins_to_recorddict(ins, keep_input=True)), ctx).content, False)

    answer = by_mod if with_mod else answer_of(Compressing(1, context=ctx))
    strategy = CO3LegacyStrategy(avg())
    current = parameters
    for way in (answer, lost(answer), edited_answer(answer, no_tensors), lost(answer), answer, answer):
        result, _ = one_round(strategy, [way], current)
        current = current if result is None else result
    final = parameters_to_ndarrays(current)
    memory = {name: array.numpy() for name, array in ctx.state.array_records["co3-memory"].items()}
    for index in (0, 1):
        array = list(model.values())[index]
        change = step(1, index, np.zeros_like(array))
        np.testing.assert_allclose(final[index] + memory[str(index)], array + 6 * change, atol=1e-5)


def test_results_that_the_strategy_throws_away_are_sent_again(parameters: Parameters) -> None:
    seen: list[Any] = []

    def looking(answer: Answer) -> Answer:
        def answering(ins: FitIns) -> FitRes:
            seen.append(ins.config.get("co3-seen"))
            return answer(ins)

        return answering

    strategy = CO3LegacyStrategy(avg(accept_failures=False))
    answers = [looking(answer_of(compressing(1))), lost(answer_of(compressing(2)))]
    for _ in range(2):
        result, _ = one_round(strategy, answers, parameters)
        assert result is None
    one_round(strategy, answers[:1], parameters)
    one_round(strategy, answers[:1], parameters)
    assert seen[:3] == [None] * 3 and len(seen[3]) == 8


def test_a_result_that_comes_twice_is_aggregated_once(model: Tensors, parameters: Parameters) -> None:
    strategy = CO3LegacyStrategy(avg(), EVERYTHING_EXACT)
    manager = SimpleClientManager()
    manager.register(proxy("1"))
    ((client, ins),) = strategy.configure_fit(1, parameters, manager)
    result = answer_of(compressing(1))(ins)
    aggregated, metrics = strategy.aggregate_fit(1, [(client, result), (client, result)], [])
    assert_same(aggregated, expected_mean(model, {1: 1}))
    assert metrics["co3-quarantined"] == 1


def test_a_client_with_several_instructions_in_a_round_gets_no_numbers(parameters: Parameters) -> None:
    class Twice(FedAvg):
        def configure_fit(self, *args: Any) -> Any:
            return super().configure_fit(*args) * 2

    manager = SimpleClientManager()
    manager.register(proxy("1"))
    strategy = CO3LegacyStrategy(Twice(min_fit_clients=1, min_available_clients=1))
    asked = strategy.configure_fit(1, parameters, manager)
    assert [("co3-run" in ins.config, "co3-turn" in ins.config) for _, ins in asked] == [(True, False)] * 2
    results = [(client, answer_of(compressing(1))(ins)) for client, ins in asked]
    _, metrics = strategy.aggregate_fit(1, results, [])
    assert metrics["co3-quarantined"] == 0


def test_it_goes_on_from_the_progress_of_another(parameters: Parameters) -> None:
    first = CO3LegacyStrategy(avg())
    one_round(first, [answer_of(compressing(1))], parameters)
    second = CO3LegacyStrategy(avg(), resume=first.progress)
    assert second.progress == first.progress
    seen: list[FitIns] = []

    def look(ins: FitIns) -> FitRes:
        seen.append(ins)
        raise RuntimeError

    one_round(second, [look], parameters)
    assert str(seen[0].config["co3-run"]) in first.progress and "co3-seen" in seen[0].config


def test_message_bytes_are_those_of_flowers_messages(parameters: Parameters) -> None:
    sizes = {"down": 0, "up": 0, "payload": 0}

    def listening(client: NumPyClient) -> Answer:
        def answer(ins: FitIns) -> FitRes:
            result = answer_of(client)(ins)
            sizes["down"] += sum(r.count_bytes() for r in fitins_to_recorddict(ins, True).values())
            sizes["up"] += sum(r.count_bytes() for r in fitres_to_recorddict(result, True).values())
            sizes["payload"] += sum(map(len, result.parameters.tensors))
            return result

        return answer

    answers = [listening(compressing(1)), listening(Plain(2))]
    _, metrics = one_round(CO3LegacyStrategy(avg()), answers, parameters)
    assert metrics["co3-downlink-message-bytes"] == sizes["down"]
    assert metrics["co3-uplink-message-bytes"] == sizes["up"]
    assert metrics["co3-uplink-payload-bytes"] == sizes["payload"]
    assert metrics["co3-downlink-payload-bytes"] == 2 * sum(map(len, parameters.tensors))
    assert 0 < metrics["co3-nmse"] < 0.1
    assert metrics["co3-encode-seconds"] > 0 and metrics["co3-decode-seconds"] > 0


def test_all_else_is_the_strategys_own(parameters: Parameters) -> None:
    inner = Mock(spec=FedAvg)
    strategy = CO3LegacyStrategy(inner)
    manager = SimpleClientManager()
    assert strategy.initialize_parameters(manager) is inner.initialize_parameters.return_value
    assert strategy.configure_evaluate(1, parameters, manager) is inner.configure_evaluate.return_value
    assert strategy.aggregate_evaluate(1, [], []) is inner.aggregate_evaluate.return_value
    assert strategy.evaluate(1, parameters) is inner.evaluate.return_value
    inner.configure_evaluate.assert_called_once_with(1, parameters, manager)
    inner.evaluate.assert_called_once_with(1, parameters)


def test_what_cannot_be_wrapped_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is flwr_co3\.CO3Strategy"):
        CO3LegacyStrategy(MessageFedAvg())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a CO3LegacyStrategy already"):
        CO3LegacyStrategy(CO3LegacyStrategy(FedAvg()))
    with pytest.raises(ValueError, match="must be a CO3Config, not 'fp8'"):
        CO3LegacyStrategy(FedAvg(), "fp8")  # type: ignore[arg-type]


def test_its_name_shows_what_it_wraps() -> None:
    text = repr(CO3LegacyStrategy(FedAvg(), CO3Config(format="fp8")))
    assert text.startswith("CO3LegacyStrategy(FedAvg(accept_failures=True), CO3Config(format='fp8'")
