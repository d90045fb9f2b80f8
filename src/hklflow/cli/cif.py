"""The options `--cif` and `--cif-block`: cell, space group and formula from a CIF file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from hklflow.base.errors import HklflowError, printable

if TYPE_CHECKING:
    from hklflow.formats.cif import Cell, Crystal


@Parameter(name="*")
@dataclass(frozen=True)
class Cif:
    """CIF file with facts about a new sample."""

    cif: Path | None = None
    """CIF file with the cell, the space group and the formula of a new sample."""
    cif_block: str | None = None
    """Data block of the CIF file. Default: the only block with a cell."""

    def crystal(self, space_group: str | None, cell: "Cell | None") -> "Crystal | None":
        """Read and print the crystal in the file; None without a file.

        Parameters
        ----------
        space_group, cell
            Facts that the user states.

        Raises
        ------
        HklflowError
            If the file cannot be used, has no space group, or the user states the cell too.
        """
        if self.cif is None:
            if self.cif_block is not None:
                raise HklflowError(f"--cif-block {self.cif_block} needs a file: --cif")
            return None
        if cell is not None:
            raise HklflowError(f"--cell and --cif {self.cif} both state the cell; give one of them")
        from hklflow.formats.cif import read_cif

        crystal = read_cif(self.cif, self.cif_block, space_group)
        if crystal.space_group is None:
            raise HklflowError(
                f"{self.cif}, data block {printable(crystal.block)}, states no space group; enter "
                "--space-group (P 1 if it is not known)"
            )
        cell_text = " ".join(f"{x:.6g}" for x in crystal.cell)
        warm = "" if crystal.temperature is None else f" at {crystal.temperature:g} K"
        source = f"{self.cif}, data block {crystal.block}"
        print(printable(f"from {source}: cell {cell_text}{warm}, {crystal.space_group}"))
        for note in crystal.notes:
            print(printable(f"  {note}"))
        return crystal
