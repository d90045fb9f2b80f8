"""Write docs/bad_input.md from the cases: ``python -m tests.bad_input.page`` in the repository."""

import shlex
from pathlib import Path

from .cases import Case
from .table import CASES, FINE, THEMES

PAGE = Path(__file__).parents[2] / "docs/bad_input.md"

_HEAD = """\
# Bad input, and what you are told

Every row is a test: the command ends with **exit code 2**, prints this and no traceback, and
nothing is written or changed (but logs, and empty lock files). The same commands pass on the
undamaged experiment. … stands for what differs from machine to machine: folders, and what the
system or a library says of the cause.

What breaks while the workflow runs is in [failures.md](failures.md).
"""


def text() -> str:
    """Content of the page."""
    parts = [_HEAD, f"{len(CASES)} cases:"]
    for theme, cases in THEMES.items():
        rows = [f"| {case.wrong} | `{_short(case)}` | {_told(case)} |" for case in cases]
        parts += [f"## {theme}\n", "| What is wrong | Command | What you are told |\n|---|---|---|"]
        parts[-1] += "\n" + "\n".join(rows)
    parts.append("## What is right, though it looks wrong\n")
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
