"""Read cell, space group and formula of a CIF file with iotbx of cctbx.

The core dictionaries of version 1 (``_cell_length_a``) and 2 and mmCIF (``_cell.length_a``) are
understood, with the older names of symmetry (``_symmetry_equiv_pos_as_xyz``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError, printable
from hklflow.base.native import require_cctbx_is_safe
from hklflow.base.system import require_file
from hklflow.geometry import lattice
from hklflow.geometry.reduction import strain
from hklflow.geometry.symmetry import SpaceGroup, constrain_cell, group_of_operations, space_group

Cell = tuple[float, float, float, float, float, float]

_CELL = (
    *(f"_cell_length_{axis}" for axis in "abc"),
    *(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")),
)
_OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
# In the order of their precision: a symbol may leave the origin open, a number the axes.
_NAMES = {
    "Hall symbol": ("_space_group_name_hall", "_symmetry_space_group_name_hall"),
    "Hermann-Mauguin symbol": (
        "_space_group_name_h-m_alt",
        "_space_group_name_h-m_full",
        "_symmetry_space_group_name_h-m",
    ),
    "number": ("_space_group_it_number", "_symmetry_int_tables_number"),
}
_TEMPERATURES = ("_cell_measurement_temperature", "_diffrn_ambient_temperature")
# Larger than the rounding of a cell and than its errors; the symmetry of a cell is exact.
_MISFIT = 0.005

Block = Mapping[str, Sequence[str]]
"""Names in lower case with underscores for dots, and their values; one value for each loop row."""


@dataclass(frozen=True)
class Crystal:
    """Facts about a crystal from one data block.

    Attributes
    ----------
    block : str
        Name of the data block.
    cell : tuple of 6 float
        Å and degrees.
    space_group : str or None
        Symbol that `geometry.symmetry.space_group` accepts; None: not stated.
    formula : str
        Sum formula; empty: not stated.
    temperature : float or None
        Temperature at which the cell was measured, K.
    notes : tuple of str
    """

    block: str
    cell: Cell
    space_group: str | None
    formula: str
    temperature: float | None
    notes: tuple[str, ...] = ()


def read_cif(path: Path, block: str | None = None, symbol: str | None = None) -> Crystal:
    """Read the crystal in a CIF file.

    Parameters
    ----------
    path : Path
    block : str, optional
        Name of the data block; default: the only block with a cell.
    symbol : str, optional
        Space group that replaces the one in the file.

    Raises
    ------
    HklflowError
        If the file is no CIF, has no cell or several, has names of different space groups, or the
        cell does not obey the space group.
    """
    blocks = _blocks(path)
    name = _chosen(path, blocks, block)
    where = f"{path}, data block {printable(name)}"
    values = blocks[name]
    cell = _cell(values, where)
    group, notes = _group(values, where) if symbol is None else (space_group(symbol), [])
    if group is not None:
        group = _on_axes_of(cell, group) if symbol is None else group
        _require_obeyed(cell, group, where)
    formula = _text(values, ("_chemical_formula_sum",)) or ""
    kelvin = _text(values, _TEMPERATURES)
    return Crystal(
        name,
        cell,
        None if group is None else _symbol(group),
        printable(formula),
        None if kelvin is None else _number(kelvin, "temperature", where),
        tuple(notes),
    )


def _blocks(path: Path) -> dict[str, Block]:
    """Return the data blocks of a file."""
    require_file(path, "CIF file", "check the path")
    require_cctbx_is_safe()
    from iotbx.cif import reader
    from libtbx.utils import Sorry

    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        model = reader(input_string=text).model()
    except (Sorry, RuntimeError, ValueError) as error:
        raise HklflowError(
            f"{path} is not a CIF file ({' '.join(str(error).split())[:200]}); correct it or give "
            "another file"
        ) from error
    return {str(name): _normalised(model[name]) for name in model}


def _normalised(block: Any) -> Block:
    """Return all values of a block under names of the core dictionary."""
    values: dict[str, list[str]] = {}
    for key in block:
        value = block[key]
        listed = [value] if isinstance(value, str) else list(value)
        values[str(key).lower().replace(".", "_")] = [str(item) for item in listed]
    return values


def _chosen(path: Path, blocks: Mapping[str, Block], wanted: str | None) -> str:
    """Return the name of the block to be read."""
    with_cell = [name for name, values in blocks.items() if _CELL[0] in values]
    listed = ", ".join(map(printable, with_cell)) or "none"
    if wanted is not None:
        same = [name for name in with_cell if name.lower() == wanted.lower()]
        if not same:
            raise HklflowError(
                f"{path} has no data block {wanted!r} with a cell; blocks with a cell: {listed}"
            )
        return same[0]
    if not with_cell:
        raise HklflowError(
            f"{path} states no cell (_cell_length_a) in any data block; enter --cell and "
            "--space-group instead"
        )
    if len(with_cell) > 1:
        raise HklflowError(
            f"{path} has {len(with_cell)} data blocks with a cell: {listed}; select one: "
            f"--cif-block {printable(with_cell[0])} (in the configuration `cif_block`)"
        )
    return with_cell[0]


def _text(values: Block, names: Sequence[str]) -> str | None:
    """Return the first stated value; ``?`` and ``.`` state nothing."""
    for name in names:
        for value in values.get(name, ()):
            if value.strip() not in {"", "?", "."}:
                return " ".join(value.split())
    return None


def _number(text: str, what: str, where: str) -> float:
    """Return a number that may have its standard uncertainty in brackets."""
    match = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\(\d+\))?", text)
    if match is None:
        raise HklflowError(f"{where}: the {what} is {text!r}, not a number; correct it")
    return float(match[1])


def _cell(values: Block, where: str) -> Cell:
    numbers = []
    for name in _CELL:
        text = _text(values, (name,))
        if text is None:
            raise HklflowError(
                f"{where} states no {name}; add it, or enter --cell and --space-group instead"
            )
        numbers.append(_number(text, name, where))
    a, b, c, alpha, beta, gamma = numbers
    try:
        lattice.metric(numbers)
    except HklflowError as error:
        raise HklflowError(f"{where}: {error}") from error
    return a, b, c, alpha, beta, gamma


def _group(values: Block, where: str) -> tuple[SpaceGroup | None, list[str]]:
    """Return the space group from the operations, else from its most precise name, and notes."""
    groups: dict[str, SpaceGroup] = {}
    operations = next((values[name] for name in _OPERATIONS if values.get(name)), ())
    stated = [text for text in operations if text.strip() not in {"?", "."}]
    if stated:
        try:
            groups["symmetry operations"] = group_of_operations(stated)
        except HklflowError as error:
            raise HklflowError(f"{where}: {error}") from error
    notes = []
    for what, names in _NAMES.items():
        text = _text(values, names)
        if text is None:
            continue
        try:
            groups[what] = space_group(f"Hall: {text}" if what == "Hall symbol" else text)
        except HklflowError:
            notes.append(f"its {what} {text!r} of the space group is unknown and not used")
    if not groups:
        return None, notes
    first, *others = groups
    for other in others:
        if groups[other].number != groups[first].number:
            raise HklflowError(
                f"{where}: its {first} {'are' if first.endswith('s') else 'is'} of the space group "
                f"{groups[first].symbol}, its {other} is of {groups[other].symbol}; correct the "
                "file, or enter --space-group"
            )
    return groups[first], notes


def _misfit(cell: Cell, group: SpaceGroup) -> float:
    """Return the strain between a cell and the same cell with the symmetry of the group."""
    return float(strain(lattice.metric(cell), constrain_cell(cell, group)))


def _on_axes_of(cell: Cell, group: SpaceGroup) -> SpaceGroup:
    """Return the group on rhombohedral axes if the cell has them: its symbol may not say so."""
    if group.centring != "R" or _misfit(cell, group) <= _MISFIT:
        return group
    rhombohedral = space_group(f"{group.symbol.partition(' :')[0]} :R")
    return rhombohedral if _misfit(cell, rhombohedral) <= _MISFIT else group


def _require_obeyed(cell: Cell, group: SpaceGroup, where: str) -> None:
    """Require that the cell has the symmetry of the space group."""
    if (misfit := _misfit(cell, group)) > _MISFIT:
        written = " ".join(f"{x:.6g}" for x in cell)
        raise HklflowError(
            f"{where}: the cell {written} does not have the symmetry of {group.symbol} "
            f"({group.crystal_system}): it is off by {misfit:.1%}; correct the file, or enter "
            "--cell and --space-group instead"
        )


def _symbol(group: SpaceGroup) -> str:
    """Return a symbol of a space group that is read back as the same setting."""
    return group.symbol if space_group(group.symbol) == group else f"Hall: {group.hall}"
