"""Report on the modules of the detector after the loop of `bragg.converge`.

Displaced modules are reported and fitted; the reduction keeps its geometry.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hklflow.base.errors import HklflowError
from hklflow.quality import remedies

if TYPE_CHECKING:
    from hklflow.bragg.converge import Loop, Outcome
    from hklflow.bragg.residual_map import Row
    from hklflow.geometry.modules import Modules
    from hklflow.orientation.displaced_modules import Displaced

Record = dict[str, Any]


class ModuleReport(NamedTuple):
    """Residuals and displacements of the modules.

    Attributes
    ----------
    tables : list of list of Row
        Residuals by module for each iteration.
    rows : list of Row
        Residuals of the kept iteration, or of the first refinement.
    level : dict
        Fitted displacements, or the reason why there are none.
    """

    modules: "Modules | None"
    tables: "list[list[Row]]"
    rows: "list[Row]"
    displaced: "Sequence[Displaced]"
    level: Record

    def warnings(self, sample: str, scan: str) -> list[str]:
        """Return sentences on displaced modules, with the remedy."""
        if not self.displaced:
            return []
        command = remedies.module_calibration(sample, scan)
        cure = f"`{command}` makes the displacements in modules.json part of the calibration"
        if "why not" in self.level:
            cure = (
                f"they could not be fitted ({self.level['why not']}): calibrate the modules, with "
                "`hklflow calibration propose NAME --level module` and a scan or powder images "
                "that cover them"
            )
        sentences = "; ".join(module.told() for module in self.displaced)
        return [f"{sentences}: spots on them are integrated at wrong positions; {cure}"]

    def to_dict(self, sample: str, scan: str) -> Record:
        """Return the content of ``modules.json``."""
        level = self.level
        return {
            "sample": sample,
            "scan": scan,
            "start": None if self.modules is None else self.modules.to_dict(),
            "residuals": [row.to_dict() for row in self.rows],
            "displaced": [module.to_dict() for module in self.displaced],
            "fit": None if "why not" in level else level,
            "why not": level.get("why not"),
            "propose with": None
            if "why not" in level
            else remedies.module_calibration(sample, scan),
        }


def examine(
    loop: "Loop", outcome: "Outcome", modules: "Modules | None", *, least: float, spots: int
) -> ModuleReport:
    """Compute the residuals by module, and fit the modules if some are displaced.

    Parameters
    ----------
    least : float
        Smallest displacement that is reported, pixels.
    spots : int
        Spots needed to judge a module.
    """
    from hklflow.bragg import residual_map

    tables = [
        [] if item.spots is None else residual_map.by_module(item.spots, modules)
        for item in outcome.iterations
    ]
    displaced = _displaced(loop, outcome, modules, least, spots)
    level = _level(loop, outcome, modules, displaced)
    return ModuleReport(modules, tables, tables[outcome.best or 1], displaced, level)


def _displaced(
    loop: "Loop", outcome: "Outcome", modules: "Modules | None", least: float, spots: int
) -> "list[Displaced]":
    """Return the displaced modules from the spots of the kept refinement, or of the first."""
    from hklflow.orientation.displaced_modules import displaced

    kept = outcome.kept.refined
    refined = kept or outcome.iterations[1].refined
    if modules is None or refined is None:
        return []
    refinement = loop.fitted if kept is None else outcome.data
    return displaced(refined, refinement, loop.group, loop.free, modules, least=least, spots=spots)


def _level(
    loop: "Loop",
    outcome: "Outcome",
    modules: "Modules | None",
    displaced: "Sequence[Displaced]",
) -> Record:
    """Return the displacements of the modules, or the reason why there are none."""
    from hklflow.bragg import converge, residual_map
    from hklflow.bragg.congruence import halves
    from hklflow.calibration.bragg_level import halves_agree, module_level

    if modules is None or not displaced:
        return {"why not": "no module is displaced by as much as `module_offset` and beyond chance"}
    model = outcome.kept.model
    refined = outcome.data
    # A common motion of all modules is a motion of the detector, which is fixed here.
    free = [group for group in loop.free if not group.startswith("detector")]
    try:
        level = module_level(
            model.rotations, refined, model.ub, loop.group, modules, free=free,
            limits=loop.limits,
        )  # fmt: skip
    except HklflowError as error:
        return {"why not": str(error)}
    after = converge.RefinedModel.of(level.refined)
    try:
        agree: Record = halves_agree(level.refined.rotations, halves(refined), after.ub,
                                     level.fit.modules)  # fmt: skip
    except HklflowError as error:
        agree = {"why not": str(error)}
    spots = residual_map.used(level.refined, refined)
    return {
        "modules": level.fit.modules.to_dict(),
        "shift_sigma_px": level.fit.shift_sigma,
        "rotation_sigma_rad": level.fit.rotation_sigma,
        "module_metrics": level.fit.metrics(),
        "fits": level.cycles,
        "cell": after.cell,
        "cell_sigma": after.cell_sigma,
        "rmsd of held-out peaks before (slow, fast, frame)": outcome.kept.rmsd_held_out,
        "rmsd of held-out peaks after (slow, fast, frame)": loop.rmsd_held_out(after),
        "residuals after": [
            row.to_dict() for row in residual_map.by_module(spots, level.fit.modules)
        ],
        "odd and even frames": agree,
    }
