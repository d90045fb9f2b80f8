"""Space groups, Laue groups and lattices, from cctbx.

Operations act on Miller indices as column vectors, ``h' = W h``. A change of basis has the same
form: ``h_new = M h_old``, and therefore ``UB_new = UB_old M⁻¹``.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.native import require_cctbx_is_safe
from hklflow.base.values import CELL_NAMES
from hklflow.geometry import lattice

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def _sgtbx() -> Any:
    require_cctbx_is_safe()
    from cctbx import sgtbx

    return sgtbx


@contextmanager
def _cctbx_errors(what: str) -> Iterator[None]:
    """Convert cctbx's RuntimeError to an `HklflowError`."""
    try:
        yield
    except RuntimeError as error:
        raise HklflowError(f"{what}: {error}") from error


@dataclass(frozen=True)
class SpaceGroup:
    """A space group in one setting.

    Attributes
    ----------
    symbol : str
        Hermann-Mauguin symbol of the setting, for example ``F d -3 m :2``.
    hall : str
        Hall symbol; it defines setting and origin.
    number : int
        Number in International Tables A (1 to 230).
    crystal_system : str
        One of triclinic, monoclinic, orthorhombic, tetragonal, trigonal, hexagonal, cubic.
    centring : str
        P, A, B, C, I, F, R (obverse) or H; P for rhombohedral axes.
    bravais : str
        Bravais type, for example ``oI``.
    laue : str
        Laue group, for example ``m-3m``.
    laue_operations : (n, 3, 3) int array
        The n operations of the Laue group on column vectors hkl; the first is the identity.
    operations : tuple of (m, 3, 3) int array and (m, 3) array
        Rotation parts and translations of all symmetry operations of coordinates ``x' = R x + t``
        (including the lattice translations of the centring).
    """

    symbol: str
    hall: str
    number: int
    crystal_system: str
    centring: str
    bravais: str
    laue: str
    laue_operations: Integers
    operations: tuple[Integers, Floats]

    def __hash__(self) -> int:
        return hash(self.hall)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpaceGroup) and self.hall == other.hall

    @cached_property
    def _cctbx(self) -> Any:
        return _sgtbx().space_group(self.hall)

    @property
    def proper_laue_operations(self) -> Integers:
        """Rotations (n, 3, 3) of the Laue group: operations with determinant +1."""
        keep = np.linalg.det(self.laue_operations) > 0
        proper: Integers = self.laue_operations[keep]
        return proper

    def is_absent(self, hkl: ArrayLike) -> NDArray[np.bool_]:
        """Return True for systematically absent reflections (n,) of hkl (n, 3)."""
        absent = self._cctbx.is_sys_absent(_miller_indices(hkl))
        return np.asarray(absent.as_numpy_array(), dtype=np.bool_)

    def asymmetric(self, hkl: ArrayLike, *, anomalous: bool = False) -> Integers:
        """Return the equivalents (n, 3) of hkl (n, 3) in the asymmetric unit of reciprocal space.

        Parameters
        ----------
        anomalous : bool
            True: keep Friedel mates separate. The mate of a reflection in the asymmetric unit is
            then mapped to the opposite of this reflection.
        """
        from cctbx import miller

        indices = _miller_indices(hkl)
        miller.map_to_asu(self._cctbx.type(), anomalous, indices)
        return np.array(indices.as_vec3_double()).astype(np.int64).reshape(-1, 3)

    def is_centric(self, hkl: ArrayLike) -> NDArray[np.bool_]:
        """Return True for centric reflections (n,) of hkl (n, 3), equivalent to Friedel mates."""
        return np.asarray(self._cctbx.is_centric(_miller_indices(hkl)), dtype=np.bool_)

    def epsilon(self, hkl: ArrayLike) -> Integers:
        """Return the number (n,) of point group operations that leave each hkl (n, 3) unchanged."""
        return np.asarray(self._cctbx.epsilon(_miller_indices(hkl)), dtype=np.int64)

    @cached_property
    def to_primitive(self) -> Floats:
        """Matrix M (3, 3) from hkl to the indices in a primitive cell, ``h_p = M h``.

        The determinant of M is positive, so that right-handed axes stay right-handed.
        """
        return hkl_matrix(self._cctbx.z2p_op())


def space_group(symbol: str | int) -> SpaceGroup:
    """Look up a space group.

    Parameters
    ----------
    symbol : str or int
        Hermann-Mauguin symbol with or without blanks (``Fd-3m``, ``P 1 21/c 1``), with an optional
        setting (``R -3 c :R``); Hall symbol, also as ``Hall: -P 4 2``; or the number. The default
        setting is cctbx's: unique axis b, origin choice 2, hexagonal axes.

    Raises
    ------
    HklflowError
        If the symbol or number is unknown.
    """
    return _space_group(str(symbol).strip())


@lru_cache(maxsize=512)
def _space_group(symbol: str) -> SpaceGroup:
    sgtbx = _sgtbx()
    info = None
    # Hermann-Mauguin comes first; symbols such as "P 3" are valid and equal in both notations.
    for spelling in (symbol, f"Hall: {symbol}"):
        try:
            info = sgtbx.space_group_info(spelling)
            break
        except (RuntimeError, ValueError):
            continue
    if info is None or not symbol:
        raise HklflowError(
            f"unknown space group {symbol!r}; use a Hermann-Mauguin symbol (Fd-3m, P 1 21/c 1, "
            "R -3 c :H), a Hall symbol or a number from 1 to 230"
        )
    group = info.group()
    every = [(op.r().as_double(), op.t().as_double()) for op in group.all_ops(1)]
    rotations = np.rint([r for r, _ in every]).astype(np.int64).reshape(-1, 3, 3)
    laue = [op.r().as_double() for op in group.build_derived_laue_group().all_ops()]
    # Indices as row vectors transform with R, h' = hR; therefore W = Rᵀ.
    on_hkl = np.rint(laue).astype(np.int64).reshape(-1, 3, 3).transpose(0, 2, 1)
    from cctbx.sgtbx.bravais_types import bravais_lattice

    return SpaceGroup(
        symbol=str(info),
        hall=str(info.type().hall_symbol()),
        number=int(info.type().number()),
        crystal_system=str(group.crystal_system()).lower(),
        centring=str(group.conventional_centring_type_symbol()),
        bravais=str(bravais_lattice(number=info.type().number())),
        laue=str(group.laue_group_type()),
        laue_operations=on_hkl,
        operations=(rotations, np.array([t for _, t in every], dtype=np.float64)),
    )


def group_of_operations(operations: Iterable[str]) -> SpaceGroup:
    """Return the space group that operations such as ``-x, y+1/2, -z`` generate, on their axes.

    Raises
    ------
    HklflowError
        If a text is no symmetry operation, or the operations do not form a group.
    """
    sgtbx = _sgtbx()
    group = sgtbx.space_group()
    text = ""
    try:
        for text in operations:
            group.expand_smx(sgtbx.rt_mx(text))
        hall = str(sgtbx.space_group_info(group=group).type().hall_symbol())
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise HklflowError(
            f"{text!r} is not an operation of a space group ({reason}); correct it"
        ) from error
    return space_group(f"Hall: {hall}")


def _miller_indices(hkl: ArrayLike) -> Any:
    from cctbx.array_family import flex

    rows = np.asarray(hkl, dtype=np.int32).reshape(-1, 3)
    columns = [flex.int(np.ascontiguousarray(rows[:, i])) for i in range(3)]
    return flex.miller_index(*columns)


def possible_reflections(
    cell: ArrayLike, group: SpaceGroup, d_min: float, *, anomalous: bool = False
) -> Integers:
    """Return all allowed hkl (n, 3) of the asymmetric unit with spacings of at least ``d_min``.

    Parameters
    ----------
    cell : (6,) array
    d_min : float
        Smallest spacing, Å.
    anomalous : bool
        Include the Friedel mates of acentric reflections.
    """
    of_crystal = crystal_symmetry(cell, group)
    from cctbx import miller

    built = miller.build_set(of_crystal, anomalous_flag=anomalous, d_min=d_min)
    reflections: Integers = (
        np.array(built.indices().as_vec3_double()).astype(np.int64).reshape(-1, 3)
    )
    return reflections


def crystal_symmetry(cell: ArrayLike, group: SpaceGroup) -> Any:
    """Return the group and the constrained cell (6,) as cctbx's ``crystal.symmetry``."""
    unit_cell = _unit_cell(constrain_cell(cell, group))
    from cctbx import crystal

    return crystal.symmetry(unit_cell=unit_cell, space_group=group._cctbx)


@lru_cache(maxsize=64)
def settings_alike(group: SpaceGroup) -> tuple[SpaceGroup, ...]:
    """Return the space groups with the same axes, Laue group and lattice translations.

    Searched are the 530 settings in International Tables B. The group itself is included.
    """
    groups = {group.hall: group}
    wanted = (_rotations(group.laue_operations), _translations(group))
    for symbols in _sgtbx().space_group_symbol_iterator():
        other = space_group(f"Hall: {symbols.hall()}")
        if (_rotations(other.laue_operations), _translations(other)) == wanted:
            groups.setdefault(other.hall, other)
    return tuple(sorted(groups.values(), key=lambda g: (g.number, g.symbol)))


@lru_cache(maxsize=64)
def settings_of(group: SpaceGroup) -> tuple[SpaceGroup, ...]:
    """Return the settings of a space group type among the 530 in International Tables B."""
    groups = {
        symbols.hall(): space_group(f"Hall: {symbols.hall()}")
        for symbols in _sgtbx().space_group_symbol_iterator()
        if symbols.number() == group.number
    }
    return tuple({other.hall: other for other in groups.values()}.values())


def _rotations(matrices: Integers) -> frozenset[bytes]:
    return frozenset(np.ascontiguousarray(m, np.int64).tobytes() for m in matrices)


def _translations(group: SpaceGroup) -> frozenset[tuple[int, ...]]:
    """Return the lattice translations of the centring, in units of 1/24."""
    rotations, shifts = group.operations
    pure = np.all(rotations == np.eye(3, dtype=np.int64), axis=(1, 2))
    return frozenset(tuple(int(x) for x in np.rint(24 * t) % 24) for t in shifts[pure])


def hkl_matrix(cb_op: Any) -> Floats:
    """Return M with ``h_new = M h_old`` of a cctbx change of basis ``x_new = C x_old``."""
    c = np.array(cb_op.c().r().as_double()).reshape(3, 3)
    m: Floats = np.linalg.inv(c).T
    # Elements are fractions with small denominators; rounding removes errors of the inversion.
    return np.round(m * 12) / 12


def _unit_cell(cell: ArrayLike) -> Any:
    require_cctbx_is_safe()
    from cctbx import uctbx

    lattice.metric(cell)
    return uctbx.unit_cell(tuple(float(x) for x in np.asarray(cell, dtype=np.float64)))


def _text(cell: ArrayLike) -> str:
    return " ".join(f"{x:.4f}" for x in np.asarray(cell, dtype=np.float64))


def constrain_cell(cell: ArrayLike, group: SpaceGroup) -> Floats:
    """Return the cell (6,) that satisfies the group, from the averaged metric of the input."""
    return np.array(group._cctbx.average_unit_cell(_unit_cell(cell)).parameters())


@dataclass(frozen=True)
class CellConstraints:
    """Free cell parameters of a space group, and their relation to the cell.

    Attributes
    ----------
    free : tuple of n str
        Names of the free parameters.
    matrix : (6, n) array
    fixed : (6,) array
        ``cell = matrix @ free + fixed``.
    """

    free: tuple[str, ...]
    matrix: Floats
    fixed: Floats

    def expand(self, values: ArrayLike) -> Floats:
        """Return the cell (6,) of the free parameters (n,)."""
        return self.matrix @ np.asarray(values, dtype=np.float64) + self.fixed

    def select(self, cell: ArrayLike) -> Floats:
        """Return the free parameters (n,) of a cell (6,) that satisfies the constraints."""
        chosen = [CELL_NAMES.index(name) for name in self.free]
        return np.asarray(cell, dtype=np.float64)[chosen]


@lru_cache(maxsize=512)
def cell_constraints(group: SpaceGroup) -> CellConstraints:
    """Return the free cell parameters of a space group's setting.

    Raises
    ------
    HklflowError
        If the constraints relate angles to lengths, as in a primitive setting of a face-centred
        group.
    """
    # Constrain different cells and see which parameters become fixed or equal. This works for every
    # setting without a table.
    probes = np.array([[5, 6.3, 8.1, 83, 97, 105], [7.2, 4.4, 9.5, 99, 88, 76]])
    cells = np.array([constrain_cell(probe, group) for probe in probes])
    free: list[int] = []
    matrix = np.zeros((6, 6))
    fixed = np.zeros(6)
    for i in range(6):
        partner = [j for j in free if np.allclose(cells[:, i], cells[:, j], atol=1e-6)]
        if np.ptp(cells[:, i]) < 1e-6:
            fixed[i] = np.round(cells[0, i], 9)
        elif partner:
            matrix[i, partner[0]] = 1
        else:
            free.append(i)
            matrix[i, i] = 1
    independent = (
        _sgtbx()
        .tensor_rank_2_constraints(space_group=group._cctbx, reciprocal_space=False)
        .n_independent_params()
    )
    if len(free) != independent:
        raise HklflowError(
            f"space group {group.symbol} in this setting relates cell angles to lengths "
            f"({independent} free parameters, {len(free)} vary); use its conventional setting"
        )
    return CellConstraints(tuple(CELL_NAMES[i] for i in free), matrix[:, free], fixed)


def niggli(cell: ArrayLike, group: SpaceGroup | None = None) -> tuple[Floats, Floats]:
    """Return the Niggli-reduced cell and the matrix of the reduction.

    Parameters
    ----------
    cell : (6,) array
    group : SpaceGroup, optional
        Group with the centring; None for a primitive cell.

    Returns
    -------
    reduced : (6,) array
    matrix : (3, 3) array
        ``h_reduced = matrix @ h``, determinant > 0.
    """
    unit_cell = _unit_cell(cell)
    from cctbx import crystal

    symmetry = crystal.symmetry(
        unit_cell=unit_cell,
        space_group=_sgtbx().space_group("P 1") if group is None else group._cctbx,
        assert_is_compatible_unit_cell=False,
    )
    with _cctbx_errors(f"the cell {_text(cell)} cannot be reduced"):
        cb_op = symmetry.change_of_basis_op_to_niggli_cell()
    reduced = np.array(unit_cell.change_basis(cb_op).parameters())
    return reduced, hkl_matrix(cb_op)


def between_settings(group: SpaceGroup, target: SpaceGroup) -> Floats:
    """Return the matrix M (3, 3) between the settings of two groups of the same Bravais type.

    ``h_target = M h``. M is the change of basis via the reference settings of International
    Tables A.
    """
    steps = []
    for member in (group, target):
        info = _sgtbx().space_group_info(group=member._cctbx)
        steps.append(hkl_matrix(info.change_of_basis_op_to_reference_setting()))
    matrix: Floats = np.linalg.inv(steps[1]) @ steps[0]
    return matrix


@dataclass(frozen=True)
class BravaisSetting:
    """A conventional cell that a lattice has within a tolerance.

    Attributes
    ----------
    bravais : str
        Bravais type, for example ``oI``.
    group : SpaceGroup
        Most symmetric symmorphic group of the lattice in this setting, for example ``I m m m``.
    cell : (6,) array
        Conventional cell, constrained.
    matrix : (3, 3) array
        ``h_setting = matrix @ h_input``.
    delta : float
        Largest angle in degrees between a two-fold axis of the direct and of the reciprocal
        lattice (Le Page, J. Appl. Cryst. 15, 255, 1982); 0 if the symmetry is exact.
    """

    bravais: str
    group: SpaceGroup
    cell: Floats
    matrix: Floats
    delta: float


def bravais_settings(cell: ArrayLike, max_delta: float = 1.0) -> list[BravaisSetting]:
    """List the settings that the metric of a primitive cell allows, most symmetric first.

    Parameters
    ----------
    cell : (6,) array
        Primitive cell.
    max_delta : float
        Largest `BravaisSetting.delta`, degrees.
    """
    unit_cell = _unit_cell(cell)
    from cctbx import crystal
    from cctbx.sgtbx import lattice_symmetry
    from cctbx.sgtbx.bravais_types import bravais_lattice

    symmetry = crystal.symmetry(unit_cell=unit_cell, space_group_symbol="P 1")
    with _cctbx_errors(f"the lattice symmetry of {_text(cell)} cannot be found"):
        results = lattice_symmetry.metric_subgroups(symmetry, max_delta=max_delta).result_groups
    settings = []
    for item in results:
        subgroup = item["best_subsym"].space_group()
        group = space_group(f"Hall: {subgroup.type().hall_symbol()}")
        cb_op = item["cb_op_inp_best"]
        settings.append(
            BravaisSetting(
                bravais=str(bravais_lattice(group=subgroup)),
                group=group,
                cell=constrain_cell(unit_cell.change_basis(cb_op).parameters(), group),
                matrix=hkl_matrix(cb_op),
                delta=float(item["max_angular_difference"]),
            )
        )
    # The sort is stable, so that ties keep the order of cctbx.
    return sorted(settings, key=lambda s: (-len(s.group.laue_operations), round(s.delta, 3)))


def lattice_rotations(
    cell: ArrayLike, group: SpaceGroup | None = None, max_delta: float = 1.0
) -> Floats:
    """Return the rotations (n, 3, 3) on hkl that map the lattice to itself within ``max_delta``°.

    For a centred cell, matrix elements can be fractions. The first rotation is the identity.
    """
    reduced, matrix = niggli(cell, group)
    from cctbx.sgtbx import lattice_symmetry

    point_group = lattice_symmetry.group(_unit_cell(reduced), max_delta)
    rotations = np.array([op.r().as_double() for op in point_group.all_ops()]).reshape(-1, 3, 3)
    rotations = rotations[np.linalg.det(rotations) > 0].transpose(0, 2, 1)
    on_hkl: Floats = np.linalg.inv(matrix) @ rotations @ matrix
    return np.round(on_hkl * 12) / 12


def cosets(operations: ArrayLike, group: SpaceGroup) -> list[Floats]:
    """Return one operation of each coset of the Laue group, without the group itself.

    Parameters
    ----------
    operations : (n, 3, 3) array
        Operations on hkl column vectors.
    """
    # If L is in the Laue group, UB W and UB W L are equivalent indexings of the crystal.
    known = list(group.laue_operations.astype(np.float64))
    chosen = []
    for operation in np.asarray(operations, dtype=np.float64).reshape(-1, 3, 3):
        if not any(np.allclose(operation, other, atol=1e-6) for other in known):
            chosen.append(operation)
            known += [operation @ laue for laue in group.laue_operations]
    return chosen


def reindexing_operators(
    cell: ArrayLike, group: SpaceGroup, max_delta: float = 1.0
) -> list[Floats]:
    """Return the lattice rotations outside the crystal's Laue group, one of each coset.

    ``h' = W h`` indexes the lattice as well as h, but with another orientation of the structure.
    The list is empty if the indexing is unique.
    """
    return cosets(lattice_rotations(cell, group, max_delta), group)
