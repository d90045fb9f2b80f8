"""Run snakemake for `hklflow watch` in a separate process group, and stop it properly."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hklflow import templates
from hklflow.base.errors import HklflowError


def default_command(base: Path) -> list[str]:
    """Return the command for the experiment's ``Snakefile`` or the installed workflow."""
    local = base / "Snakefile"
    snakefile = str(local) if local.is_file() else str(templates.root() / "Snakefile")
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile]
    return [*command, "--directory", str(base)]


class Run:
    """Running command with all processes that it starts.

    Parameters
    ----------
    command : sequence of str
        Command and its arguments.
    base : Path
        Folder in which the command runs; snakemake searches for profiles in this folder.

    Raises
    ------
    HklflowError
        If the command cannot be started.
    """

    def __init__(self, command: Sequence[str], base: Path) -> None:
        environment = dict(os.environ)
        # The rules call `python`, which must be the Python of this hklflow.
        folders = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        environment["PATH"] = os.pathsep.join(folders)
        self._asked = 0
        try:
            self._process = subprocess.Popen(
                command, cwd=base, env=environment, stdin=subprocess.DEVNULL, process_group=0
            )
        except OSError as error:
            raise HklflowError(
                f"{command[0]} cannot be started ({error.strerror}); correct the command after `--`"
            ) from error

    def ended(self) -> int | None:
        """Return the exit code of the command; None while the command runs."""
        code = self._process.poll()
        if code is not None:
            # Kill remaining jobs, which would write into the results of the next run.
            self._signal(signal.SIGKILL)
        return code

    def stop(self) -> None:
        """Ask the command to stop: first by SIGINT (as Ctrl-C), then by SIGTERM."""
        self._signal(signal.SIGTERM if self._asked else signal.SIGINT)
        self._asked += 1

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # all processes have ended
            return
