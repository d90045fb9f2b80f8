"""Results in Python: cuts of volumes with errors, and tables, as xarray objects.

`hklflow.open` opens any product. Numbers are read from the file when a method needs them.
"""

from hklflow.results.opening import open_result
from hklflow.results.volume import Volume

__all__ = ["Volume", "open_result"]
