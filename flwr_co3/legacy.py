"""CO3Strategy for apps on Flower's older API: NumPyClients, and the strategies of flwr.server.strategy."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from logging import getLogger
from math import isfinite
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    bytes_to_ndarray,
    ndarray_to_bytes,
)
from flwr.server import ClientManager
from flwr.server.strategy import Strategy

from flwr_co3._acknowledgements import Ledger, update_id
from flwr_co3._downlink import downlink_of, shifted
from flwr_co3._protocol import FRAME_STYPE, HELD_KEY, SCALAR_STATS_KEYS, ClientStats, Order
from flwr_co3._replies import NUMPY_STYPE, Loaders, SentModel
from flwr_co3._round import Tally, count_bytes
from flwr_co3._versions import Tensors
from flwr_co3.config import CO3Config
from flwr_co3.rate import RateLimit

logger = getLogger("flwr.co3")

Ins = TypeVar("Ins", FitIns, EvaluateIns)
ClientProxy: TypeAlias = Any  # flwr.server.client_proxy.ClientProxy, which is not among Flower's public names


class Sent(NamedTuple):
    """What one client was sent in the round."""

    model: SentModel
    turn: int | None  # the instructions' number; None if the client was sent several
    rate: RateLimit | None  # the limit that they name
    start: Tensors | None  # the model that the client was brought to, where that is not `model`


class CO3LegacyStrategy(Strategy):
    """Strategy wrapper that lets NumPyClients compress their updates.

    It is to the strategies of ``flwr.server.strategy`` what :class:`~flwr_co3.CO3Strategy` is to those of
    ``flwr.serverapp.strategy``, and adds the same metrics to each round's. Its clients have
    :class:`~flwr_co3.CO3ClientMixin`, or :class:`~flwr_co3.CO3Mod` among their app's mods, or neither: those
    that do not compress are accepted as they are. A result that cannot be used becomes a failure; the log names
    the client and the reason.

    Parameters
    ----------
    strategy : flwr.server.strategy.Strategy
        The strategy to wrap. CO3LegacyStrategy is the outermost wrapper.
    config : CO3Config (default: CO3Config())
        How clients compress.
    resume : str or None (default: None)
        The `progress` of an earlier strategy, saved together with the model that this one starts from.
    downlink, whole : CO3Config or None (default: None)
        How the server compresses what it sends, as for :class:`~flwr_co3.CO3Strategy`. It is for clients with
        CO3ClientMixin and a context; all others are sent whole models. A client that does not answer is sent the whole
        model the next time, since Flower's older API does not tell why.

    Examples
    --------
    ::

        from flwr.server import ServerAppComponents, ServerConfig
        from flwr.server.strategy import FedAvg
        from flwr.serverapp import ServerApp
        from flwr_co3 import CO3Config
        from flwr_co3.legacy import CO3LegacyStrategy

        def server_fn(context):
            strategy = CO3LegacyStrategy(FedAvg(initial_parameters=parameters), CO3Config(format="fp8"))
            return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=3))

        app = ServerApp(server_fn=server_fn)
    """

    def __init__(
        self,
        strategy: Strategy,
        config: CO3Config | None = None,
        resume: str | None = None,
        downlink: CO3Config | None = None,
        whole: CO3Config | None = None,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise ValueError(
                f"CO3LegacyStrategy wraps a strategy of flwr.server.strategy, not {type(strategy).__name__}. "
                "For strategies of flwr.serverapp.strategy there is flwr_co3.CO3Strategy."
            )
        if isinstance(strategy, CO3LegacyStrategy):
            raise ValueError("The strategy is a CO3LegacyStrategy already. Wrap it once, outermost.")
        self.strategy = strategy
        order = Order.draw(config)
        self._ledger = Ledger(order.run) if resume is None else Ledger.read(resume)
        self._order = order._replace(run=self._ledger.run)
        self.config = order.config
        scheme = self.config.other_scheme
        if scheme is not None and scheme.server() is not None:
            raise ValueError(
                f"The scheme {scheme.name} keeps state on the server, for which CO3LegacyStrategy has no place: take "
                "another scheme, or CO3Strategy."
            )
        if self.config.subspace:
            raise ValueError("CO3Config subspace needs CO3Strategy: CO3LegacyStrategy does not send directions.")
        self._downlink = downlink_of(downlink, whole, self._ledger, packs=False)
        self._sent: dict[str, Sent] = {}
        self._tally = Tally()
        self._evaluation: Tally | None = None  # of a round of evaluation that went by the downlink
        self._evaluated: set[str] = set()

    def __repr__(self) -> str:
        return f"CO3LegacyStrategy({self.strategy!r}, {self.config!r})"

    @property
    def progress(self) -> str:
        """What was aggregated so far, to be saved together with the model and handed to ``resume=`` after a restart."""
        return self._ledger.write()

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Configure the next round of training, and add the settings to each client's config."""
        instructions = self.strategy.configure_fit(server_round, parameters, client_manager)
        self._sent, self._tally = {}, Tally()
        models: dict[int, SentModel] = {}  # by parameters: most strategies send the same to all clients
        times = Counter(client.cid for client, _ in instructions)
        ordered = []
        start, brought = self._bring_model(instructions, server_round)
        for (client, ins), bringing in zip(instructions, brought, strict=True):
            identity = id(ins.parameters)
            if identity not in models:
                models[identity] = SentModel(_loaders(ins.parameters), self.config)
            order = self._order._replace(config=self._config_of(client, server_round))
            if times[client.cid] == 1:
                order = self._ledger.address(order, client.cid)
            self._sent[client.cid] = Sent(models[identity], order.turn, order.config.limit, start)
            config: dict[str, Scalar] = {**bringing.config, **order.write()}
            ordered.append((client, FitIns(bringing.parameters, config)))
            _count_down(self._tally, bringing.parameters, config)
        return ordered

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Make weights of what clients sent, and let the wrapped strategy aggregate them."""
        self._hear(results)
        accepted, failed = [], list(failures)
        updates: dict[str, bytes] = {}
        for client, result in results:
            try:
                accepted.append((client, self._open(client.cid, result, updates)))
            except Exception as error:  # whatever a client sent, the round goes on
                reason = f"CO3 set aside the result of client {client.cid}: {str(error) or repr(error)}"
                logger.warning(reason)
                failed.append(ValueError(reason))
                self._tally.quarantined += 1
                if self._downlink is not None:  # perhaps it took frames for a model
                    self._downlink.complains(client.cid, of_the_model=True)
        parameters, metrics = self.strategy.aggregate_fit(server_round, accepted, failed)
        if parameters is not None:
            self._ledger.record(updates)
            self._ledger.course.record(server_round, metrics)
        return parameters, {**metrics, **self._tally.metrics()}

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """Initialize the global model."""
        return self.strategy.initialize_parameters(client_manager)

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Configure the next round of evaluation, and compress the model where the downlink is."""
        instructions = self.strategy.configure_evaluate(server_round, parameters, client_manager)
        if self._downlink is None:
            return instructions
        start, brought = self._bring_model(instructions, server_round)
        self._evaluation = None if start is None else Tally()
        self._evaluated = {client.cid for client, _ in instructions}
        if self._evaluation is not None:
            for ins in brought:
                _count_down(self._evaluation, ins.parameters, ins.config)
        return [(client, ins) for (client, _), ins in zip(instructions, brought, strict=True)]

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Aggregate evaluation results."""
        aggregated = self.strategy.aggregate_evaluate(server_round, results, failures)
        if self._downlink is None or self._evaluation is None:
            return aggregated
        answered = {client.cid for client, _ in results}
        for client in self._evaluated - answered:
            self._downlink.complains(client, of_the_model=True)
        for client in answered:
            self._downlink.was_brought(client)
        loss, metrics = aggregated
        return loss, {**metrics, **self._evaluation.downlink_metrics()}

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]] | None:
        """Evaluate the global model on the server."""
        return self.strategy.evaluate(server_round, parameters)

    def _bring_model(
        self, instructions: list[tuple[ClientProxy, Ins]], server_round: int
    ) -> tuple[Tensors | None, list[Ins]]:
        """Return the model that instructions bring by the downlink, and the instructions; None where they are as given.

        That is where there is no downlink, or where clients are not all sent one and the same Parameters.
        """
        plain = [ins for _, ins in instructions]
        if self._downlink is None or not plain or any(ins.parameters is not plain[0].parameters for ins in plain):
            return None, plain
        source = plain[0].parameters
        self._downlink.advance(source, _record(source), server_round)
        brought = []
        for client, ins in instructions:
            arrays, entries = self._downlink.parcel(client.cid)
            brought.append(replace(ins, parameters=_parameters(arrays), config={**ins.config, **entries}))
        return self._downlink.tensors, brought

    def _hear(self, results: list[tuple[ClientProxy, FitRes]]) -> None:
        """Learn from results what clients hold."""
        if self._downlink is None:
            return
        for client in self._sent.keys() - {client.cid for client, _ in results}:
            self._downlink.complains(client, of_the_model=True)
        for client, result in results:
            number = result.metrics.get(HELD_KEY)
            if isinstance(number, int):
                self._downlink.holds(client.cid, number)

    def _open(self, client: str, result: FitRes, updates: dict[str, bytes]) -> FitRes:
        """Decode a client's result, all of it: Parameters are bytes, and cannot wait to be asked."""
        self._count(result)
        sent = self._sent.get(client)
        if sent is None:
            raise ValueError("The client was not asked to train in this round, or its result came already.")
        model = sent.model
        if not isfinite(result.num_examples) or result.num_examples < 0:
            raise ValueError(f"Its number of examples, the weight of the client, is {result.num_examples!r}.")
        metrics, stats = _without_stats(result.metrics)
        frame = _frame(result)
        parameters = result.parameters
        if frame is None:
            model.check(_loaders(parameters))
            if sent.start is not None:
                there = {name: partial(model.load, name) for name in model.specs}
                parameters = _parameters(shifted(_record(parameters), sent.start, there))
        else:
            parameters = self._decode(frame, sent)
        if sent.turn is not None:
            del self._sent[client]
            if frame is not None:
                updates[client] = update_id(sent.turn, frame)
        self._tally.accept(model.parameters, _payload(result.parameters), frame, stats)
        return FitRes(result.status, parameters, result.num_examples, metrics)

    def _count(self, result: FitRes) -> None:
        status: dict[str, Scalar] = {"code": result.status.code.value, "message": result.status.message}
        examples: dict[str, Scalar] = {"num_examples": result.num_examples}
        self._tally.replies += 1
        self._tally.uplink_payload += _payload(result.parameters)
        self._tally.uplink_message += _message_bytes(result.parameters, result.metrics, status, examples)

    def _config_of(self, client: ClientProxy, server_round: int) -> CO3Config:
        # A client's name is its node's id. Other proxies may have other names, and no use for a rate by node.
        node = int(client.cid) if callable(self.config.rate) else None
        return self._ledger.course.config(self.config, server_round, node)

    def _decode(self, frame: bytes, sent: Sent) -> Parameters:
        model, start = sent.model, time.perf_counter()
        reader = model.open(frame, sent.rate)
        tensors = [ndarray_to_bytes(model.restore(reader, name)) for name in model.specs]
        reader.close()
        self._tally.decode_seconds += time.perf_counter() - start
        return Parameters(tensors, NUMPY_STYPE)


def _frame(result: FitRes) -> bytes | None:
    """Return the frame of a compressed result: as CO3Mod sent it, or as CO3ClientMixin did."""
    by_mod = result.parameters.tensor_type == FRAME_STYPE
    if not by_mod and SCALAR_STATS_KEYS[0] not in result.metrics:
        return None
    tensors = result.parameters.tensors
    if len(tensors) != 1:
        raise ValueError(f"It is marked as compressed, and holds {len(tensors)} tensors instead of one frame.")
    return tensors[0] if by_mod else bytes_to_ndarray(tensors[0]).tobytes()


def _without_stats(metrics: dict[str, Scalar]) -> tuple[dict[str, Scalar], ClientStats | None]:
    stats = ClientStats.read([metrics.get(key) for key in SCALAR_STATS_KEYS])
    ours = (*SCALAR_STATS_KEYS, HELD_KEY)
    return {key: value for key, value in metrics.items() if key not in ours}, stats


def _loaders(parameters: Parameters) -> Loaders:
    return {str(index): partial(bytes_to_ndarray, tensor) for index, tensor in enumerate(parameters.tensors)}


def _record(parameters: Parameters) -> ArrayRecord:
    return ArrayRecord({name: Array(load()) for name, load in _loaders(parameters).items()})


def _parameters(record: ArrayRecord) -> Parameters:
    return Parameters([_as_numpy(array) for array in record.values()], NUMPY_STYPE)


def _as_numpy(array: Array) -> bytes:
    """Return what a NumPyClient can read: a tensor or, of a frame, an array of its bytes."""
    return array.data if array.stype == NUMPY_STYPE else ndarray_to_bytes(np.frombuffer(array.data, np.uint8))


def _count_down(tally: Tally, parameters: Parameters, config: Mapping[str, Scalar]) -> None:
    tally.downlink_payload += _payload(parameters)
    tally.downlink_message += _message_bytes(parameters, config)


def _payload(parameters: Parameters) -> int:
    return sum(map(len, parameters.tensors))


def _message_bytes(parameters: Parameters, *configs: Mapping[str, Scalar]) -> int:
    """Count what Flower makes of Parameters and configs: an ArrayRecord, its keys numbers, and ConfigRecords."""
    keys = sum(len(str(index)) for index in range(len(parameters.tensors)))
    return _payload(parameters) + keys + sum(count_bytes(ConfigRecord(dict(config))) for config in configs)
