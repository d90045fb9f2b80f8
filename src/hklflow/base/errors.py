"""The error class for problems that the user can fix, and text that is safe for a terminal."""

import re

# A value in a line: quoted, a list, or a word. Names of files and folders are shorter than this.
_LONGEST_VALUE = 260
_VALUE = re.compile(
    rf"(?<!\w)'[^']{{{_LONGEST_VALUE},}}'|\"[^\"]{{{_LONGEST_VALUE},}}\""
    rf"|\[[^\[\]]{{{_LONGEST_VALUE},}}\]|[^\s/]{{{_LONGEST_VALUE},}}"
)
_LONGEST_LINE = 4000


class HklflowError(Exception):
    """A problem that the user can fix, described in one sentence.

    The message says what is wrong with the value, where, and what to do. The command line prints
    the message on one line and exits with code 2. Every other exception is a defect of hklflow and
    keeps its traceback.
    """


def printable(text: str) -> str:
    """Return a text (from a file, or a file name) as one line that is safe for a terminal.

    Control characters (escape sequences, line breaks, marks of writing direction) are replaced by
    their codes; hklflow adds its own colours afterwards. Long values are shortened: a damaged file
    may contain megabytes where a word is expected.
    """
    text = _VALUE.sub(lambda value: shortened(value[0]), text)
    if text.isprintable():  # fast path
        return text
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)


def shortened(text: str, longest: int = 80) -> str:
    """Return a long text without its middle, with its length; return a short text unchanged."""
    if len(text) <= longest:
        return text
    left_out = f" … ({len(text)} characters) … "
    return text[: longest // 2] + left_out + text[-(longest // 4) :]


def printable_lines(text: str) -> str:
    """Return a text of several lines, such as a list of problems; later lines are indented.

    A line break in a file name can therefore not imitate a line of hklflow.
    """
    first, *others = (shortened(printable(line), _LONGEST_LINE) for line in text.split("\n"))
    margin = "" if all(line.startswith("  ") for line in others) else "  "
    return "\n".join([first, *(margin + line for line in others)])
