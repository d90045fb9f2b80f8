"""The one error that is meant for the user, and text as a terminal may see it."""

import re

# A value in a line: quoted, a list, or a word. Folders of a path are no longer than file names.
_LONGEST_VALUE = 260
_VALUE = re.compile(
    rf"(?<!\w)'[^']{{{_LONGEST_VALUE},}}'|\"[^\"]{{{_LONGEST_VALUE},}}\""
    rf"|\[[^\[\]]{{{_LONGEST_VALUE},}}\]|[^\s/]{{{_LONGEST_VALUE},}}"
)
_LONGEST_LINE = 4000


class HklflowError(Exception):
    """A problem that the user can mend, told in one sentence.

    The message says what is wrong with the value, where, and what to do. The
    command line prints it on one line and exits with code 2; every other
    exception is a defect of hklflow and keeps its traceback.
    """


def printable(text: str) -> str:
    """Text of a file, or a file's name, in one line as a terminal may see it.

    What would act on the terminal or begin a line (escape sequences, line breaks, marks that turn
    the direction of writing) is shown by its number; our own colours are put around it afterwards.
    Long values are shortened: a damaged file may hold megabytes where a word is expected.
    """
    text = _VALUE.sub(lambda value: shortened(value[0]), text)
    if text.isprintable():  # quickly
        return text
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)


def shortened(text: str, longest: int = 80) -> str:
    """Return a text without its middle if it is longer; it then says how long it was."""
    if len(text) <= longest:
        return text
    left_out = f" … ({len(text)} characters) … "
    return text[: longest // 2] + left_out + text[-(longest // 4) :]


def printable_lines(text: str) -> str:
    """Text of some lines, such as a list of problems; those after the first are indented.

    A line break in a file's name thus never begins a line that looks like one of ours.
    """
    first, *others = (shortened(printable(line), _LONGEST_LINE) for line in text.split("\n"))
    margin = "" if all(line.startswith("  ") for line in others) else "  "
    return "\n".join([first, *(margin + line for line in others)])
