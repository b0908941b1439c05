"""What a round cost and gave: CO3's metrics."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from flwr_co3._protocol import ClientStats
from flwr_co3.frame import EMPTY

FLOAT32_BYTES = 4  # what compression ratios are measured against


@dataclass
class Tally:
    """Counts what goes over the wire in one round of training.

    Payload is the model itself: the frames of compressed replies, the serialised arrays of all others.
    Message bytes are all that the records hold, as Flower counts them. Replies that are set aside count
    in both: they were sent.
    """

    downlink_payload: int = 0
    downlink_message: int = 0
    uplink_payload: int = 0
    uplink_message: int = 0
    replies: int = 0
    quarantined: int = 0
    uncompressed: int = 0
    empty: int = 0  # of the accepted replies: their budget held nothing
    parameters: int = 0  # in all accepted replies together
    accepted_payload: int = 0
    decode_seconds: float = 0.0
    compressed: int = 0
    stats: list[ClientStats] = field(default_factory=list)

    def accept(self, parameters: int, payload: int, frame: bytes | None, stats: ClientStats | None) -> None:
        """Count a reply that is handed on to the strategy; its frame is None if it was not compressed."""
        self.parameters += parameters
        self.accepted_payload += payload
        self.compressed += frame is not None
        self.uncompressed += frame is None
        self.empty += frame == EMPTY
        if stats is not None:
            self.stats.append(stats)

    def metrics(self) -> dict[str, int | float]:
        """Return the round's metrics by name; a mean over nothing is left out."""
        metrics: dict[str, int | float] = {
            "co3-uplink-payload-bytes": self.uplink_payload,
            "co3-uplink-message-bytes": self.uplink_message,
            **self.downlink_metrics(),
            "co3-replies": self.replies,
            "co3-quarantined": self.quarantined,
            "co3-uncompressed": self.uncompressed,
            "co3-empty": self.empty,
        }
        if self.parameters and self.accepted_payload:
            metrics["co3-bits-per-parameter"] = 8 * self.accepted_payload / self.parameters
            metrics["co3-compression-ratio"] = FLOAT32_BYTES * self.parameters / self.accepted_payload
        if self.compressed:
            metrics["co3-decode-seconds"] = self.decode_seconds / self.compressed
        if self.stats:
            columns = zip(*self.stats, strict=True)
            nmse, encode_seconds, memory_norm = (sum(column) / len(self.stats) for column in columns)
            metrics["co3-nmse"] = nmse
            metrics["co3-encode-seconds"] = encode_seconds
            metrics["co3-memory-norm"] = memory_norm
        return metrics

    def downlink_metrics(self) -> dict[str, int | float]:
        """Return by name what the server sent."""
        return {
            "co3-downlink-payload-bytes": self.downlink_payload,
            "co3-downlink-message-bytes": self.downlink_message,
        }


def payload_bytes(records: Iterable[ArrayRecord]) -> int:
    """Return the bytes of the arrays in a message, without their keys."""
    return sum(len(array.data) for record in records for array in record.values())


def message_bytes(content: RecordDict) -> int:
    """Return the bytes of all records in a message, as Flower counts them."""
    return sum(count_bytes(record) for record in content.values())


def count_bytes(record: ArrayRecord | ConfigRecord | MetricRecord) -> int:
    """Return the bytes of one record, as Flower counts them."""
    if not isinstance(record, ConfigRecord):
        return record.count_bytes()
    # Flower 1.41 cannot count what is empty: count_bytes() raises for "" and [].
    filled = ConfigRecord({key: value for key, value in record.items() if value not in ("", b"", [])})
    empty = record.keys() - filled.keys()
    return filled.count_bytes() + sum(len(key) for key in empty)
