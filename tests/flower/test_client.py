"""CO3Mod and CO3ClientMixin: what a client sends, what it remembers, and what it refuses."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, fixedclipping_mod, message_size_mod
from flwr.common import Code, FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from numpy.typing import NDArray

from flwr_co3.client import CO3ClientMixin, CO3Mod
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.frame import FrameReader
from flwr_co3.rate import RateLimit
from tests.flower.helpers import (
    EVERYTHING_EXACT,
    Tensors,
    arrays,
    context,
    frame_of,
    memory_of,
    message,
    model_of,
    raising,
    record,
    reply_with,
    reply_with_change,
    small_step,
    train_message,
)

LOSSY = {"conv.weight", "fc.weight"}


def train_and_note(started: Tensors) -> Callable[[Message, Context], Message]:
    """The app that trains, which notes the model that it gets."""

    def app(received: Message, context: Context) -> Message:
        started.update(arrays(model_of(received.content)))
        return train(received, context)

    return app


def with_turn(received: Message, turn: int) -> Message:
    received.content.config_records["config"]["co3-turn"] = turn
    return received


train = reply_with_change(small_step)


def reason_of(reply: Message) -> str:
    assert reply.has_error(), "the mod should have refused"
    assert reply.error.reason is not None
    return reply.error.reason


# What passes untouched


@pytest.mark.parametrize("kind", ["evaluate", "query", "evaluate.train"])
def test_messages_of_other_types_pass_untouched(model: Tensors, kind: str) -> None:
    received = train_message(model)
    received = message(received.content, kind=kind)
    answer = train(received, context())
    ctx = context()
    assert CO3Mod()(received, ctx, lambda *_: answer) is answer
    assert set(model_of(answer.content)) == set(model)
    assert not ctx.state


def test_messages_of_a_server_without_co3_pass_untouched(model: Tensors) -> None:
    received = message(RecordDict({"arrays": record(model), "config": ConfigRecord({"lr": 0.1})}))
    answer = train(received, context())
    assert CO3Mod()(received, context(), lambda *_: answer) is answer
    assert set(model_of(answer.content)) == set(model)


def test_a_train_message_with_an_action_is_compressed(model: Tensors) -> None:
    received = message(train_message(model).content, kind="train.fine_tune")
    assert frame_of(CO3Mod()(received, context(), train))


def test_the_settings_may_stand_in_any_config_record(model: Tensors) -> None:
    content = train_message(model).content
    content = RecordDict({"more": ConfigRecord({"epochs": 3}), **content})
    assert frame_of(CO3Mod()(message(content), context(), train))


# What is sent


def test_a_reply_holds_one_frame_that_decodes_to_the_update(model: Tensors) -> None:
    ctx = context()
    reply = CO3Mod()(train_message(model, CO3Config(format="fp8")), ctx, train)

    (entry,) = model_of(reply.content).values()
    assert list(reply.content.array_records) == ["arrays"]
    assert (entry.dtype, entry.shape, entry.stype) == ("uint8", (len(entry.data),), "flwr_co3")
    reader = FrameReader(frame_of(reply))
    assert set(reader.tensors) == set(model)
    assert reader.exact == set(model) - LOSSY
    for name, tensor in model.items():
        new = small_step(name, tensor)
        if name in LOSSY:
            update = new - tensor
            error = np.linalg.norm(reader.read(name) - update) / np.linalg.norm(update)
            assert error < 0.1
            np.testing.assert_allclose(memory_of(ctx)[name], update - reader.read(name), atol=1e-7)
        else:
            np.testing.assert_array_equal(reader.read(name), new)
            assert reader.read(name).dtype == tensor.dtype


def test_only_lossy_tensors_are_remembered(model: Tensors) -> None:
    ctx = context()
    CO3Mod()(train_message(model), ctx, train)
    assert set(memory_of(ctx)) == LOSSY
    assert ctx.state.config_records["co3-run"] == {"token": "a run"}


def test_the_server_sets_the_format(model: Tensors) -> None:
    frames = {
        name: frame_of(CO3Mod()(train_message(model, CO3Config(format=name)), context(), train))
        for name in ("fp4", "fp8")
    }
    assert len(frames["fp4"]) < len(frames["fp8"])


def test_metrics_carry_the_statistics_and_all_else_stays(model: Tensors) -> None:
    ctx = context()

    def app(received: Message, context: Context) -> Message:
        reply = train(received, context)
        reply.content["notes"] = ConfigRecord({"device": "cpu"})
        return reply

    reply = CO3Mod()(train_message(model), ctx, app)
    metrics = dict(reply.content.metric_records["metrics"])
    nmse, seconds, norm = metrics.pop("co3")  # type: ignore[misc]
    assert metrics == {"num-examples": 10, "loss": 1.0}
    assert reply.content.config_records["notes"] == {"device": "cpu"}
    assert 0 < nmse < 0.1
    assert 0 < seconds < 5
    stored = np.concatenate([error.ravel() for error in memory_of(ctx).values()])
    assert norm == pytest.approx(np.linalg.norm(stored), rel=1e-5)


@pytest.mark.parametrize("names", [[], ["metrics", "more-metrics"]])
def test_without_one_metric_record_there_are_no_statistics(model: Tensors, names: list[str]) -> None:
    def app(received: Message, context: Context) -> Message:
        metrics = {name: MetricRecord({"loss": 1.0}) for name in names}
        return Message(RecordDict({"arrays": record(model), **metrics}), reply_to=received)

    reply = CO3Mod()(train_message(model), context(), app)
    assert frame_of(reply)
    assert all(dict(metrics) == {"loss": 1.0} for metrics in reply.content.metric_records.values())


def test_the_apps_own_objects_are_left_as_they_are(model: Tensors) -> None:
    received = train_message(model)
    mine = train(received, context()).content
    before = copy.deepcopy(mine)
    CO3Mod()(received, context(), lambda *_: Message(mine, reply_to=received))
    assert mine == before
    assert received.content == train_message(model).content


def test_an_app_may_empty_the_record_that_it_gets(model: Tensors) -> None:
    def app(received: Message, context: Context) -> Message:
        reply = train(received, context)
        model_of(received.content).clear()  # as to_torch_state_dict(keep_input=False) does
        return reply

    reply = CO3Mod()(train_message(model), context(), app)
    assert set(FrameReader(frame_of(reply)).tensors) == set(model)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_of_any_width(dtype: str) -> None:
    received = np.linspace(-1, 1, 600).reshape(20, 30).astype(dtype)
    new = (received + np.random.default_rng(1).normal(scale=0.1, size=received.shape)).astype(dtype)
    reply = CO3Mod()(train_message({"w": received}, CO3Config(format="fp8")), context(), reply_with({"w": new}))
    update = Codec().decode(frame_of(reply))["w"]
    assert update.dtype == ("float64" if dtype == "float64" else "float32")
    wanted = new.astype("float64") - received
    assert np.linalg.norm(update - wanted) < 0.06 * np.linalg.norm(wanted)


def test_weights_trained_in_more_precision_are_sent_in_the_models(model: Tensors) -> None:
    app = reply_with_change(lambda _, tensor: tensor.astype(np.float64) if tensor.dtype.kind == "f" else tensor)
    reply = CO3Mod()(train_message(model), context(), app)
    assert {spec.dtype for spec in FrameReader(frame_of(reply)).tensors.values()} == {"float32", "int64"}


def test_odd_tensors(model: Tensors) -> None:
    odd: Tensors = {
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False]),
        "one-entry": np.array([2.0], np.float32),
    }
    config = CO3Config(exact_below=0)
    ctx = context()
    change = reply_with_change(lambda name, tensor: ~tensor if name == "flags" else tensor + np.float32(0.25))
    for _ in range(2):
        frame = frame_of(CO3Mod()(train_message(odd, config), ctx, change))
        decoded = Codec().decode(frame)
        assert {name: array.shape for name, array in decoded.items()} == {n: a.shape for n, a in odd.items()}
        np.testing.assert_array_equal(decoded["flags"], [False, True])


def test_a_model_that_did_not_change(model: Tensors) -> None:
    ctx = context()
    reply = CO3Mod()(train_message(model), ctx, reply_with(model))
    decoded = Codec().decode(frame_of(reply))
    assert all(not decoded[name].any() for name in LOSSY)
    assert all(not error.any() for error in memory_of(ctx).values())
    statistics = reply.content.metric_records["metrics"]["co3"]
    assert np.isfinite(statistics).all()


# Budgets


@pytest.mark.parametrize(
    ("server", "client", "limit"), [(None, 550, 550), (500, 550, 500), (600, 550, 550), (500, None, 500)]
)
def test_the_tighter_budget_counts(model: Tensors, server: int | None, client: int | None, limit: int) -> None:
    config = CO3Config(rate=None if server is None else RateLimit(bytes_per_round=server))
    mod = CO3Mod(rate=None if client is None else RateLimit(bytes_per_round=client))
    frame = frame_of(mod(train_message(model, config), context(), train))
    assert 1 < len(frame) <= limit


def test_a_budget_too_small_for_anything_keeps_everything_in_memory(model: Tensors) -> None:
    ctx = context()
    reply = CO3Mod(rate=RateLimit(bytes_per_round=1))(train_message(model), ctx, train)
    assert len(frame_of(reply)) == 1
    for name in LOSSY:
        np.testing.assert_allclose(memory_of(ctx)[name], small_step(name, model[name]) - model[name])


def test_a_rate_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a RateLimit or None, but is 0\.5"):
        CO3Mod(rate=0.5)  # type: ignore[arg-type]


# Memory


@pytest.mark.parametrize("config", [CO3Config(rounding="stochastic"), CO3Config(scheme="qsgd")])
def test_draws_repeat_where_a_function_says_what_seeds_them(model: Tensors, config: CO3Config) -> None:
    def frame(mod: CO3Mod, node: int) -> bytes:
        return frame_of(mod(train_message(model, config, node=node), context(node), reply_with_change(small_step)))

    seeded = CO3Mod(seed=lambda message, context: (7, context.node_id))
    assert frame(seeded, 1) == frame(seeded, 1) != frame(seeded, 2)
    assert frame(CO3Mod(), 1) != frame(CO3Mod(), 1)
    with pytest.raises(ValueError, match="seed must be a function of a train message and the context"):
        CO3Mod(seed=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_what_was_not_sent_is_sent_later(model: Tensors, decay: float) -> None:
    # The leak identity: sum of sent = sum of updates - (1 - decay) sum of earlier errors - last error.
    ctx = context()
    config = CO3Config(memory_decay=decay)
    sent = {name: np.zeros(model[name].shape) for name in LOSSY}
    updates = {name: np.zeros(model[name].shape) for name in LOSSY}
    leaked = {name: np.zeros(model[name].shape) for name in LOSSY}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        new = {name: t + rng.normal(size=t.shape).astype(t.dtype) for name, t in model.items() if name in LOSSY}
        new = {**model, **new}
        for name in LOSSY & (memory_of(ctx).keys() if ctx.state else set()):
            leaked[name] += (1 - decay) * memory_of(ctx)[name]
        decoded = Codec().decode(frame_of(CO3Mod()(train_message(model, config), ctx, reply_with(new))))
        for name in LOSSY:
            sent[name] += decoded[name]
            updates[name] += new[name] - model[name]
    for name in LOSSY:
        left = updates[name] - leaked[name] - memory_of(ctx)[name]
        np.testing.assert_allclose(sent[name], left, atol=1e-4)


def test_with_a_step_ahead_clients_train_from_what_is_still_to_be_sent(model: Tensors) -> None:
    config, ctx, mod = CO3Config(format="e2m1", memory_decay=0.5, step_ahead=0.4), context(), CO3Mod()
    mod(train_message(model, config), ctx, train)
    remembered = memory_of(ctx)
    started: Tensors = {}
    sent = Codec().decode(frame_of(mod(train_message(model, config), ctx, train_and_note(started))))
    for name, tensor in model.items():
        if name not in LOSSY:
            np.testing.assert_array_equal(started[name], tensor)
            continue
        np.testing.assert_allclose(started[name], tensor + 0.2 * remembered[name], atol=1e-6)
        # What training changed from there and all of the memory, no more for the step ahead: nothing counts twice.
        learned = small_step(name, started[name]) - started[name]
        total = learned + 0.5 * remembered[name]
        np.testing.assert_allclose(sent[name] + memory_of(ctx)[name], total, atol=1e-6)


def test_a_step_ahead_counts_in_an_update_that_was_lost(model: Tensors) -> None:
    config, ctx = CO3Config(format="e2m1", step_ahead=1.0), context()
    lost = Codec().decode(frame_of(CO3Mod()(with_turn(train_message(model, config), 1), ctx, train)))
    kept = memory_of(ctx)
    started: Tensors = {}
    CO3Mod()(with_turn(train_message(model, config), 2), ctx, train_and_note(started))
    for name in LOSSY:
        np.testing.assert_allclose(started[name], model[name] + lost[name] + kept[name], atol=1e-6)


def test_without_memory_nothing_is_stored_and_what_was_there_goes(model: Tensors) -> None:
    ctx = context()
    ctx.state["mine"] = ConfigRecord({"epochs": 3})
    CO3Mod()(train_message(model), ctx, train)
    assert len(ctx.state) == 3
    CO3Mod()(train_message(model, CO3Config(memory_decay=0)), ctx, train)
    assert dict(ctx.state) == {"mine": ConfigRecord({"epochs": 3})}


def test_a_new_run_starts_clean(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    ctx = context()
    CO3Mod()(train_message(model, run="first"), ctx, train)
    first = frame_of(CO3Mod()(train_message(model, run="second"), ctx, train))
    assert first == frame_of(CO3Mod()(train_message(model, run="second"), context(), train))
    assert ctx.state.config_records["co3-run"] == {"token": "second"}
    assert not caplog.records


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_memory_of_every_type_survives_the_way_through_the_state(model: Tensors, dtype: str) -> None:
    ctx = context()
    config = CO3Config(memory_dtype=dtype)
    first = frame_of(CO3Mod()(train_message(model, config), ctx, train))
    ctx.state = copy.deepcopy(ctx.state)
    second = frame_of(CO3Mod()(train_message(model, config), ctx, train))
    assert first != second
    stored = "uint16" if dtype == "bfloat16" else dtype
    assert {error.dtype.name for error in memory_of(ctx).values()} == {stored}


def junk(array: Array) -> Array:
    return Array(array.dtype, array.shape, array.stype, array.data[:50])


def with_nan(array: Array) -> Array:
    values = array.numpy()
    values.flat[0] = np.nan
    return Array(values)


def as_integers(array: Array) -> Array:
    return Array(array.numpy().astype(np.int32))


@pytest.mark.parametrize("damage", [junk, with_nan, as_integers], ids=lambda damage: damage.__name__)
def test_damaged_memory_is_dropped_with_a_warning(
    model: Tensors, damage: Callable[[Array], Array], caplog: pytest.LogCaptureFixture
) -> None:
    ctx = context()
    clean = frame_of(CO3Mod()(train_message(model), ctx, train))
    memory = ctx.state.array_records["co3-memory"]
    memory["fc.weight"] = damage(memory["fc.weight"])
    assert frame_of(CO3Mod()(train_message(model), ctx, train)) == clean
    assert np.isfinite(memory_of(ctx)["fc.weight"]).all()
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "error memory" in warning.getMessage() and "starts empty" in warning.getMessage()


def test_something_else_in_place_of_the_memory_is_dropped_with_a_warning(
    model: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    ctx = context()
    ctx.state["co3-memory"] = ConfigRecord({"oops": 1})
    ctx.state["co3-run"] = ConfigRecord({"token": "a run"})
    assert frame_of(CO3Mod()(train_message(model), ctx, train))
    assert set(memory_of(ctx)) == LOSSY
    assert "starts empty" in caplog.text


def test_a_changed_shape_drops_that_tensors_memory_alone(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    ctx = context()
    CO3Mod()(train_message(model), ctx, train)
    kept = memory_of(ctx)["conv.weight"]
    grown = {**model, "fc.weight": np.ones((11, 40), np.float32)}
    reply = CO3Mod()(train_message(grown), ctx, reply_with(grown))
    decoded = Codec().decode(frame_of(reply))
    assert not decoded["fc.weight"].any()
    np.testing.assert_allclose(decoded["conv.weight"] + memory_of(ctx)["conv.weight"], kept, atol=1e-7)
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "'fc.weight'" in warning.getMessage() and "(10, 40)" in warning.getMessage()


# What is refused


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["fc.weight", "bn.running_mean"])
def test_an_update_that_is_not_finite_is_refused_and_the_memory_stays(model: Tensors, name: str, value: float) -> None:
    ctx = context()
    CO3Mod()(train_message(model), ctx, train)
    before = copy.deepcopy(ctx.state)
    broken = {**model, name: np.where(np.arange(model[name].shape[-1]) == 1, value, model[name]).astype("f4")}
    assert f"'{name}'" in reason_of(CO3Mod()(train_message(model), ctx, reply_with(broken)))
    assert ctx.state == before


@pytest.mark.parametrize("count", [0, 2])
def test_one_array_record_is_needed_both_ways(model: Tensors, count: int) -> None:
    content = train_message(model).content
    records = RecordDict({f"arrays-{index}": record(model) for index in range(count)})
    received = message(RecordDict({**records, "config": content["config"]}))
    assert f"The train message holds {count} ArrayRecords" in reason_of(CO3Mod()(received, context(), raising))

    reply = CO3Mod()(train_message(model), context(), lambda m, _: Message(records, reply_to=m))
    assert f"The reply holds {count} ArrayRecords" in reason_of(reply)


def test_keys_must_be_the_same(model: Tensors) -> None:
    new = {("fc.w" if name == "fc.weight" else name): tensor for name, tensor in model.items()}
    reason = reason_of(CO3Mod()(train_message(model), context(), reply_with(new)))
    assert "Missing: 'fc.weight'. Not received: 'fc.w'." in reason


def test_shapes_must_be_the_same(model: Tensors) -> None:
    new = {**model, "fc.weight": model["fc.weight"].T}
    reason = reason_of(CO3Mod()(train_message(model), context(), reply_with(new)))
    assert "'fc.weight'" in reason and "(10, 40)" in reason and "(40, 10)" in reason


def test_whole_numbers_cannot_become_fractions(model: Tensors) -> None:
    new = {**model, "bn.num_batches_tracked": np.array(7.5)}
    reason = reason_of(CO3Mod()(train_message(model), context(), reply_with(new)))
    assert "'bn.num_batches_tracked'" in reason and "float64" in reason


def test_a_metric_named_as_co3s_own_is_refused(model: Tensors) -> None:
    ctx = context()
    reason = reason_of(CO3Mod()(train_message(model), ctx, reply_with(model, {"co3": 1.0})))
    assert "metrics have a key 'co3'" in reason
    assert not ctx.state


def test_an_error_of_the_app_passes_through(model: Tensors) -> None:
    ctx = context()
    received = train_message(model)
    answer = Message(Error(17, "no data today"), reply_to=received)
    assert CO3Mod()(received, ctx, lambda *_: answer) is answer
    assert not ctx.state


def test_an_exception_of_the_app_passes_through(model: Tensors) -> None:
    ctx = context()
    with pytest.raises(RuntimeError, match="out of memory in layer 3"):
        CO3Mod()(train_message(model), ctx, raising)
    assert not ctx.state


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"co3": '{"warp":9}', "co3-run": "x"}, "warp"),
        ({"co3": "no json", "co3-run": "x"}, "no json"),
        ({"co3": 4, "co3-run": "x"}, "'co3'"),
        ({"co3": "{}"}, "'co3-run'"),
    ],
)
def test_settings_of_another_version_are_refused(model: Tensors, config: dict[str, Any], words: str) -> None:
    received = message(RecordDict({"arrays": record(model), "config": ConfigRecord(config)}))
    reason = reason_of(CO3Mod()(received, context(), raising))
    assert words in reason and "same flwr-co3" in reason


def with_masks(content: RecordDict) -> RecordDict:
    return RecordDict({**content, "secaggplus_configs": ConfigRecord({"stage": "setup"})})


def test_secure_aggregation_is_refused_wherever_it_shows(model: Tensors) -> None:
    plain = train_message(model)
    in_message = CO3Mod()(message(with_masks(plain.content)), context(), raising)

    ctx = context()
    ctx.state["secaggplus_state"] = ConfigRecord({"current_stage": "setup"})
    in_state = CO3Mod()(plain, ctx, raising)

    def masking(received: Message, context: Context) -> Message:
        return Message(with_masks(train(received, context).content), reply_to=received)

    in_reply = CO3Mod()(plain, context(), masking)
    for refused in (in_message, in_state, in_reply):
        assert "Secure aggregation is on" in reason_of(refused)


def test_an_error_of_our_own_becomes_a_refusal(model: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Codec, "compress", broken)
    ctx = context()
    assert "ZeroDivisionError" in reason_of(CO3Mod()(train_message(model), ctx, train))
    assert not ctx.state


# With Flower's own mods


def run_app(mods: list[Any], received: Message, ctx: Context) -> Message:
    app = ClientApp(mods=mods)
    app.train()(train)
    return app(received, ctx)


def test_size_mods_outside_and_clipping_inside(model: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    received = train_message(model, EVERYTHING_EXACT)
    received.content.config_records["config"]["clipping_norm"] = 0.01
    floats = {name: tensor for name, tensor in model.items() if tensor.dtype.kind == "f"}
    received.content["arrays"] = record(floats)
    with caplog.at_level(logging.INFO, "flwr"):
        reply = run_app([message_size_mod, arrays_size_mod, CO3Mod(), fixedclipping_mod], received, context())
    new = Codec().decode(frame_of(reply))
    norm = np.sqrt(sum(np.sum((new[name] - floats[name]) ** 2) for name in floats))
    assert norm == pytest.approx(0.01, rel=1e-3)
    size = sum(part.count_bytes() for part in reply.content.values())
    assert f"Outgoing message size: {size} bytes" in caplog.text


def test_local_differential_privacy_inside(model: Tensors) -> None:
    floats = {name: tensor for name, tensor in model.items() if tensor.dtype.kind == "f"}
    mod = LocalDpMod(clipping_norm=0.01, sensitivity=1.0, epsilon=10.0, delta=0.1)
    reply = run_app([CO3Mod(), mod], train_message(floats, EVERYTHING_EXACT), context())
    new = Codec().decode(frame_of(reply))
    noise = np.concatenate([(new[name] - floats[name]).ravel() for name in floats])
    assert noise.std() == pytest.approx(np.sqrt(2 * np.log(12.5)) / 10, rel=0.1)


# CO3ClientMixin


ORDER: dict[str, Any] = {"co3": CO3Config().to_json(), "co3-run": "a run", "lr": 0.1}
FitResult = tuple[list[NDArray[Any]], int, dict[str, Any]]


class Client(CO3ClientMixin, NumPyClient):
    def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
        """Train."""
        return [small_step("a name", array) for array in parameters], 10, {"loss": 1.0}


@pytest.fixture
def parameters(model: Tensors) -> list[NDArray[Any]]:
    return list(model.values())


def frame_of_fit(result: FitResult) -> bytes:
    ((frame,), examples, metrics) = result
    assert frame.dtype == np.uint8 and frame.ndim == 1
    assert examples == 10
    assert {"co3-nmse", "co3-encode-seconds", "co3-memory-norm"} <= metrics.keys()
    return frame.tobytes()


def test_fit_returns_a_frame(parameters: list[NDArray[Any]]) -> None:
    ctx = context()
    result = Client(context=ctx).fit(parameters, ORDER)
    decoded = Codec().decode(frame_of_fit(result))
    assert set(decoded) == {"0", "1", "2", "3", "4"}
    np.testing.assert_array_equal(decoded["2"], small_step("a name", parameters[2]))
    np.testing.assert_array_equal(decoded["4"], 8)
    update = small_step("a name", parameters[1]) - parameters[1]
    np.testing.assert_allclose(decoded["1"] + memory_of(ctx)["1"], update, atol=1e-7)
    assert result[2]["loss"] == 1.0
    assert all(isinstance(value, float) for value in result[2].values())


@pytest.mark.parametrize("step_ahead", [0.0, 0.5])
def test_mixin_and_mod_send_the_same(parameters: list[NDArray[Any]], step_ahead: float) -> None:
    config = CO3Config(step_ahead=step_ahead)
    numbered = {str(index): array for index, array in enumerate(parameters)}
    app = reply_with_change(lambda _, array: small_step("a name", array))
    ours, theirs = context(), context()
    for _ in range(3):
        frame = frame_of(CO3Mod()(train_message(numbered, config), theirs, app))
        assert frame_of_fit(Client(context=ours).fit(parameters, {**ORDER, "co3": config.to_json()})) == frame
    assert ours.state == theirs.state


def test_fit_through_flowers_client(parameters: list[NDArray[Any]]) -> None:
    client = Client(context=context()).to_client()
    result = client.fit(FitIns(ndarrays_to_parameters(parameters), dict(ORDER)))
    assert result.status.code == Code.OK
    (frame,) = parameters_to_ndarrays(result.parameters)
    assert set(Codec().decode(frame.tobytes())) == {"0", "1", "2", "3", "4"}


def test_without_an_order_fit_is_what_it_was(parameters: list[NDArray[Any]]) -> None:
    new, examples, metrics = Client().fit(parameters, {"lr": 0.1})
    assert len(new) == len(parameters)
    assert (examples, metrics) == (10, {"loss": 1.0})


def test_the_clients_own_fit_keeps_its_name_and_docstring() -> None:
    assert Client.fit.__name__ == "fit"
    assert Client.fit.__doc__ == "Train."


def test_the_context_can_be_an_attribute(parameters: list[NDArray[Any]]) -> None:
    class WithInit(Client):
        def __init__(self, ctx: Context) -> None:
            self.context = ctx

    ctx = context()
    WithInit(ctx).fit(parameters, ORDER)
    assert set(memory_of(ctx)) == {"0", "1"} | ({"3"} & set(memory_of(ctx)))


def test_init_is_cooperative() -> None:
    class Base(NumPyClient):
        def __init__(self, net: str) -> None:
            self.net = net

    class Both(CO3ClientMixin, Base):
        pass

    ctx = context()
    both = Both("a net", context=ctx)
    assert both.net == "a net"
    assert both.context is ctx


def test_fit_of_a_base_that_knows_nothing_of_co3(parameters: list[NDArray[Any]]) -> None:
    class Base(NumPyClient):
        def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
            return parameters, 10, {}

    class Derived(CO3ClientMixin, Base):
        pass

    assert frame_of_fit(Derived(context=context()).fit(parameters, ORDER))
    assert len(Base().fit(parameters, ORDER)[0]) == 5


def test_super_fit_gives_weights_and_the_result_is_compressed_once(parameters: list[NDArray[Any]]) -> None:
    seen = []

    class Derived(Client):
        def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
            new, examples, metrics = super().fit(parameters, config)
            seen.append([array.shape for array in new])
            return new, examples, metrics

    class Again(Derived):
        pass

    ctx = context()
    frame = frame_of_fit(Again(context=ctx).fit(parameters, ORDER))
    assert seen == [[array.shape for array in parameters]]
    assert frame == frame_of_fit(Client(context=context()).fit(parameters, ORDER))


def test_a_client_that_cannot_train_stays_one() -> None:
    class Evaluator(CO3ClientMixin, NumPyClient):
        pass

    assert Evaluator.fit is NumPyClient.fit


def test_training_in_place(parameters: list[NDArray[Any]]) -> None:
    class InPlace(CO3ClientMixin, NumPyClient):
        def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
            for array in parameters:
                array[...] = small_step("a name", array)
            return parameters, 10, {}

    expected = frame_of_fit(Client(context=context()).fit(parameters, ORDER))
    assert frame_of_fit(InPlace(context=context()).fit(copy.deepcopy(parameters), ORDER)) == expected


def test_a_missing_context_is_explained(parameters: list[NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match=r"return Client\(\.\.\., context=context\)\.to_client\(\)"):
        Client().fit(parameters, ORDER)


def test_without_memory_no_context_is_needed(parameters: list[NDArray[Any]]) -> None:
    order = {**ORDER, "co3": CO3Config(memory_decay=0).to_json()}
    assert frame_of_fit(Client().fit(parameters, order))


def test_a_fit_that_fails_leaves_the_client_usable(parameters: list[NDArray[Any]]) -> None:
    class Flaky(Client):
        fail = True

        def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
            if self.fail:
                raise RuntimeError("no data")
            return super().fit(parameters, config)

    ctx = context()
    client = Flaky(context=ctx)
    with pytest.raises(RuntimeError, match="no data"):
        client.fit(parameters, ORDER)
    assert not ctx.state
    client.fail = False
    assert frame_of_fit(client.fit(parameters, ORDER))


def test_a_result_of_another_form_is_left_to_flower(parameters: list[NDArray[Any]]) -> None:
    class Wrong(CO3ClientMixin, NumPyClient):
        def fit(self, parameters: Any, config: Any) -> Any:
            return parameters

    with pytest.raises(TypeError, match="did not return a tuple with 3 elements"):
        Wrong(context=context()).to_client().fit(FitIns(ndarrays_to_parameters(parameters), dict(ORDER)))


def test_the_number_of_arrays_must_be_the_same(parameters: list[NDArray[Any]]) -> None:
    class Shorter(CO3ClientMixin, NumPyClient):
        def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
            return parameters[1:], 10, {}

    with pytest.raises(ValueError, match="received 5 arrays and returned 4"):
        Shorter(context=context()).fit(parameters, ORDER)


def test_the_mixin_refuses_secure_aggregation(parameters: list[NDArray[Any]]) -> None:
    ctx = context()
    ctx.state["secaggplus_state"] = ConfigRecord({"current_stage": "setup"})
    with pytest.raises(ValueError, match="Secure aggregation is on"):
        Client(context=ctx).fit(parameters, ORDER)
