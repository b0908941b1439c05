"""Writing files so that an interruption never leaves half of one."""

from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Put a file with this text in the place of what was there, at once."""
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
