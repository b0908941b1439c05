"""The diff that examples/quickstart shows is the difference between the two apps."""

import difflib
import re
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
FILES = ("pyproject.toml", "client_app.py", "server_app.py")


def lines(app: str, file: str) -> list[str]:
    return (EXAMPLES / app / file).read_text(encoding="utf-8").splitlines(keepends=True)


def test_the_diff_makes_the_minimal_app_of_the_quickstart() -> None:
    shown = re.search(r"```diff\n(.*?)```", (EXAMPLES / "quickstart" / "README.md").read_text(encoding="utf-8"), re.S)
    assert shown is not None
    actual = [
        line
        for file in FILES
        for line in difflib.unified_diff(
            lines("quickstart", file), lines("minimal", file), f"quickstart/{file}", f"minimal/{file}", n=2
        )
    ]
    assert shown[1] == "".join(actual)


def test_the_two_apps_have_the_same_files() -> None:
    for app in ("quickstart", "minimal"):
        assert {path.name for path in (EXAMPLES / app).iterdir() if path.is_file()} == {*FILES, "README.md"}
