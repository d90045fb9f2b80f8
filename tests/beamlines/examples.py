"""Sources that the plugins' own tests make, for the contract that all plugins keep."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A source of a plugin.

    Attributes
    ----------
    source : Path
        File or folder to look in.
    rotations : set of (sample, scan, rotation)
        What must be found, and nothing else.
    ask : mapping
        Further fields of the request; options by their names.
    """

    source: Path
    rotations: set[tuple[str, str, str]]
    ask: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


EXAMPLES: dict[str, Callable[[Path], Example]] = {}


def example(
    beamline: str,
) -> Callable[[Callable[[Path], Example]], Callable[[Path], Example]]:
    """Register what makes an example of a plugin in an empty folder."""

    def register(make: Callable[[Path], Example]) -> Callable[[Path], Example]:
        EXAMPLES[beamline] = make
        return make

    return register
