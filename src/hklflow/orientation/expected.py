"""Crystal that indexing expects: the limits of indexing, and lattices that cannot be right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation, lattice, symmetry
from hklflow.geometry.reduction import matching_settings, strain
from hklflow.orientation import local_lattice
from hklflow.orientation.indexing import (
    Indexing,
    index_peaks,
    most_violations,
    reaches,
    violations,
)
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]

SHAPE = 0.02
"""Strain between cells of the same shape."""
_SPARSE = 6.0  # median distance in hkl of neighbouring peaks from which it is reported
_SPARSER = 3.0  # ratio of this distance to other rotations' from which it is reported
_FEW = 20  # peaks of a rotation from which it is compared with others
_CONTRADICTING = 3  # reflections that a setting forbids, and another on the same axes does not
_SHORTEST = 1.9  # Å; no crystal has a shorter lattice vector


@dataclass(frozen=True)
class SearchedLattice:
    """The limits of indexing, and the expected crystal."""

    cell: Sequence[float] | Floats | None
    group: symmetry.SpaceGroup
    tolerance: float
    cell_tolerance: float
    min_fraction: float

    def index(
        self, rotations: Sequence[Rotation], peaks: Sequence[Peaks], strength: Floats
    ) -> Indexing | None:
        """Index the peaks in a geometry; None: too few are indexed, or by an impossible cell."""
        try:
            indexing = index_peaks(
                local_lattice.vectors(rotations, peaks),
                cell=self.cell,
                group=self.group,
                tolerance=self.tolerance,
                cell_tolerance=self.cell_tolerance,
                min_fraction=self.min_fraction,
                strength=strength,
            )
            require_possible(indexing)
        except HklflowError:
            return None
        return indexing

    @property
    def reaches(self) -> list[float]:
        """Maximum lengths of lattice vectors in Å of the successive searches."""
        return reaches(self.cell, self.group, 50.0)


def require_possible(indexing: Indexing) -> None:
    """Raise if a lattice vector is shorter than the vectors of any crystal."""
    reduced, _ = symmetry.niggli(indexing.cell, indexing.candidates[0].group)
    if min(reduced[:3]) < _SHORTEST:
        raise HklflowError(
            f"the lattice found has a vector of {min(reduced[:3]):.3g} Å, shorter than in any "
            "crystal; check the wavelength (in nm?) and the distance"
        )


def sparse(ub: Floats, vectors: Sequence[Floats], names: Sequence[str]) -> list[str]:
    """Return notes if neighbouring peaks are many lattice points apart.

    A lattice with far too many points indexes any peaks: of a wavelength in nm, a thousand times
    as many as the crystal has. In a single rotation with this error, all hkl are multiples of 10.

    Parameters
    ----------
    vectors : sequence of (n, 3) arrays
        Scattering vectors of each rotation.
    names : sequence of str
        Names of the rotations.
    """
    cause = "if the crystal is not that weak, the wavelength (in nm?) or the cell is wrong"
    whole = _apart(ub, np.concatenate(vectors))
    if whole >= _SPARSE:
        return [f"neighbouring peaks are {whole:.0f} lattice points apart: {cause}"]
    apart = {name: _apart(ub, g) for name, g in zip(names, vectors, strict=True) if len(g) >= _FEW}
    return [
        f"neighbouring peaks of {name} are {one:.0f} lattice points apart, and of other rotations "
        f"{min(apart.values()):.0f}: the wavelength of {name} (in nm?) is perhaps wrong; if so, "
        f"set `import_scan: {{wavelengths: {{{name}: ...}}}}`"
        for name, one in apart.items()
        if one >= max(_SPARSE, _SPARSER * min(apart.values()))
    ]


def _apart(ub: Floats, g: Floats) -> float:
    """Return the median distance of a peak from the nearest other one, in lattice points."""
    hkl = np.rint(g @ np.linalg.inv(ub).T)
    hkl = np.unique(np.vstack([hkl, -hkl]), axis=0)
    distances, _ = cKDTree(hkl).query(hkl, k=[2])
    return float(np.median(distances))


def in_other_setting(
    ub: Floats, cell: ArrayLike | None, group: symmetry.SpaceGroup, tolerance: float
) -> bool:
    """Return True if a lattice is the expected cell's, taken in another setting of the group."""
    if cell is None:
        return False
    primitive = ub @ np.linalg.inv(group.to_primitive)
    return any(
        setting.ratio == 1
        for _, other in other_settings(cell, group)
        for setting in matching_settings(primitive, other, group, tolerance)
    )


def other_settings(cell: ArrayLike, group: symmetry.SpaceGroup) -> Iterator[tuple[str, Floats]]:
    """Yield the symbols of other settings to which a cell may belong, and the cell of the group.

    Parameters
    ----------
    cell : (6,) array
        Cell in an unknown setting of the space group.
    group : SpaceGroup

    Yields
    ------
    symbol : str
        Setting.
    cell : (6,) array
        The same lattice in the setting of ``group``.
    """
    given = np.asarray(cell, dtype=np.float64)
    yielded = [given]
    for other in symmetry.settings_of(group):
        metric = lattice.metric(given)
        if strain(metric, symmetry.constrain_cell(given, other)) > SHAPE:
            continue
        converted = _converted(given, other, group)
        if not any(np.allclose(converted, known, rtol=1e-4) for known in yielded):
            yielded.append(converted)
            yield other.symbol, converted


def _converted(cell: Floats, setting: symmetry.SpaceGroup, target: symmetry.SpaceGroup) -> Floats:
    """Return the cell of a lattice in another setting of its space group."""
    ub = lattice.b_matrix(cell) @ np.linalg.inv(symmetry.between_settings(setting, target))
    return lattice.cell_from_metric((2 * np.pi) ** 2 * np.linalg.inv(ub.T @ ub))


def settings_by_absences(
    cell: ArrayLike, hkl: NDArray[np.int64], group: symmetry.SpaceGroup
) -> list[tuple[str, Floats, int]]:
    """Return the settings on the axes of a cell that forbid far fewer reflections than its group.

    The cell of P b n m is also one of P n m a, and all peaks are indexed: only the reflections at
    systematic absences differ. Each setting has a symbol, the same lattice in the setting of
    ``group``, and the number of forbidden reflections, fewest first.

    Parameters
    ----------
    cell : (6,) array
    hkl : (n, 3) array
        Observed reflections on the axes of the cell.
    group : SpaceGroup
        Expected space group, in the expected setting.
    """
    alike = [one for one in symmetry.settings_alike(group) if one.number == group.number]
    absent = {one.hall: int(one.is_absent(hkl).sum()) for one in alike}
    allowed = most_violations(list(absent.values()))
    distinct = _without_friedel_mates(hkl)
    own = group.is_absent(distinct)
    fits = []
    for one in alike:
        other = one.is_absent(distinct)
        contradicting, confirming = (own & ~other).sum(), (other & ~own).sum()
        if absent[one.hall] <= allowed and contradicting >= _CONTRADICTING + 2 * confirming:
            converted = _converted(np.asarray(cell, dtype=np.float64), one, group)
            fits.append((one.symbol, converted, absent[one.hall]))
    return sorted(fits, key=lambda fit: fit[2])


def _without_friedel_mates(hkl: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each reflection once, without its opposite."""
    sign = np.sign(hkl @ np.array([10**12, 10**6, 1]))
    return np.unique(hkl * sign[:, None], axis=0)


def fitting_settings(
    ub: Floats,
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
) -> list[tuple[str, Floats, int]]:
    """Return the settings of the expected cell that index the peaks, fewest violations first.

    Several settings may have the same lattice (the cell of A m a m is also one of A m m a): their
    systematic absences decide. Each has a symbol, a cell and the number of peaks at absences.
    """
    assert searched.cell is not None
    g = local_lattice.vectors(rotations, peaks)
    fits = []
    for symbol, cell in other_settings(searched.cell, searched.group):
        matching = matching_settings(ub, cell, searched.group, searched.cell_tolerance)
        if not any(setting.ratio == 1 for setting in matching):
            continue
        indexing = replace(searched, cell=cell).index(rotations, peaks, strength)
        if indexing is not None:
            absent = violations(indexing.ub, g[indexing.indexed], searched.group)
            fits.append((symbol, cell, absent))
    allowed = most_violations([absent for _, _, absent in fits]) if fits else 0
    return sorted((fit for fit in fits if fit[2] <= allowed), key=lambda fit: fit[2])
