"""What a Flower client adds to its app: a mod, or a mixin for a NumPyClient."""

import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from logging import getLogger
from typing import Any, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from flwr_co3._held import received_model
from flwr_co3._keeping import Keeper, Store, keeper_of, model_keeper_of, store_of
from flwr_co3._protocol import (
    BASE_KEY,
    CONFIG_KEY,
    ERROR_CODE,
    FRAME_KEY,
    FRAME_STYPE,
    HELD_KEY,
    MODEL_KEY,
    STATS_KEY,
    Order,
)
from flwr_co3._uplink import Compressed, Tensors, compress, refuse_secure_aggregation, start_of
from flwr_co3.codec import Seed
from flwr_co3.rate import RateLimit

ClientAppCallable: TypeAlias = Callable[[Message, Context], Message]
Seeding: TypeAlias = Callable[[Message, Context], Seed]
FitResult: TypeAlias = tuple[list[NDArray[Any]], int, dict[str, Any]]

logger = getLogger("flwr.co3")


class CO3Mod:
    """Flower mod that compresses what a client sends back from training.

    It acts on train messages that come from a server with a :class:`~flwr_co3.CO3Strategy`, and follows the
    settings that they carry; all other messages pass untouched. What the compression loses is remembered and sent
    in later rounds, and so is an update that the server did not aggregate.

    Parameters
    ----------
    rate : RateLimit or None (default: None)
        A limit of this client's own, without schedules. The tighter of it and the server's counts.
    store : str, Path, MemoryStore or None (default: None)
        Folder on the client's disk for its error memory, or a store with limits of its own. With None the memory is
        in ``context.state``, which Flower carries to the client app and back in each round, and which ends with the
        SuperNode's process.
    seed : Callable or None (default: None)
        Function of a train message, as it comes, and of the context. It returns what seeds the random draws for this
        message: a whole number or a sequence of them, different for each node and round. With it a simulation that
        rounds at random can be repeated; with None each one draws anew.

    Notes
    -----
    The first mod is the outermost. Mods that measure messages stand before CO3Mod, mods that change the update
    (clipping, noise) after it: ``mods=[message_size_mod, CO3Mod(), fixedclipping_mod]``. Secure aggregation
    cannot be combined with CO3, and is refused.

    What cannot be compressed, such as a model with NaN in it, is answered with an error message that says why,
    and the memory stays as it was. (Flower 1.41's size mods fail on error messages; the client's log has the
    reason then.) The received message and the reply need exactly one ArrayRecord each, with
    the same keys and shapes.

    Examples
    --------
    The whole change on the client::

        from flwr.clientapp import ClientApp
        from flwr_co3 import CO3Mod

        app = ClientApp(mods=[CO3Mod()])

    A client on a slow line, that sends at most 64 KiB a round, whatever the server allows::

        from flwr_co3 import RateLimit

        app = ClientApp(mods=[CO3Mod(rate=RateLimit(bytes_per_round=65536))])

    A client that goes on with its memory after a restart::

        app = ClientApp(mods=[CO3Mod(store="~/.cache/flwr-co3")])

    A simulation that draws the same each time it is run::

        def seed(message, context):
            return 7, message.content["config"]["server-round"], context.node_config["partition-id"]

        app = ClientApp(mods=[CO3Mod(seed=seed)])
    """

    def __init__(self, rate: RateLimit | None = None, store: Store | None = None, seed: Seeding | None = None) -> None:
        self.rate = _own_limit(rate, "CO3Mod")
        self.store = store_of(store, "CO3Mod")
        if not (seed is None or callable(seed)):
            raise ValueError(
                f"CO3Mod's seed must be a function of a train message and the context, or None, but is {seed!r}: one "
                "number would make all rounds draw the same."
            )
        self.seed = seed

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Take the model out of the message, train, then compress the reply."""
        try:
            held = self._receive(message, context)
        except Exception as error:
            return _refusal(message, error)
        config = _config_of(message, CONFIG_KEY, "train")
        if config is None:
            return call_next(message, context)
        try:
            refuse_secure_aggregation([*message.content, *context.state])
            order = Order.read(config)
            seed = None if self.seed is None else self.seed(message, context)
            received = _start(message, order, keeper_of(context, self.store))
        except Exception as error:
            return _refusal(message, error)

        reply = call_next(message, context)

        if reply.has_error():
            return reply
        try:
            refuse_secure_aggregation(reply.content)
            _check_metrics(reply.content)
            key, new = _arrays_of(reply.content, "The reply")
            sent = compress(_pairs(received, new), order, keeper_of(context, self.store), self.rate, seed)
            reply.content = _compressed_content(reply.content, key, sent, held)
        except Exception as error:
            return _refusal(message, error)
        return reply

    def _receive(self, message: Message, context: Context) -> int | None:
        """Put the model in place of what brings it; return its version, None where the server names none."""
        config = _config_of(message, MODEL_KEY, "train", "evaluate")
        if config is None:
            return None
        key, record = _arrays_of(message.content, "The message")
        content = message.content.copy()
        content[key], number = received_model(record, config, model_keeper_of(context, self.store))
        message.content = content
        return number


class CO3ClientMixin:
    """Compresses what a NumPyClient's ``fit`` returns, and takes the server's frames, when the server asks for it.

    The server asks for it with a :class:`~flwr_co3.legacy.CO3LegacyStrategy`; with any other strategy the client
    is what it was. The client's own ``fit`` stays as it is. What the compression loses is remembered, in the
    context's state or under the name of its node, so the client needs the context that ``client_fn`` gets: as
    ``context=``, which the mixin's ``__init__`` takes, or as the attribute ``context``.

    Parameters
    ----------
    context : Context or None (default: None)
        The context that ``client_fn`` received. It may be missing only where the server wants no memory.
    store : str, Path, MemoryStore or None (default: None)
        Where the memory is, as for :class:`~flwr_co3.CO3Mod`; also as the attribute ``store``, of the class or of the
        client.
    rate : RateLimit or None (default: None)
        A limit of this client's own, as for :class:`~flwr_co3.CO3Mod`; also as an attribute.

    Notes
    -----
    Mods that change arrays (clipping, noise) see the compressed frame here. With such mods, leave the client as
    it is and write ``ClientApp(client_fn, mods=[CO3Mod(), ...])``, which the same strategy understands.

    Examples
    --------
    ::

        from flwr.app import Context
        from flwr.client import NumPyClient
        from flwr.clientapp import ClientApp
        from flwr_co3 import CO3ClientMixin

        class Client(CO3ClientMixin, NumPyClient):
            def fit(self, parameters, config):
                ...
                return weights, num_examples, {"loss": loss}

        def client_fn(context: Context):
            return Client(context=context).to_client()

        app = ClientApp(client_fn)

    In a client with its own ``__init__``, this is enough::

        class Client(CO3ClientMixin, NumPyClient):
            def __init__(self, net, context):
                self.net = net
                self.context = context
    """

    context: Context | None = None
    store: Store | None = None
    rate: RateLimit | None = None

    def __init__(
        self,
        *args: Any,
        context: Context | None = None,
        store: Store | None = None,
        rate: RateLimit | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if context is not None:
            self.context = context
        if store is not None:
            self.store = store
        if rate is not None:
            self.rate = rate

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap the class's methods, whether they are its own or come from a base that knows nothing of CO3."""
        super().__init_subclass__(**kwargs)
        for name, wrapped in (("fit", _compressing), ("evaluate", _receiving)):
            owner = next((base for base in cls.__mro__ if name in vars(base)), None)
            if owner is None or owner.__module__.startswith("flwr."):
                continue  # Flower tells by the method itself what a NumPyClient cannot do
            if owner is cls or not issubclass(owner, CO3ClientMixin):
                setattr(cls, name, wrapped(vars(owner)[name]))


_fitting: ContextVar[object] = ContextVar("the client whose fit runs", default=None)


def _compressing(fit: Callable[..., FitResult]) -> Callable[..., FitResult]:
    # Where a client's class is pickled whole (in notebooks), so is this function: it holds nothing but `fit`.
    @functools.wraps(fit)
    def compressing_fit(self: CO3ClientMixin, parameters: list[NDArray[Any]], config: dict[str, Any]) -> FitResult:
        return _fit_and_compress(fit, self, parameters, config)

    return compressing_fit


def _receiving(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(evaluate)
    def receiving_evaluate(self: CO3ClientMixin, parameters: list[NDArray[Any]], config: dict[str, Any]) -> Any:
        parameters, config, _ = _received(self, parameters, config)
        return evaluate(self, parameters, config)

    return receiving_evaluate


def _received(
    client: CO3ClientMixin, parameters: list[NDArray[Any]], config: dict[str, Any]
) -> tuple[list[NDArray[Any]], dict[str, Any], int | None]:
    """Put the model in place of what brings it; return its version, None where it is not kept."""
    if MODEL_KEY not in config:
        return parameters, config, None
    rest = {key: value for key, value in config.items() if key not in (MODEL_KEY, BASE_KEY)}
    if client.context is None:
        if BASE_KEY in config:
            raise ValueError(
                f"{type(client).__name__} has no context, in which the model is kept between rounds, and was sent "
                "frames instead of it. Hand the context of client_fn on to it."
            )
        return parameters, rest, None
    record = ArrayRecord({str(index): Array(array) for index, array in enumerate(parameters)})
    keeper = model_keeper_of(client.context, store_of(client.store, type(client).__name__))
    model, number = received_model(record, config, keeper)
    return model.to_numpy_ndarrays(), rest, number


def _fit_and_compress(
    fit: Callable[..., FitResult],
    client: CO3ClientMixin,
    parameters: list[NDArray[Any]],
    config: dict[str, Any],
) -> FitResult:
    if CONFIG_KEY not in config or _fitting.get() is client:  # not asked, or called by super().fit()
        return fit(client, parameters, config)
    order = Order.read(config)
    parameters, config, held = _received(client, parameters, config)
    keeper, rate = _keeper_of(client, order), _own_limit(client.rate, type(client).__name__)
    numbered = {str(index): np.asarray(array) for index, array in enumerate(parameters)}
    parameters = list(start_of(numbered, order, keeper).values())
    received = [np.array(array) for array in parameters]  # fit may train in place
    running = _fitting.set(client)
    try:
        result = fit(client, parameters, config)
    finally:
        _fitting.reset(running)
    if not (isinstance(result, tuple) and len(result) == 3):
        return result  # Flower says what is wrong with it
    new, examples, metrics = result
    frame, stats = compress(_numbered(received, new), order, keeper, rate)
    version = {} if held is None else {HELD_KEY: held}
    return [np.frombuffer(frame, np.uint8)], examples, {**metrics, **stats.scalars(), **version}


def _own_limit(rate: RateLimit | None, owner: str) -> RateLimit | None:
    """Return a client's own limit, checked."""
    if rate is not None and not isinstance(rate, RateLimit):
        raise ValueError(f"{owner}'s rate must be a RateLimit or None, but is {rate!r}.")
    if rate is not None and rate.scheduled:
        raise ValueError(
            f"{owner}'s rate is {rate!r}, and a client knows nothing of the rounds: give it numbers. Schedules are "
            "the server's, in CO3Config(rate=...)."
        )
    return rate


def _keeper_of(client: CO3ClientMixin, order: Order) -> Keeper | None:
    store = store_of(client.store, type(client).__name__)
    if client.context is not None:
        refuse_secure_aggregation(client.context.state)
        return keeper_of(client.context, store)
    if order.config.memory_decay == 0:
        return None
    name = type(client).__name__
    raise ValueError(
        f"{name} has no context, by which CO3's error memory is kept between rounds. In client_fn(context), write "
        f"`return {name}(..., context=context).to_client()`; if {name} has its own __init__, write "
        "`self.context = context` in it. (The server can do without the memory: CO3Config(memory_decay=0).)"
    )


def _numbered(received: list[NDArray[Any]], new: list[NDArray[Any]]) -> Tensors:
    if len(new) != len(received):
        raise ValueError(f"fit received {len(received)} arrays and returned {len(new)}. Return those that came.")
    for index, (before, after) in enumerate(zip(received, new, strict=True)):
        yield str(index), before, np.asarray(after)


def _config_of(message: Message, key: str, *kinds: str) -> ConfigRecord | None:
    """Return the config with this key, if this is a message of one of these kinds that carries one."""
    if message.metadata.message_type.partition(".")[0] not in kinds:
        return None
    return next((config for config in message.content.config_records.values() if key in config), None)


def _arrays_of(content: RecordDict, what: str) -> tuple[str, ArrayRecord]:
    records = list(content.array_records.items())
    if len(records) != 1:
        raise ValueError(
            f"{what} holds {len(records)} ArrayRecords, and CO3Mod needs exactly one: the model. "
            "Send and return the model in one ArrayRecord. What is trained beside it, such as control variates, goes "
            "into the same one, under names of their own."
        )
    return records[0]


def _start(message: Message, order: Order, keeper: Keeper) -> ArrayRecord:
    """Put the model from which the app trains into the message, and return it in a record of its own."""
    key, record = _arrays_of(message.content, "The train message")
    if order.config.step_ahead:
        start = start_of({name: array.numpy() for name, array in record.items()}, order, keeper)
        record = ArrayRecord({name: Array(array) for name, array in start.items()})
        message.content = message.content.copy()
        message.content[key] = record
    return record.copy()  # the app may empty the record that it gets


def _pairs(received: ArrayRecord, new: ArrayRecord) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    missing, unknown = received.keys() - new.keys(), new.keys() - received.keys()
    if missing or unknown:
        raise ValueError(
            "The reply must hold the tensors that were received, because CO3 sends what changed in them. "
            + f"Missing: {_names(missing)}. Not received: {_names(unknown)}."
        )
    for name, before in received.items():
        yield name, before.numpy(), new[name].numpy()


def _names(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"


def _check_metrics(content: RecordDict) -> None:
    if any(STATS_KEY in record for record in content.metric_records.values()):
        raise ValueError(f"The reply's metrics have a key '{STATS_KEY}', which CO3 needs for itself. Rename it.")


def _compressed_content(content: RecordDict, key: str, sent: Compressed, held: int | None) -> RecordDict:
    """Make a reply's content with the frame in place of the model, and the statistics beside the metrics."""
    compressed = content.copy()
    frame = Array(dtype="uint8", shape=(len(sent.frame),), stype=FRAME_STYPE, data=sent.frame)
    compressed[key] = ArrayRecord({FRAME_KEY: frame})
    metrics = list(content.metric_records.items())
    if len(metrics) == 1:  # with none or several there is no one place that the server could look in
        key, record = metrics[0]
        version = [] if held is None else [float(held)]
        compressed[key] = MetricRecord({**record, STATS_KEY: [*sent.stats, *version]})
    return compressed


def _refusal(message: Message, error: Exception) -> Message:
    """Answer with an error message, as Flower's own mods do."""
    if not isinstance(error, ValueError):
        logger.error("CO3Mod failed unexpectedly.", exc_info=error)
    reason = str(error) or repr(error)
    logger.error("CO3Mod: %s", reason)
    return Message(Error(ERROR_CODE, f"CO3Mod: {reason}"), reply_to=message)
