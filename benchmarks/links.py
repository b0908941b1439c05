"""A deployed federation over slow links: SuperLink and SuperNodes with TLS and node authentication, real processes.

Each SuperNode reaches the SuperLink through a link of its own, a TCP proxy that lets through so many bits a second in
each direction. The app is that of examples/deployment, with a larger network. Time runs from the strategy's start to
the end of the last round; what Flower itself takes in a round (SuperNodes ask for work every 3 s, and each message is
trained on in a new process) is in all rows. Bytes are those that the links carried, TLS and Flower's own included.
"""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import options
from benchmarks.federation import Federation
from benchmarks.federation.deployment import Values
from benchmarks.federation.link import Link
from benchmarks.output import Form, Row, Table, show

APP = Path(__file__).parent.parent / "examples" / "deployment"
SCHEMES: dict[str, dict[str, float]] = {
    "FedAvg": {"uplink": 0.0, "downlink": 0.0},
    "CO3 up": {"uplink": 0.1, "downlink": 0.0},
    "CO3 up and down": {"uplink": 0.1, "downlink": 0.1},
}

_LIMIT = 6 * 3600.0  # seconds of one run


def main(
    schemes: Annotated[str, typer.Option(help=f"Separated by commas: {', '.join(SCHEMES)}.")] = ",".join(SCHEMES),
    rounds: Annotated[int, typer.Option(min=1)] = 30,
    nodes: Annotated[int, typer.Option(min=2)] = 4,
    hidden: Annotated[int, typer.Option(min=1, help="Units of the two hidden layers: 640 are 458,250 weights.")] = 640,
    megabits: Annotated[float, typer.Option(min=0.01, help="Rate of each link in each direction, in Mbit/s.")] = 1.0,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Time training over slow links, with and without CO3."""
    rows: list[Row] = []
    for scheme in schemes.split(","):
        if scheme not in SCHEMES:
            raise ValueError(f"There is no scheme {scheme!r}. Choose from: {', '.join(SCHEMES)}.")
        config: Values = {**SCHEMES[scheme], "rounds": rounds, "hidden": hidden}
        row: Row = {"scheme": scheme, **measure(config, nodes, 1e6 * megabits)}
        rows.append(row | {"times faster": float(str((rows or [row])[0]["seconds"])) / float(str(row["seconds"]))})
        typer.echo(rows[-1], err=True)  # the next may take an hour
    show([Table(f"{rounds} rounds, {nodes} SuperNodes, links of {megabits:g} Mbit/s", rows)], form)


def measure(config: Values, nodes: int, bits_per_second: float) -> Row:
    """Run the app once in a federation of its own, and return what it took."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        federation = stack.enter_context(Federation(folder))
        links = [stack.enter_context(Link(federation.port, bits_per_second)) for _ in range(nodes)]
        for number, link in enumerate(links):
            place: Values = {"partition-id": number, "num-partitions": nodes, "store": str(folder / f"store-{number}")}
            federation.add_node(place, port=link.port)
        for node in federation.nodes:
            node.connect()
        results = folder / "results.json"
        run = federation.submit(APP, {**config, "results": str(results)})
        status = run.wait(_LIMIT)
        if not results.exists():
            raise RuntimeError(f"The run ended as {status}:\n{run.log()[-3000:]}")
        looked: list[dict[str, Any]] = json.loads(results.read_text())
    seconds = looked[-1]["seconds"] - looked[0]["seconds"]
    return {
        "seconds": seconds,
        "seconds a round": seconds / (len(looked) - 1),
        "accuracy": looked[-1]["accuracy"],
        "MB up": sum(link.up for link in links) / 1e6,
        "MB down": sum(link.down for link in links) / 1e6,
    }


if __name__ == "__main__":
    options.run(main)
