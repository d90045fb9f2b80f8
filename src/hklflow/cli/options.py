"""Options that several commands share, with their descriptions."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Directory = Annotated[Path, Parameter(help="Folder of the experiment.")]
AsJson = Annotated[bool, Parameter(help="JSON instead of a table.")]
Author = Annotated[str, Parameter(help="Who does this.")]
Comments = Annotated[str, Parameter(help="For people.")]
