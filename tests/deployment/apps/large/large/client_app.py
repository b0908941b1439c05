"""A client that adds noise to the model, tensor by tensor."""

import resource
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_co3 import CO3Mod


def co3(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """CO3, with a store: the state would carry memory and model to this process and back in each round."""
    return CO3Mod(store=f"{context.run_config['folder']}/store")(message, context, call_next)


app = ClientApp(mods=[co3])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train."""
    rng, new = np.random.default_rng(0), ArrayRecord()
    for name, array in message.content.array_records["arrays"].items():
        tensor = array.numpy()
        new[name] = Array(tensor + 0.01 * rng.standard_normal(tensor.shape, np.float32))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # without what CO3 takes after this
    metrics = MetricRecord({"num-examples": 1, "peak": peak})
    return Message(RecordDict({"arrays": new, "metrics": metrics}), reply_to=message)
