"""A client without torch."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from flwr_co3 import CO3Mod

app = ClientApp(mods=[CO3Mod()])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Go over the node's own digits once."""
    try:
        import torch  # noqa: F401
    except ImportError:
        pass
    else:
        raise RuntimeError("torch can be imported, and this shall show that nothing needs it.")
    node = int(context.node_config["node"])
    pixels, digits = load_digits(return_X_y=True)
    pixels, digits = pixels[node::3] / 16, digits[node::3]
    model = SGDClassifier(loss="log_loss", random_state=node)
    model.partial_fit(pixels, digits, classes=np.arange(10))
    coef, intercept = message.content.array_records["arrays"].to_numpy_ndarrays()
    model.coef_, model.intercept_ = coef.astype(np.float64), intercept.astype(np.float64)
    model.partial_fit(pixels, digits)
    arrays = ArrayRecord([model.coef_.astype(np.float32), model.intercept_.astype(np.float32)])
    metrics = MetricRecord({"num-examples": len(digits)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
