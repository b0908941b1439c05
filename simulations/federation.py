"""One federated training run: a scheme, a seed, and an account of every round."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flwr_co3 import CO3Strategy
from simulations.clock import RoundTime, TimedGrid, timed
from simulations.metering import MeteredStrategy, Traffic, Watch
from simulations.models import make_model
from simulations.schemes import Scheme
from simulations.settings import Settings
from simulations.strategies import make_strategy
from simulations.tasks import evaluation_examples, image_shape
from simulations.training import Score, evaluate

_ROUND_TIMEOUT = 24 * 3600.0  # seconds; a client that is lost in a simulation answers with an error, not with silence


@dataclass(frozen=True)
class RoundResult:
    """What a round cost and what the model was worth after it. Round 0 is the untrained model.

    Attributes
    ----------
    accuracy, loss : float
        On the test split: share of right answers, mean cross-entropy in nats.
    uplink_bytes, downlink_bytes : int
        Whole messages of this round, all clients together.
    uplink_payload_bytes : int
        Of these, weights or frames.
    bits_per_parameter : float
        8 * payload / (replies * parameters).
    replies, failures : int
        Clients whose answer was used, and clients that failed.
    nmse, encode_seconds, decode_seconds, memory_norm : float or None
        CO3's own account (see :class:`flwr_co3.CO3Strategy`), None for other schemes.
    seconds : float
        Wall-clock time of the round.
    simulated_seconds : float or None
        What the round would have lasted on the clients' links and devices; None without links.
    lost : int
        Updates that were sent and not received, or not in time; their bytes count as sent.
    multiplications_saved : float or None
        Share that the clients saved of those for the weight gradients that they approximate; None if they don't.
    """

    round: int
    accuracy: float
    loss: float
    uplink_bytes: int = 0
    uplink_payload_bytes: int = 0
    downlink_bytes: int = 0
    bits_per_parameter: float = 0.0
    replies: int = 0
    failures: int = 0
    nmse: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    memory_norm: float | None = None
    seconds: float = 0.0
    multiplications_saved: float | None = None
    simulated_seconds: float | None = None
    lost: int = 0


OnRound = Callable[[RoundResult], None]


def federate(
    grid: Grid,
    settings: Settings,
    scheme: Scheme,
    *,
    on_round: OnRound | None = None,
    watch: Watch | None = None,
) -> list[RoundResult]:
    """Train for the settings' number of rounds, and return an account of each.

    Parameters
    ----------
    grid : Grid
        The clients.
    settings : Settings
        What to train and how.
    scheme : Scheme
        How the updates travel.
    on_round : Callable, optional
        Called after each round; what it raises ends the run.
    watch : Callable, optional
        Sees the replies of each round, see :class:`MeteredStrategy`.
    """
    if scheme.outer_products is not None:
        settings = dataclasses.replace(settings, outer_products=scheme.outer_products)
    shape, examples = image_shape(settings.dataset), evaluation_examples(settings.dataset, settings.subset)
    model = make_model(settings.model, shape, seed=settings.seed)
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    clock = timed(grid, settings)
    strategy = MeteredStrategy(_with_scheme(settings, scheme, clock), settings.seed, watch, lossy=clock is not None)
    results: list[RoundResult] = []
    started = time.perf_counter()

    def score(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        nonlocal started
        model.load_state_dict(arrays.to_torch_state_dict())
        worth = evaluate(model, examples)
        seconds, started = time.perf_counter() - started, time.perf_counter()
        result = _account(server_round, worth, strategy.traffic, parameters, seconds)
        results.append(result if clock is None else _on_time(result, clock.time))
        if on_round is not None:
            on_round(results[-1])
        return MetricRecord({"accuracy": worth.accuracy, "loss": worth.loss})

    strategy.start(
        grid=clock or grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=settings.rounds,
        timeout=_ROUND_TIMEOUT,
        train_config=settings.to_record(),
        evaluate_fn=score,
    )
    return results


def _with_scheme(settings: Settings, scheme: Scheme, clock: TimedGrid | None) -> Strategy:
    strategy = make_strategy(settings.strategy, settings.fraction_train)
    if scheme.config is None:
        return strategy
    config = scheme.config
    if scheme.uplink_seconds is not None:
        if clock is None:
            raise ValueError(f"The scheme {scheme.name!r} has a budget by the clients' links: give them links.")
        config = dataclasses.replace(config, rate=clock.rate(scheme.uplink_seconds))
    return CO3Strategy(strategy, config, scheme.downlink, whole=scheme.whole)


def _on_time(result: RoundResult, time: RoundTime) -> RoundResult:
    return dataclasses.replace(
        result,
        simulated_seconds=time.seconds,
        lost=time.lost,
        uplink_bytes=result.uplink_bytes + time.lost_bytes,
        uplink_payload_bytes=result.uplink_payload_bytes + time.lost_payload_bytes,
    )


def _account(server_round: int, worth: Score, traffic: Traffic, parameters: int, seconds: float) -> RoundResult:
    def metric(key: str) -> float | None:
        value = traffic.metrics.get(key)
        return float(value) if isinstance(value, int | float) else None

    def co3(key: str) -> float | None:
        return metric(f"co3-{key}")

    quarantined = int(co3("quarantined") or 0)
    return RoundResult(
        round=server_round,
        accuracy=worth.accuracy,
        loss=worth.loss,
        uplink_bytes=traffic.uplink_bytes,
        uplink_payload_bytes=traffic.uplink_payload_bytes,
        downlink_bytes=traffic.downlink_bytes,
        bits_per_parameter=8 * traffic.uplink_payload_bytes / (max(traffic.replies, 1) * parameters),
        replies=traffic.replies - quarantined,
        failures=traffic.failures + quarantined,
        nmse=co3("nmse"),
        encode_seconds=co3("encode-seconds"),
        decode_seconds=co3("decode-seconds"),
        memory_norm=co3("memory-norm"),
        seconds=seconds,
        multiplications_saved=metric("multiplications-saved"),
    )
