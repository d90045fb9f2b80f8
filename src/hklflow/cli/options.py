"""Options that several commands share, with their descriptions."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Directory = Annotated[Path, Parameter(help="Folder of the experiment.")]
AsJson = Annotated[bool, Parameter(help="Print JSON instead of a table.")]
Author = Annotated[str, Parameter(help="Name of the person who does this.")]
Comments = Annotated[str, Parameter(help="Comment, kept in the record.")]
