"""What a Flower server adds to its app: a strategy that wraps the one it has."""

import dataclasses
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from logging import getLogger
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Result,
    Strategy,
)

from flwr_co3._acknowledgements import Ledger
from flwr_co3._average import averages
from flwr_co3._directions import Directions
from flwr_co3._downlink import downlink_of
from flwr_co3._inbox import Inbox, Sent
from flwr_co3._protocol import CONFIG_KEY, Order
from flwr_co3._replies import SentModel, loaders, plain_record
from flwr_co3._round import Tally, message_bytes, payload_bytes
from flwr_co3._versions import Tensors
from flwr_co3.config import CO3Config
from flwr_co3.schemes.scheme import INCREMENT

logger = getLogger("flwr.co3")

_READING_REPLIES = (DifferentialPrivacyServerSideFixedClipping, DifferentialPrivacyServerSideAdaptiveClipping)
_KEYS_DIFFER = "expects the keys in the ArrayRecord of the reply message to match"  # say Flower's mods

# What CO3Strategy adds to
STEPS = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate", "summary")


class CO3Strategy(Strategy):
    """Strategy wrapper that lets clients compress their updates.

    Each train message carries the settings to the client, where :class:`~flwr_co3.CO3Mod` follows them. From the
    compressed replies the wrapper makes what the wrapped strategy expects, the clients' new weights, tensor by
    tensor as the strategy asks for them. Clients without the mod are accepted as they are.

    A reply that cannot be used is set aside: the wrapped strategy sees a failed client, the log names the node
    and the reason, and the round goes on. Each train message names the node's update that was aggregated last, so
    that a client sends again what got lost.

    Parameters
    ----------
    strategy : Strategy
        The strategy to wrap; any that trains with one ArrayRecord and averages, selects or mixes new weights.
    config : CO3Config (default: CO3Config())
        How clients compress.
    downlink : CO3Config or None (default: None)
        How the server compresses what it sends to clients that have CO3Mod. With None it sends whole models.
    resume : str or None (default: None)
        The `progress` of an earlier strategy, saved together with the model that this one starts from: its run goes
        on, and clients keep their memories. With None a new run begins, and they start with empty ones.
    whole : CO3Config or None (default: None)
        How it compresses the whole model for nodes that hold none yet, where there is a downlink: for example
        ``CO3Config(format="fp8")``. A node without CO3Mod answers that with an error, and is sent the model as it is
        from then on. With None the first message to each node has the model as it is, and later ones, to nodes that
        lost it, without loss in some 20 % fewer bytes.

    Notes
    -----
    CO3Strategy is the outermost wrapper: ``CO3Strategy(DifferentialPrivacyServerSideFixedClipping(FedAvg(), ...))``.
    A wrapped strategy that brings a ``start()`` of its own keeps it: while it runs, the steps that CO3 adds to
    (``configure_train``, ``aggregate_train`` and so on) are CO3's, provided that it calls them on ``self``.
    All other attributes of the wrapped strategy can be read from the wrapper.

    Metrics added to each round's aggregated MetricRecord:

    ============================== =======================================================================
    co3-uplink-payload-bytes       bytes of the frames, and of the arrays of clients that did not compress
    co3-uplink-message-bytes       bytes of all records in the replies, as Flower counts them
    co3-downlink-payload-bytes     bytes of the arrays in the train messages, and of directions
    co3-downlink-message-bytes     bytes of all records in the train messages
    co3-bits-per-parameter         uplink payload of the accepted replies, in bits per model parameter
    co3-compression-ratio          4 bytes per parameter over that payload
    co3-nmse                       mean of ||v - sent||^2 / ||v||^2, v the update with its memory
    co3-encode-seconds             mean time that a client took to compress
    co3-decode-seconds             mean time that the server took to check and decode a compressed reply
    co3-memory-norm                mean Euclidean norm of the clients' error memories
    co3-replies                    replies with content that came in
    co3-quarantined                how many of them were set aside
    co3-uncompressed               how many of them were accepted without having been compressed
    co3-empty                      how many of them brought nothing, because their budget held nothing
    ============================== =======================================================================

    Examples
    --------
    The whole change on the server::

        from flwr.serverapp.strategy import FedAvg
        from flwr_co3 import CO3Config, CO3Strategy, RateLimit

        strategy = CO3Strategy(FedAvg(fraction_train=0.5), CO3Config(rate=RateLimit(bits_per_parameter=0.5)))
        result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=10)
        result.train_metrics_clientapp[10]["co3-uplink-payload-bytes"]
    """

    def __init__(
        self,
        strategy: Strategy,
        config: CO3Config | None = None,
        downlink: CO3Config | None = None,
        resume: str | None = None,
        whole: CO3Config | None = None,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise ValueError(
                f"CO3Strategy wraps a strategy of flwr.serverapp.strategy, not {type(strategy).__name__}. "
                "For strategies of flwr.server.strategy there is flwr_co3.legacy.CO3LegacyStrategy."
            )
        if any(isinstance(inner, CO3Strategy) for inner in _layers(strategy)):
            raise ValueError("The strategy is a CO3Strategy already. Wrap it once, outermost.")
        self.strategy = strategy
        order = Order.draw(config)
        self._ledger = Ledger(order.run) if resume is None else Ledger.read(resume)
        self._order = order._replace(run=self._ledger.run)
        self.config = order.config
        scheme = self.config.other_scheme
        self._side = None if scheme is None else scheme.server()
        if self._side is not None and resume is not None:
            raise ValueError(
                f"The scheme {self._side.scheme.name} keeps state on the server that `progress` does not hold: begin a "
                "new run, without `resume`."
            )
        self._directions = Directions(self.config.subspace) if self.config.subspace else None
        self.downlink = downlink
        self._downlink = downlink_of(downlink, whole, self._ledger)
        self._sent: dict[int, list[Sent]] = {}
        self._tally = Tally()
        self._evaluation: Tally | None = None  # of a round of evaluation that went by the downlink

    def __getattr__(self, name: str) -> Any:
        if name == "strategy":  # not there yet: this object is being copied
            raise AttributeError(name)
        return getattr(self.strategy, name)

    @property
    def progress(self) -> str:
        """What was aggregated so far, to be saved together with the model and handed to ``resume=`` after a restart."""
        return self._ledger.write()

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Run the strategy; takes what ``flwr.serverapp.strategy.Strategy.start`` takes."""
        if type(self.strategy).start is Strategy.start:
            return super().start(*args, **kwargs)
        with self._steps_taken_over():
            return self.strategy.start(*args, **kwargs)

    def summary(self) -> None:
        """Log the settings, then the wrapped strategy's."""
        config = self.config
        logger.info("\t├──> CO3 settings:")
        if config.other_scheme is None:
            logger.info("\t│\t├── Format: %s | coder: %s", config.format, config.coder)
        else:
            logger.info("\t│\t├── Scheme: %s", config.other_scheme)
        logger.info("\t│\t├── Rate: %s", config.rate or "not limited")
        if config.other_scheme is None:
            logger.info("\t│\t├── Scale: %s | rounding: %s", config.scale, config.rounding)
        logger.info("\t│\t├── Memory decay: %s (%s)", config.memory_decay, config.memory_dtype)
        logger.info("\t│\t└── Downlink: %s", "whole models" if self.downlink is None else self.downlink)
        self._inner("summary")()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of training, and add the settings to each message."""
        _refuse(sys._getframe(1).f_locals.get("self"))
        messages = list(self._inner("configure_train")(server_round, arrays, config, grid))
        self._sent, self._tally = defaultdict(list), Tally()
        models: dict[int, SentModel] = {}  # by record: most strategies send one and the same to all nodes
        times = Counter(message.metadata.dst_node_id for message in messages)
        whole = [list(message.content.array_records.values()) for message in messages]
        common = _common(messages)
        followed = self._follow(common)
        start = self._bring_model(messages, common, server_round)
        told = self._told(times)
        for message, records in zip(messages, whole, strict=True):
            node = message.metadata.dst_node_id
            model = None
            if len(records) == 1:
                identity = id(records[0])
                if identity not in models:
                    models[identity] = followed or SentModel(loaders(records[0]), self.config)
                model = models[identity]
            order = self._order._replace(config=self._ledger.course.config(told, server_round, node))
            order = order._replace(directions=self._directions_for(followed, order.config))
            if times[node] == 1:  # of several updates at once, a node could not tell which is the last
                order = self._ledger.address(order, str(node))
            message.content = _with_order(message.content, order)
            self._tally.downlink_payload += payload_bytes(message.content.array_records.values())
            self._tally.downlink_payload += len(order.directions or b"")
            self._tally.downlink_message += message_bytes(message.content)
            self._sent[node].append(Sent(message, model, order.turn, order.config.limit, order.directions, start))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Make weights of what clients sent, and let the wrapped strategy aggregate them."""
        replies = self._heard(replies)
        inbox = Inbox(self._sent, _weight_key(self.strategy), self._tally, averages(self.strategy), self._side)
        arrays, metrics = self._inner("aggregate_train")(server_round, inbox.open(replies))
        if arrays is not None:
            self._ledger.record(inbox.updates)
            self._ledger.course.record(server_round, metrics)
            if self._side is not None:
                self._side.commit(metrics or {})
            arrays = plain_record(arrays)  # some strategies take over one client's arrays as they are
        inbox.close()
        if self._sent:
            metrics = MetricRecord({**(metrics or {}), **self._tally.metrics()})
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of evaluation, and compress the model where the downlink is."""
        messages = list(self._inner("configure_evaluate")(server_round, arrays, config, grid))
        self._evaluation = None
        if self._bring_model(messages, _common(messages), server_round) is not None:
            self._evaluation = Tally()
            for message in messages:
                self._evaluation.downlink_payload += payload_bytes(message.content.array_records.values())
                self._evaluation.downlink_message += message_bytes(message.content)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate evaluation metrics."""
        metrics: MetricRecord | None = self._inner("aggregate_evaluate")(server_round, self._heard(replies))
        if self._evaluation is None:
            return metrics
        return MetricRecord({**(metrics or {}), **self._evaluation.downlink_metrics()})

    def _told(self, times: Mapping[int, int]) -> CO3Config:
        """What this round's clients are told, so many times each."""
        if self._side is None:
            return self.config
        if self._side.scheme.memory == INCREMENT and max(times.values(), default=0) > 1:
            raise ValueError(
                f"The scheme {self._side.scheme.name} takes one update from a node in a round, and the strategy asks "
                "for several."
            )
        return dataclasses.replace(self.config, scheme=self._side.scheme)

    def _follow(self, record: ArrayRecord | None) -> SentModel | None:
        """Learn from the model that all nodes are sent in which directions it moves, and return it."""
        if self._directions is None or record is None:
            return None
        model = SentModel(loaders(record), self.config)
        self._directions.advance(model)
        return model

    def _directions_for(self, model: SentModel | None, config: CO3Config) -> bytes | None:
        """What a node is told of them; None where there are none, or no limit that they are for."""
        if self._directions is None or model is None or config.limit is None:
            return None
        return self._directions.told(config.limit.bytes_for(model.parameters))

    def _bring_model(self, messages: list[Message], record: ArrayRecord | None, server_round: int) -> Tensors | None:
        """Let messages bring the model by the downlink, and return the model that they bring.

        It does nothing, and returns None, where there is no downlink, or where nodes are not all sent the one record.
        """
        if self._downlink is None or record is None:
            return None
        self._downlink.advance(record, record, server_round)
        for message in messages:
            self._downlink.bring(message)
        return self._downlink.tensors

    def _heard(self, replies: Iterable[Message]) -> list[Message]:
        """Learn from replies what their nodes hold."""
        replies = list(replies)
        if self._downlink is not None:
            self._downlink.hear(replies)
        for misplaced in sorted({mod for reply in replies if (mod := _misplaced_mod(reply))}):
            logger.warning(
                "The clients' %s found a compressed frame where it looks for weights, and refused to go on. It "
                "belongs after CO3Mod: in ClientApp, write mods=[CO3Mod(), %s].",
                misplaced,
                misplaced,
            )
        return replies

    def _inner(self, step: str) -> Callable[..., Any]:
        """Return the wrapped strategy's own step, also while this wrapper has taken its place."""
        return partial(getattr(type(self.strategy), step), self.strategy)

    @contextmanager
    def _steps_taken_over(self) -> Iterator[None]:
        """Let the wrapped strategy's own loop call this wrapper's steps."""
        own = vars(self.strategy)
        before = {step: own[step] for step in STEPS if step in own}
        own.update({step: getattr(self, step) for step in STEPS})
        try:
            yield
        finally:
            for step in STEPS:
                del own[step]
            own.update(before)


def _common(messages: Iterable[Message]) -> ArrayRecord | None:
    """Return the one ArrayRecord that is all that each message brings, if it is one and the same; else None."""
    records = [list(message.content.array_records.values()) for message in messages]
    first = records[0][0] if records and records[0] else None
    return first if all(len(mine) == 1 and mine[0] is first for mine in records) else None


def _refuse(caller: object) -> None:
    """Raise ValueError if the steps are called by a wrapper that would take frames for weights.

    A wrapper's constructor does not tell what it wraps, and it fails only once the first replies are there.
    """
    if isinstance(caller, _READING_REPLIES):
        name = type(caller).__name__
        raise ValueError(
            f"{name} reads the clients' weights, and stands where they are still compressed. CO3Strategy is the "
            f"outermost wrapper: Write CO3Strategy({name}(...), config)."
        )


def _misplaced_mod(reply: Message) -> str | None:
    """Return the name of Flower's mod that failed because it stands before CO3Mod."""
    reason = (reply.error.reason or "") if reply.has_error() else ""
    return reason.split()[0] if _KEYS_DIFFER in reason else None


def _layers(strategy: object) -> Iterator[Strategy]:
    """Yield a strategy, and what it wraps, and what that wraps."""
    while isinstance(strategy, Strategy):
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def _weight_key(strategy: Strategy) -> str | None:
    keys = (getattr(layer, "weighted_by_key", None) for layer in _layers(strategy))
    return next((key for key in keys if isinstance(key, str)), None)


def _with_order(content: RecordDict, order: Order) -> RecordDict:
    """Return content that carries the settings in its first ConfigRecord, leaving the strategy's own as it is."""
    ordered = content.copy()
    key, config = next(iter(content.config_records.items()), (CONFIG_KEY, ConfigRecord()))
    ordered[key] = ConfigRecord({**config, **order.write()})
    return ordered
