"""Orientation of a scan: the result of a refinement, which later stages read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import (
    Detector,
    Rotation,
    detector_from_dict,
    detector_to_dict,
    from_dict,
    lattice,
    to_dict,
)
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import SpaceGroup, space_group
from hklflow.orientation.inherited import InheritedErrors

Floats = NDArray[np.float64]


class Parameter(NamedTuple):
    """Value and standard deviation of a refined parameter, in units of `geometry.parameters`."""

    value: float
    sigma: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Identity:
    """Scan, sample and parent of an orientation, and the settings of its refinement.

    Attributes
    ----------
    sample, scan : str
    temperature : float or None
        Temperature of the scan in K.
    space_group : str
        Symbol of the space group of the parent, with its setting.
    parent : str
        Scan from whose orientation the refinement started; a parent is its own parent.
    parent_temperature : float or None
        Temperature of the parent in K.
    cell_constraints : str or None
        Space group whose constraints the cell obeys. None if the cell is not constrained.
    fixed : bool
        True if the orientation was not refined.
    engine : mapping
        Programs that found the spots and refined the crystal, see `dials.engine`.
    """

    sample: str
    scan: str
    temperature: float | None
    space_group: str
    parent: str
    parent_temperature: float | None
    cell_constraints: str | None
    fixed: bool
    engine: Mapping[str, Any]

    def identity(self) -> dict[str, Any]:
        """Return names and values of the attributes of `Identity`, JSON-ready."""
        return {item.name: getattr(self, item.name) for item in fields(Identity)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Orientation(Identity):
    """Lattice, orientation and geometry of a scan: ``orientation.json``, ``converged.json``.

    Attributes
    ----------
    cell, cell_sigma : (6,) array
        Cell and its standard deviations, Å and degrees, with the inherited errors.
    cell_covariance : (6, 6) array
        Covariance of the cell, in the same units.
    u : (3, 3) array
        Rotation from the Cartesian frame of the crystal to the frame of the goniometer.
    ub : (3, 3) array
        UB in 1/Å with 2π.
    orientation_sigma : (3,) array
        Standard deviations of the rotation about the axes of the goniometer's frame, degrees, with
        the inherited errors.
    inherited : InheritedErrors
        Part of these covariances from the geometry of the parent; 0 for a parent.
    rotations : mapping
        Refined geometry of each rotation by name, in the order of the scan.
    calibrated_detectors : mapping
        Calibrated detector of each rotation by name, with which the refinement started.
    offsets : mapping
        Offset (3,) of the crystal from the rotation axis, in the goniometer's frame, m, by the name
        of the rotation; only rotations in which it was refined.
    grid : Grid
        Grid of the parent.
    refined_parameters : mapping
        Values with errors, by the name of the parameter. These errors are without the inherited
        errors.
    parameter_covariance : (n, n) array
        Covariance of the n refined parameters.
    metrics : mapping
        Numbers on the quality of the refinement.
    figures : mapping
        Numbers of `orientation.transition` and other modules, which `quality` judges.
    warnings : sequence of str
    started_from : mapping or None
        Programs of the previous refinement; only after a converged refinement.
    converged : mapping or None
        History of the convergence, see `bragg.convergence.section`; None if `converge` was not run.
    """

    cell: Floats
    cell_sigma: Floats
    cell_covariance: Floats
    u: Floats
    ub: Floats
    orientation_sigma: Floats
    inherited: InheritedErrors
    rotations: Mapping[str, Rotation]
    calibrated_detectors: Mapping[str, Detector]
    grid: Grid
    refined_parameters: Mapping[str, Parameter]
    parameter_covariance: Floats
    metrics: Mapping[str, Any]
    figures: Mapping[str, Any]
    warnings: Sequence[str]
    started_from: Mapping[str, Any] | None = None
    converged: Mapping[str, Any] | None = None
    offsets: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def group(self) -> SpaceGroup:
        """Space group of the crystal."""
        return space_group(self.space_group)

    @property
    def constraints(self) -> SpaceGroup:
        """Space group whose constraints the cell obeys; P 1 if the cell is not constrained."""
        return space_group(self.cell_constraints or "P 1")

    @property
    def reference_detector(self) -> Detector:
        """Detector of the first rotation, the reference for the solid angles of all rotations."""
        return next(iter(self.rotations.values())).detector

    @property
    def volume(self) -> float:
        """Volume of the cell in Å³."""
        return lattice.volume(self.cell)

    @property
    def own_cell_sigma(self) -> Floats:
        """Standard deviations (6,) of the cell without the error that scans of a parent share."""
        variance = self.cell_sigma**2 - np.diag(self.inherited.cell)
        return np.sqrt(np.maximum(variance, 0.0))

    @property
    def fraction_indexed(self) -> float:
        """Fraction of the peaks that are on the lattice within their errors; NaN without peaks.

        Unlike the fraction in `metrics`, it does not depend on `hkl_tolerance` of the refinement.
        """
        unindexed = self.figures["fraction unindexed"]
        return float("nan") if unindexed is None else 1 - unindexed

    def rotation(self, name: str) -> Rotation:
        """Return the refined geometry of one rotation.

        Raises
        ------
        HklflowError
            If no rotation has this name.
        """
        if name not in self.rotations:
            raise HklflowError(
                f"the orientation of {self.sample} {self.scan} has no rotation {name!r} (it has "
                f"{', '.join(self.rotations)}); give one of these, or refine that scan again"
            )
        return self.rotations[name]

    @classmethod
    def known(
        cls, scan: str, rotations: Mapping[str, Rotation], ub: ArrayLike, group: str, grid: Grid
    ) -> "Orientation":
        """Return the orientation of a known crystal, without peaks and without refinement."""
        u, cell = lattice.decompose_ub(ub)
        return cls(
            sample="known",
            scan=scan,
            temperature=None,
            space_group=group,
            parent=scan,
            parent_temperature=None,
            cell_constraints=group,
            fixed=True,
            engine={},
            cell=cell,
            cell_sigma=np.zeros(6),
            cell_covariance=np.zeros((6, 6)),
            u=u,
            ub=_array(ub),
            orientation_sigma=np.zeros(3),
            inherited=InheritedErrors.none(),
            rotations=rotations,
            calibrated_detectors={name: one.detector for name, one in rotations.items()},
            grid=grid,
            refined_parameters={},
            parameter_covariance=np.zeros((0, 0)),
            metrics={"peaks": 0},
            figures={"fraction unindexed": None},
            warnings=(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        added = {"started from": self.started_from, "converged": self.converged}
        return {
            **self.identity(),
            "cell": self.cell,
            "cell_sigma": self.cell_sigma,
            "cell_covariance": self.cell_covariance,
            "U": self.u,
            "UB": self.ub,
            "orientation_sigma_deg": self.orientation_sigma,
            "inherited_cell_covariance": self.inherited.cell,
            "inherited_orientation_covariance_deg2": self.inherited.orientation,
            "rotations": {name: to_dict(item) for name, item in self.rotations.items()},
            "calibrated_detectors": {
                name: detector_to_dict(item) for name, item in self.calibrated_detectors.items()
            },
            "crystal_offsets_m": dict(self.offsets),
            "grid": self.grid.to_dict(),
            "refined_parameters": {
                name: parameter._asdict() for name, parameter in self.refined_parameters.items()
            },
            "parameter_covariance": self.parameter_covariance,
            "metrics": self.metrics,
            "symmetry": self.figures,
            "warnings": list(self.warnings),
            **{key: value for key, value in added.items() if value is not None},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: object) -> "Orientation":
        """Read the content of the JSON file; inverse of `to_dict`.

        Parameters
        ----------
        where : object
            File name for error messages.

        Raises
        ------
        HklflowError
            If an entry is missing or invalid.
        """
        try:
            return cls(
                **{item.name: data[item.name] for item in fields(Identity)},
                cell=_array(data["cell"]),
                cell_sigma=_array(data["cell_sigma"]),
                cell_covariance=_array(data["cell_covariance"]),
                u=_array(data["U"]),
                ub=_array(data["UB"]),
                orientation_sigma=_array(data["orientation_sigma_deg"]),
                inherited=InheritedErrors(
                    _array(data["inherited_cell_covariance"]),
                    _array(data["inherited_orientation_covariance_deg2"]),
                ),
                rotations={name: from_dict(one) for name, one in data["rotations"].items()},
                calibrated_detectors={
                    name: detector_from_dict(one)
                    for name, one in data["calibrated_detectors"].items()
                },
                grid=Grid.from_dict(data["grid"]),
                refined_parameters={
                    name: Parameter(one["value"], one["sigma"])
                    for name, one in data["refined_parameters"].items()
                },
                parameter_covariance=_array(data["parameter_covariance"]),
                metrics=data["metrics"],
                figures=data["symmetry"],
                warnings=data["warnings"],
                started_from=data.get("started from"),
                converged=data.get("converged"),
                offsets={name: _array(one) for name, one in data["crystal_offsets_m"].items()},
            )
        except KeyError as error:
            raise HklflowError(
                f"{where} has no {error.args[0]!r}: an older hklflow wrote it, or it is not an "
                "orientation; refine that scan again"
            ) from None
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise HklflowError(
                f"{where} is not an orientation ({type(error).__name__}: {error}); refine that "
                "scan again"
            ) from None


def _array(value: ArrayLike) -> Floats:
    return np.asarray(value, dtype=np.float64)
