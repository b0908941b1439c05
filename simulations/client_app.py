"""The client: trains on its part of the data. CO3Mod compresses its answer when the server asks for it."""

import os
import time

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_co3 import CO3Mod
from flwr_co3.client import ClientAppCallable
from simulations.approximate_gradients import approximate, share_saved
from simulations.clock import MEASURED, TRAIN_SECONDS
from simulations.models import make_model
from simulations.outer_products import parse_outer_products
from simulations.settings import Settings
from simulations.tasks import image_shape, partition_examples
from simulations.training import train

STORE = "CO3_SIMULATION_STORE"
"""Variable of the environment: a folder for the clients' memories, which are in Flower's state without it."""


def compress(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Do as CO3Mod does. It is made here, because the variable is the client's process's."""
    return CO3Mod(store=os.environ.get(STORE), seed=_draws)(message, context, call_next)


app = ClientApp(mods=[compress])


@app.train()
def train_model(message: Message, context: Context) -> Message:
    """Train the received model on this node's partition and answer with the new weights."""
    arrays, config = message.content["arrays"], message.content["config"]
    assert isinstance(arrays, ArrayRecord) and isinstance(config, ConfigRecord)
    settings = Settings.from_record(config)
    partition, partitions = _place(context)
    examples = partition_examples(
        settings.dataset, settings.partitioner, settings.seed, partition, partitions, settings.subset
    )
    model = make_model(settings.model, image_shape(settings.dataset), seed=settings.seed)
    model.load_state_dict(arrays.to_torch_state_dict())
    memories = approximate(model, parse_outer_products(settings.outer_products))
    started = time.perf_counter()
    loss = train(
        model,
        examples,
        settings,
        server_round=int(str(config["server-round"])),
        partition=partition,
        proximal_mu=float(str(config.get("proximal-mu", 0.0))),
    )
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(examples.labels)})
    if settings.device.startswith(MEASURED):
        metrics[TRAIN_SECONDS] = time.perf_counter() - started
    if memories:
        metrics["multiplications-saved"] = share_saved(memories)
    answer = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(answer, reply_to=message)


@app.query()
def tell_place(message: Message, context: Context) -> Message:
    """Answer with this node's partition and the number of partitions."""
    partition, partitions = _place(context)
    place = MetricRecord({"partition-id": partition, "num-partitions": partitions})
    return Message(RecordDict({"place": place}), reply_to=message)


def _draws(message: Message, context: Context) -> tuple[int, int, int]:
    """Return what seeds a round's draws: rounding at random too is the same when a run is repeated."""
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    partition, _ = _place(context)
    return Settings.from_record(config).seed, int(str(config["server-round"])), partition


def _place(context: Context) -> tuple[int, int]:
    """Return this node's partition and the number of partitions."""
    try:
        return int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    except KeyError as error:
        raise ValueError(
            f"The node {context.node_id} doesn't say which part of the data it has: {error} is missing in "
            'its configuration. Start it with --node-config "partition-id=0 num-partitions=10".'
        ) from None
