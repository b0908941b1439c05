"""The client: trains on its part of the digits; CO3Mod compresses what it sends."""

from collections.abc import Callable

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_co3 import CO3Mod

from .task import partition, train


def co3(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """CO3Mod, with a store in the folder that the SuperNode's --node-config names."""
    folder = context.node_config.get("store")
    return CO3Mod(store=None if folder is None else str(folder))(message, context, call_next)


app = ClientApp(mods=[co3])


@app.train()
def train_model(message: Message, context: Context) -> Message:
    """Train the received model on this node's digits."""
    node = int(context.node_config["partition-id"])
    examples = partition(node, int(context.node_config["num-partitions"]))
    model = train(message.content.array_records["arrays"].to_numpy_ndarrays(), examples, seed=node)
    metrics = MetricRecord({"num-examples": len(examples[1])})
    return Message(RecordDict({"arrays": ArrayRecord(model), "metrics": metrics}), reply_to=message)
