"""Write docs/bad_input.md from the cases: ``python -m tests.bad_input.page`` in the repository."""

import shlex
from pathlib import Path

from .cases import Case
from .table import CASES, FINE, THEMES

PAGE = Path(__file__).parents[2] / "docs/bad_input.md"

_HEAD = """\
# Messages about bad input

Every row is a test. The command ends with **exit code 2** and prints this message, no traceback.
Nothing is written or changed, except logs and empty lock files. With good input the same command
passes. … stands for text that differs from machine to machine: folders, and messages of the system
or of a library.

For faults during a run see [When something breaks](failures.md).
"""


def text() -> str:
    """Content of the page."""
    parts = [_HEAD, f"{len(CASES)} cases:"]
    for theme, cases in THEMES.items():
        rows = [f"| {case.wrong} | `{_short(case)}` | {_told(case)} |" for case in cases]
        parts += [f"## {theme}\n", "| Input | Command | Message |\n|---|---|---|"]
        parts[-1] += "\n" + "\n".join(rows)
    parts.append("## Good input that looks wrong\n")
    parts.append("\n".join(f"* {fine.what}" for fine in FINE))
    return "\n".join(part + "\n" for part in parts)


def _short(case: Case) -> str:
    """The command without its arguments."""
    words = shlex.split(case.command)
    if words[0] == "python":
        return words[2].removeprefix("hklflow.stages.")
    named = [word for word in words[1:3] if word.isalpha() or word == "import-ini"]
    return " ".join([words[0], *named])


def _told(case: Case) -> str:
    # What a reader of Markdown would take for markup.
    lines = [line.strip() for line in case.told.split("\n")]
    told = " <br> ".join(lines).replace("|", "\\|").replace("*", "\\*").replace("<unicode", "&lt;u")
    return told.replace("#", "\\#").replace("$", "\\$")


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
