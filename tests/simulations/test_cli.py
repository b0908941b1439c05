import sys
from pathlib import Path

import pytest

from simulations.cli import main
from simulations.results import Comparison


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["simulations", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schemes", "fedavg,co4"], "There is no scheme 'co4'. Choose one of"),
        (["--schemes", ""], "Give at least one scheme"),
        (["--clients", "0"], "0 clients cannot train"),
        (["--seeds", "0"], "0 seeds are none at all"),
        (["--rounds", "0"], "rounds is 0, but must be more than 0"),
        (["--partitioner", "dirichlet:beta=1"], "The partitioner 'dirichlet' has no setting 'beta'"),
        (["--model", "vgg"], "There is no model 'vgg'"),
        (["--outer-products", "best:k=2"], "There is no selection of outer products 'best'"),
        (["--strategy", "fedsgd"], "There is no strategy 'fedsgd'"),
        (["--dataset", "."], "could not be loaded"),
    ],
)
def test_an_error_is_a_sentence_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    if "--dataset" in arguments:
        arguments = ["--dataset", str(tmp_path)]

    assert run(monkeypatch, "compare", "--out", str(out), *arguments) == 1

    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("Error: ") and message in said
    assert not out.exists()


def test_a_report_is_made_again_from_its_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], comparison: Comparison, tmp_path: Path
) -> None:
    comparison.save(tmp_path)

    assert run(monkeypatch, "report", str(tmp_path)) == 0

    assert (tmp_path / "report.html").exists()
    assert "CO3 fp4 (paper)" in capsys.readouterr().out


def test_a_report_of_nothing_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "report", str(tmp_path)) == 1
    assert "There is no results.json" in capsys.readouterr().err


def test_help_names_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert "compare" in said and "report" in said
