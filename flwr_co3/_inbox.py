"""A round's replies on the server: opened, or set aside."""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from logging import getLogger
from math import isfinite
from typing import NamedTuple, TypeAlias, TypeVar

from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict

from flwr_co3._acknowledgements import update_id
from flwr_co3._downlink import shifted
from flwr_co3._protocol import ERROR_CODE, FRAME_KEY, FRAME_STYPE, STATS_KEY, ClientStats
from flwr_co3._replies import Desk, SentModel, decoded_record, loaders
from flwr_co3._restated import Update, restate
from flwr_co3._round import Tally, message_bytes, payload_bytes
from flwr_co3._versions import Tensors
from flwr_co3.frame import FrameReader
from flwr_co3.rate import RateLimit
from flwr_co3.schemes.server import ServerSide

logger = getLogger("flwr.co3")

Record = TypeVar("Record", ArrayRecord, MetricRecord)
Form: TypeAlias = tuple[str, str | None, frozenset[str]]  # keys: ArrayRecord, MetricRecord, metrics


class Sent(NamedTuple):
    """One train message of the round."""

    message: Message
    model: SentModel | None  # None if it does not carry exactly one ArrayRecord
    turn: int | None  # its number; None if its node was sent several
    rate: RateLimit | None  # the limit that it names
    directions: bytes | None = None  # that it names
    start: Tensors | None = None  # the model that the client was brought to, where that is not `model`


class Opened(NamedTuple):
    """A reply that now holds what the wrapped strategy expects."""

    reply: Message
    form: Form
    parameters: int
    payload: int  # bytes, as it came in
    frame: bytes | None  # None if it is not compressed
    stats: ClientStats | None
    update: bytes | None  # its name, by which the node learns that it was aggregated
    to_restate: Update | None = None  # where the scheme's state on the server decides what it counts as


class Inbox:
    """Opens the replies of one round, and sets aside what cannot be used.

    Parameters
    ----------
    sent : Mapping[int, list[Sent]]
        The round's train messages by node. Those that are answered are taken out, so that each is answered once.
    weight_key : str or None
        The metric by which the wrapped strategy weights clients; with None, metrics are not looked at.
    tally : Tally
        Where the round is counted.
    averaging : bool (default: False)
        Whether the wrapped strategy does nothing with the replies' arrays but average them.
    side : ServerSide or None (default: None)
        The scheme's state on the server.
    """

    def __init__(
        self,
        sent: Mapping[int, list[Sent]],
        weight_key: str | None,
        tally: Tally,
        averaging: bool = False,
        side: ServerSide | None = None,
    ) -> None:
        self._sent = sent
        self._weight_key = weight_key
        self._tally = tally
        self._side = side
        self._desk = Desk(averaging and side is None)
        self.updates: dict[str, bytes] = {}  # by node: the names of the updates that were handed on

    def open(self, replies: Iterable[Message]) -> list[Message]:
        """Return all replies; those that cannot be used became error messages."""
        opened = [reply if reply.has_error() else self._open(reply) for reply in replies]
        forms = Counter(item.form for item in opened if isinstance(item, Opened))
        usual = forms.most_common(1)[0][0] if forms else None
        self._restate([item for item in opened if isinstance(item, Opened) and item.form == usual])
        return [self._admit(item, usual) if isinstance(item, Opened) else item for item in opened]

    def close(self) -> None:
        """Let go of decoded symbols, and count the time that decoding took."""
        self._desk.clear()
        self._tally.decode_seconds = self._desk.seconds

    def _open(self, reply: Message) -> Opened | Message:
        self._tally.replies += 1
        try:
            self._tally.uplink_message += message_bytes(reply.content)
            self._tally.uplink_payload += payload_bytes(reply.content.array_records.values())
            return self._opened(reply)
        except Exception as error:  # whatever a client sent, the round goes on
            return self._set_aside(reply, str(error) or repr(error))

    def _opened(self, reply: Message) -> Opened:
        key, record = _only(reply.content.array_records, "ArrayRecord")
        payload = payload_bytes([record])
        sent, model = self._answered(reply)
        content, stats = _without_stats(reply.content)
        form = _form(content, key, self._weight_key)
        compressed = any(array.stype == FRAME_STYPE for array in record.values())
        frame = update = to_restate = None
        if compressed:
            frame = _frame(record)
            update = None if sent.turn is None else update_id(sent.turn, frame)
            weight = _weight(content, form, self._weight_key)
            reader = self._read(frame, model, sent, weight)
            if self._side is not None:
                node = str(reply.metadata.src_node_id)
                _check_order(reader, model)
                to_restate = Update(node, 1.0 if weight is None else weight, model, reader)
                self._side.accept(to_restate.received)
            content[key] = decoded_record(model, reader, self._desk)
        else:
            model.check(loaders(record))
            if sent.start is not None:
                content[key] = shifted(record, sent.start, {name: partial(model.load, name) for name in model.specs})
        reply.content = content
        self._sent[reply.metadata.src_node_id].remove(sent)
        return Opened(reply, form, model.parameters, payload, frame, stats, update, to_restate)

    def _restate(self, admitted: list[Opened]) -> None:
        """Let the scheme's state on the server say what the updates count as."""
        if self._side is None:
            return
        updates = [(item, item.to_restate) for item in admitted if item.to_restate is not None]
        readers = restate(self._side, [update for _, update in updates])
        for (item, update), reader in zip(updates, readers, strict=True):
            item.reply.content[item.form[0]] = decoded_record(update.model, reader, self._desk)

    def _read(self, frame: bytes, model: SentModel, sent: Sent, weight: float | None) -> FrameReader:
        """Decode a frame once, to see that it can be, and add it to the average where that is all that is wanted."""
        with self._desk.timed():
            reader = model.open(frame, sent.rate, sent.directions)
        if self._desk.averaging and weight is not None:
            self._desk.add(model, reader, weight)
        reader.close()
        return reader

    def _answered(self, reply: Message) -> tuple[Sent, SentModel]:
        """Find the train message that this reply answers, and the model in it."""
        sent = self._sent.get(reply.metadata.src_node_id, [])
        answered = [s for s in sent if s.message.metadata.message_id == reply.metadata.reply_to_message_id]
        if len(answered) != 1:
            raise ValueError("It answers no train message of this round, or one that was answered already.")
        model = answered[0].model
        if model is None:
            raise ValueError("The train message held no ArrayRecord or several, and CO3 needs the model in one.")
        return answered[0], model

    def _admit(self, opened: Opened, usual: Form | None) -> Message:
        """Hand on a reply of the usual form: Flower ends the whole run over one that differs."""
        if opened.form != usual:
            return self._set_aside(
                opened.reply,
                f"Its records and metrics are {_words(opened.form)}; most replies have {_words(usual)}.",
            )
        self._tally.accept(opened.parameters, opened.payload, opened.frame, opened.stats)
        if opened.update is not None:
            self.updates[str(opened.reply.metadata.src_node_id)] = opened.update
        return opened.reply

    def _set_aside(self, reply: Message, reason: str) -> Message:
        self._tally.quarantined += 1
        logger.warning("CO3 set aside the reply of node %d: %s", reply.metadata.src_node_id, reason)
        # A reply to a reply to the reply: it comes from where the reply came from.
        back = Message(Error(ERROR_CODE), reply_to=reply)
        return Message(Error(ERROR_CODE, f"Set aside by CO3Strategy: {reason}"), reply_to=back)


def _check_order(reader: FrameReader, model: SentModel) -> None:
    """Refuse vectors in another order than the server's state has them in."""
    if reader.body is not None and reader.lossy != model.lossy:
        raise ValueError(
            "Its tensors come in another order than the model's, and the scheme's state on the server goes by the "
            "order. Return them in the order in which they were received."
        )


def _only(records: Mapping[str, Record], kind: str) -> tuple[str, Record]:
    if len(records) != 1:
        raise ValueError(f"It holds {len(records)} {kind}s, and should hold one.")
    return next(iter(records.items()))


def _frame(record: ArrayRecord) -> bytes:
    if set(record) != {FRAME_KEY}:
        raise ValueError(f"It is compressed, and holds more than the one entry '{FRAME_KEY}'.")
    return record[FRAME_KEY].data


def _without_stats(content: RecordDict) -> tuple[RecordDict, ClientStats | None]:
    """Take the client's statistics out of its metrics: other clients' metrics do not have them."""
    rest = content.copy()
    stats = None
    for key, record in content.metric_records.items():
        if STATS_KEY in record:
            stats = ClientStats.read(record[STATS_KEY])
            rest[key] = MetricRecord({name: value for name, value in record.items() if name != STATS_KEY})
    return rest, stats


def _form(content: RecordDict, array_key: str, weight_key: str | None) -> Form:
    """Say which keys a reply has. Raise ValueError if its strategy could not weight it."""
    if weight_key is None:
        return array_key, None, frozenset()
    metric_key, metrics = _only(content.metric_records, "MetricRecord")
    weight = metrics.get(weight_key)
    if not isinstance(weight, (int, float)) or not isfinite(weight) or weight < 0:
        raise ValueError(f"Its metric '{weight_key}', the weight of the client, is {weight!r}.")
    return array_key, metric_key, frozenset(metrics)


def _weight(content: RecordDict, form: Form, weight_key: str | None) -> float | None:
    """Return the weight of a reply of this form."""
    if weight_key is None or form[1] is None:
        return None
    return float(content.metric_records[form[1]][weight_key])  # type: ignore[arg-type]  # `_form` has checked it


def _words(form: Form | None) -> str:
    if form is None:
        return "none"
    array_key, metric_key, metrics = form
    return f"'{array_key}', '{metric_key}' with {sorted(metrics)}"
