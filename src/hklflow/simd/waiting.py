"""One line on standard error when a process has been compiling kernels for some time.

On a new installation, or a processor whose code is not stored yet, the first jobs compile for
minutes. Without a word, they look as if they hung.
"""

import sys
import time

from hklflow.simd import private

_PATIENCE = 10.0  # s; a single new kernel is no news
_SENTENCE = (
    "compiling kernels, once for this installation and processor; this can take some minutes "
    "(`python -m hklflow.experiment.warm` does it in advance, on all cores)"
)


class Compilations:
    """Adds up the time of compilations, and says so once when it is long.

    Kernels that others call are compiled within the compilation of their callers; only the
    outermost is timed.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._began = 0.0
        self._total = 0.0
        self._said = False

    def begins(self) -> None:
        """Note when the outermost compilation begins."""
        if self._depth == 0:
            self._began = time.monotonic()
        self._depth += 1

    def ends(self) -> None:
        """Add the time of the outermost compilation; print the line if it is long."""
        now = time.monotonic()
        self._depth -= 1
        running = now - self._began
        if self._depth == 0:
            self._total += running
            running = 0.0
        if not self._said and self._total + running > _PATIENCE:
            self._said = True
            print(_SENTENCE, file=sys.stderr, flush=True)


def announce() -> None:
    """Announce long compilations of this process."""
    compilations = Compilations()
    private.watch_compilations(compilations.begins, compilations.ends)
