"""Where the workflow, its profiles and the templates of an experiment are.

In a clone they stand in the repository's folder; a wheel carries them beside this module.
A ``Snakefile`` of an experiment finds the workflow here, so it holds no path of a machine.
"""

from pathlib import Path

from hklflow.base.errors import HklflowError

_IN_WHEEL = Path(__file__).parent / "_workflow"
_IN_CLONE = Path(__file__).parents[2]


def root() -> Path:
    """Folder that holds ``Snakefile``, ``workflow``, ``profiles`` and ``config``.

    Raises
    ------
    HklflowError
        If the installation lacks them.
    """
    for folder in (_IN_WHEEL, _IN_CLONE):
        if (folder / "workflow/Snakefile").is_file():
            return folder
    raise HklflowError(
        f"the workflow is neither in {_IN_WHEEL} nor in {_IN_CLONE}; install hklflow again"
    )


def snakefile() -> str:
    """Path of the workflow, to be included in an experiment's ``Snakefile``."""
    return str(root() / "workflow/Snakefile")
