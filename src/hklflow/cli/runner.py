"""Snakemake as a child of the watch: in a process group of its own, told to stop in order."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hklflow import templates
from hklflow.base.errors import HklflowError


def default_command(base: Path) -> list[str]:
    """Snakemake on the experiment's own ``Snakefile``, or on the installed workflow."""
    own = base / "Snakefile"
    snakefile = str(own) if own.is_file() else str(templates.root() / "Snakefile")
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile]
    return [*command, "--directory", str(base)]


class Run:
    """One run of a command and of all that it starts.

    Parameters
    ----------
    command : sequence of str
    base : Path
        Folder in which it runs; snakemake looks for profiles there.

    Raises
    ------
    HklflowError
        If the command cannot be started.
    """

    def __init__(self, command: Sequence[str], base: Path) -> None:
        environment = dict(os.environ)
        # The rules say `python`: it must be the one that hklflow is installed for.
        folders = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        environment["PATH"] = os.pathsep.join(folders)
        self._asked = 0
        try:
            self._process = subprocess.Popen(
                command, cwd=base, env=environment, stdin=subprocess.DEVNULL, process_group=0
            )
        except OSError as error:
            raise HklflowError(
                f"{command[0]} cannot be started ({error.strerror}); mend what follows `--`"
            ) from error

    def ended(self) -> int | None:
        """Exit code, once the command and all that it started are gone."""
        code = self._process.poll()
        if code is not None:
            # Jobs that outlived snakemake would write into the next run.
            self._signal(signal.SIGKILL)
        return code

    def stop(self) -> None:
        """Ask to stop: as by Ctrl-C, and by SIGTERM from the second time on."""
        self._signal(signal.SIGTERM if self._asked else signal.SIGINT)
        self._asked += 1

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # nobody is left
            return
