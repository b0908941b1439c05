"""The page of figures, and the commands that it and others name."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from benchmarks import options, page

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"-m benchmarks\.(\w+)((?: (?!-->)[^\n`|#]+)?)")


def commands(name: str) -> list[tuple[str, str]]:
    return COMMAND.findall((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["docs/speed.md", "docs/schemes.md", "Makefile", "README.md"])
def test_the_commands_that_are_named_exist_and_take_these_options(name: str) -> None:
    found = commands(name)
    assert found
    for module_name, arguments in found:
        module = importlib.import_module(f"benchmarks.{module_name}")
        app = getattr(module, "app", None) or options.app_of(module.main)
        words = shlex.split(arguments.removesuffix("-->"))
        typer.main.get_command(app).make_context(module_name, words)  # raises what the command line would say


def test_a_page_is_filled_in_by_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLWR_CO3_KERNELS", raising=False)
    draft = tmp_path / "page.md"
    mark = "<!-- FLWR_CO3_THREADS=1 python -m benchmarks.startup --entries 1000 --runs 1 -->"
    other = "<!-- python -m benchmarks.codec -->\nleft alone\n<!-- end -->\n"
    draft.write_text(f"# Title\n\n{mark}\nold\n<!-- end -->\n\nmore\n\n{other}", encoding="utf-8")

    page.main("benchmarks.startup", draft)

    text = draft.read_text(encoding="utf-8")
    command = "    FLWR_CO3_THREADS=1 python -m benchmarks.startup --entries 1000 --runs 1"
    assert text.startswith(f"# Title\n\n{mark}\n\n{command}\n")
    assert "| flwr_co3 after it |" in text and "threads 1" in text
    assert "old" not in text
    assert text.endswith(f"<!-- end -->\n\nmore\n\n{other}")
