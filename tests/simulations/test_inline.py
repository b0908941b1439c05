"""The plain loop: the same results as Flower's Simulation Runtime, and what it does with a client that fails."""

import dataclasses
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from rich.console import Console

from simulations.compare import Plan, compare
from simulations.federation import RoundResult
from simulations.inline import InlineGrid
from simulations.results import Run
from simulations.schemes import make_schemes
from simulations.settings import Settings


@pytest.mark.ray
@pytest.mark.xdist_group("second worker")
def test_both_engines_give_the_same_accuracies_and_bytes(tmp_path: Path) -> None:
    schemes = make_schemes(["fedavg", "co3:bits_per_parameter=0.5", "co3-fp4"])
    plan = Plan(Settings(rounds=3, fraction_train=0.7), schemes, seeds=[0], clients=4)

    by_flower, by_loop = (
        compare(dataclasses.replace(plan, engine=engine), tmp_path / engine, Console(quiet=True))
        for engine in ("flower", "inline")
    )

    assert by_loop.problem == "" and len(by_loop.runs) == 3
    assert [counted(run) for run in by_loop.runs] == [counted(run) for run in by_flower.runs]
    assert by_loop.fits == by_flower.fits != []
    assert by_loop.runs[1].rounds[-1].accuracy > by_loop.runs[1].rounds[0].accuracy


@pytest.mark.parametrize("scheme", ["qsgd:bits_per_parameter=0.5", "co3:rounding=stochastic"])
def test_schemes_that_draw_give_the_same_when_a_comparison_is_made_again(tmp_path: Path, scheme: str) -> None:
    plan = Plan(Settings(rounds=2), make_schemes([scheme]), seeds=[0], clients=2, engine="inline", parallel=1)
    first, again = (compare(plan, tmp_path / name, Console(quiet=True)) for name in ("first", "again"))
    assert first.problem == "" and counted(first.runs[0]) == counted(again.runs[0])


def test_a_budget_that_is_a_schedule_changes_from_round_to_round_and_its_run_is_kept(tmp_path: Path) -> None:
    (scheme,) = make_schemes(["co3:bits_per_parameter=steps|1=2|2=0.5|3=0.1"])
    plan = Plan(Settings(rounds=3), [scheme], seeds=[0], clients=2, engine="inline", parallel=1)
    first, again = (compare(plan, tmp_path, Console(quiet=True)) for _ in range(2))

    bits = [result.bits_per_parameter for result in first.runs[0].rounds[1:]]
    assert bits == pytest.approx([2, 0.5, 0.1], rel=0.05)
    assert first.problem == "" and again.runs == first.runs


def counted(run: Run) -> tuple[str, list[RoundResult]]:
    """Leave out what the clock says; the loss may differ in its last digits by the number of threads."""
    return run.scheme, [
        dataclasses.replace(result, loss=round(result.loss, 5), seconds=0.0, encode_seconds=None, decode_seconds=None)
        for result in run.rounds
    ]


@pytest.mark.usefixtures("task")
def test_a_client_app_that_raises_answers_with_an_error() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: object) -> Message:
        raise ValueError("no data")

    message = Message(RecordDict({"arrays": ArrayRecord()}), 2, "train")
    (reply,) = InlineGrid(app, 3).send_and_receive([message])

    assert reply.has_error() and "ValueError: no data" in (reply.error.reason or "")
    assert reply.metadata.src_node_id == 2


@pytest.mark.usefixtures("task")
def test_a_node_keeps_its_context_and_cannot_change_what_the_server_holds() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: object) -> Message:
        del message.content["arrays"]
        assert hasattr(context, "state")
        context.state["times"] = ArrayRecord()
        return Message(RecordDict(dict(context.state)), reply_to=message)

    grid, sent = InlineGrid(app, 1), Message(RecordDict({"arrays": ArrayRecord()}), 1, "train")
    for _ in range(2):
        (reply,) = grid.send_and_receive([sent])
        assert "times" in reply.content and "arrays" in sent.content
