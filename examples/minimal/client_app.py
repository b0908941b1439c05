"""The client: logistic regression on its part of scikit-learn's handwritten digits."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from flwr_co3 import CO3Mod

app = ClientApp(mods=[CO3Mod()])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Go over the client's digits once, from the weights that the server sent."""
    part, parts = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    pixels, digits = load_digits(return_X_y=True)
    pixels, digits = pixels[part::parts] / 16, digits[part::parts]

    weights, bias = message.content.array_records["arrays"].to_numpy_ndarrays()
    model = SGDClassifier(loss="log_loss", random_state=part)
    model.partial_fit(pixels[:10], digits[:10], classes=np.arange(10))  # learns its shape; its weights come next
    model.coef_, model.intercept_ = weights.astype("float64"), bias.astype("float64")
    model.partial_fit(pixels, digits)

    new = ArrayRecord([model.coef_.astype("float32"), model.intercept_.astype("float32")])
    metrics = MetricRecord({"num-examples": len(digits)})
    return Message(RecordDict({"arrays": new, "metrics": metrics}), reply_to=message)
