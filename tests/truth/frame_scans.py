"""What the stages make of simulated frames, and how it compares with the truth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hklflow import geometry, nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.bragg import centroids
from hklflow.geometry import symmetry
from hklflow.orientation import refinement
from hklflow.stage import orientation
from hklflow.stages import (
    accept,
    converge,
    find_peaks,
    frame_scale,
    import_scan,
    mask_3d,
    merge,
    pixel_mask,
    refine_parent,
    symmetrise,
    transform,
)
from tests.truth import frames_write
from tests.truth.frames_world import FrameWorld
from tests.truth.pictures import without_pictures
from tests.truth.world_scans import Answer, compared_with

Floats = NDArray[np.float64]

_MORE = ("broad", "superlattice", "half_wavelength", "second_lattice", "twin_nonmerohedral")
"""Kinds that add to S(Q) what the analytic S has not."""
_ASIDE = ("converge",)
"""Stages whose refusal is no end: nothing that follows takes what they make."""
FAR = 5.0  # σ from which on a figure is wrong
RIGHT = {"peaks": 1.6, "frame_scale": 0.003, "volume": 0.005}
"""From which on a stage is wrong: width of the pulls of the centroids (1: their errors are right),
relative errors of transmission and of S(Q) beyond `FAR` of their own."""


@dataclass
class Reduced:
    """One scan of a world, as far as it went.

    Attributes
    ----------
    refused : dict
        Stage that ended it, and its sentence.
    said : dict
        Sentences of each stage.
    wrong : dict
        Stages that state something, and how far it is off: 1 is where it counts as wrong.
    figures : dict
    """

    folder: Path
    refused: dict[str, str] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)
    wrong: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def verdict(self, name: str) -> str:
        """Right, reported or silently wrong: sentences of the stages that could know count."""
        if not self.wrong[name] > 1:
            return "right"
        heard = any(self.said.get(n) for n in _KNOWING[name])
        return "reported" if heard or set(self.refused) - {*_ASIDE} else "silently wrong"


def reduced(
    world: FrameWorld, folder: Path, *, last: str = "symmetrise", convergence: bool = True
) -> Reduced:
    """Write the frames, run the stages one after the other up to the last, and judge each.

    `convergence` reads the frames twice more.
    """
    frames_write.write(world, folder)
    found = Reduced(folder)
    names = [*_STEPS]
    for name in names[: names.index(last) + 1]:
        step, judge = _STEPS[name]
        if name == "converge" and not convergence:
            continue
        try:
            step(world, folder)
        except HklflowError as error:
            found.refused[name] = str(error)
            if name in _ASIDE:
                continue
            break
        found.said[name] = list(_sentences(name, folder))
        if judge is not None:
            found.wrong[name] = judge(world, found)
    return found


@without_pictures()
def _run(module: ModuleType, folder: Path, inputs: dict[str, Any], **params: Any) -> None:
    """Run a stage; its outputs have the names of their fields."""
    endings = {"picture": "png", "slices": "png", "coverage": "png", "statistics_picture": "png"}
    of_json = ("metrics", "statistics_metrics", "orientation", "accepted")
    endings |= dict.fromkeys((*of_json, "converged", "history", "modules"), "json")
    name = module.__name__.rpartition(".")[2]
    outputs = {
        n: folder / f"{name}_{n}.{endings.get(n, 'nxs')}" for n in module.Outputs.model_fields
    }
    module.main(
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
    )


def _import(world: FrameWorld, folder: Path) -> None:
    for r, path in enumerate(sorted((folder / "raw").glob("*.nxs"))):
        own = _own(folder, r)
        own.mkdir(parents=True)
        _run(import_scan, own, {"raw": [path]})


def _own(folder: Path, r: int) -> Path:
    return folder / "world" / "scan" / f"r{r + 1}"


def _mask(world: FrameWorld, folder: Path) -> None:
    config = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    for r in range(len(world.beam)):
        own = _own(folder, r)
        params = config.get("pixel_mask", {})
        _run(pixel_mask, own, {"scan": own / "import_scan_scan.nxs"}, **params)


def _peaks(world: FrameWorld, folder: Path) -> None:
    for r in range(len(world.beam)):
        own = _own(folder, r)
        inputs = {"scan": own / "import_scan_scan.nxs", "mask": own / "pixel_mask_mask.nxs"}
        _run(find_peaks, own, inputs)


def _scale(world: FrameWorld, folder: Path) -> None:
    for r in range(len(world.beam)):
        own, first = _own(folder, r), _own(folder, 0)
        statistics = [_own(folder, i) / "find_peaks_statistics.nxs" for i in range(len(world.beam))]
        inputs = {
            "scan": own / "import_scan_scan.nxs",
            "statistics": statistics[r],
            "reference_scan": first / "import_scan_scan.nxs",
            "reference": statistics[0],
            "earlier": statistics[:r],
        }
        _run(frame_scale, own, inputs)


def _orientation(world: FrameWorld, folder: Path) -> None:
    owns = [_own(folder, r) for r in range(len(world.beam))]
    _run(
        refine_parent,
        folder,
        {
            "scans": [own / "import_scan_scan.nxs" for own in owns],
            "peaks": [own / "find_peaks_peaks.nxs" for own in owns],
            "masks": [own / "pixel_mask_mask.nxs" for own in owns],
        },
        sample="world",
        scan="scan",
        rotations=[own.name for own in owns],
        space_group=world.draft.space_group,
        cell=tuple(world.draft.expected),
        grid_step=(0.1, 0.1, 0.1),
    )


def _accept(world: FrameWorld, folder: Path) -> None:
    path = folder / "refine_parent_orientation.json"
    _run(accept, folder, {"orientation": path, "parent": path})


def _converge(world: FrameWorld, folder: Path) -> None:
    inputs, params = _of_convergence(world, folder)
    _run(converge, folder, inputs, **params)


def _of_convergence(world: FrameWorld, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    owns = [_own(folder, r) for r in range(len(world.beam))]
    inputs = {
        "orientation": folder / "refine_parent_orientation.json",
        "accepted": folder / "accept_accepted.json",
        "scans": [own / "import_scan_scan.nxs" for own in owns],
        "masks": [own / "pixel_mask_mask.nxs" for own in owns],
        "scales": [own / "frame_scale_scale.nxs" for own in owns],
        "peaks": [own / "find_peaks_peaks.nxs" for own in owns],
    }
    names = [own.name for own in owns]
    return inputs, {"sample": "world", "scan": "scan", "rotations": names}


def centroids_alone(world: FrameWorld, folder: Path) -> Answer:
    """Refine a reduced world by the centroids of its integrated reflections, without peaks."""
    files, told = _of_convergence(world, folder)
    inputs, params = converge.Inputs(**files), converge.Params(**told)
    data = stage.read_json(inputs.orientation)
    observed = orientation.read(params.rotations, inputs.scans, inputs.peaks)
    group = symmetry.space_group(data["space_group"])
    rotations = [geometry.from_dict(data["rotations"][name]) for name in params.rotations]
    ub = np.array(data["UB"])
    nobody = [peaks.select(np.zeros(len(peaks.frame), bool)) for peaks in observed.peaks]
    integrate = converge._integrator(inputs, params, group, observed.spreads, nobody, 1)[0]
    none = np.zeros(0, np.int64)
    accept = centroids.Acceptance(params.min_significance, params.min_correlation)
    given = []
    for r, table in enumerate(integrate(rotations, ub)):
        fate = centroids.judge(table, rotations[r], ub, none, none, accept)
        peaks = observed.peaks[r]
        use = fate == len(centroids.FATES) - 1
        given.append(centroids.joined(nobody[r], table, use, peaks.sigma.min(axis=0) ** 2))
    free = converge._free(data["refined_parameters"], params)
    limits = refinement.RefinementLimits(params.hkl_tolerance, params.min_indexed)
    refined = refinement.refine(rotations, given, ub, group, free=free, limits=limits)
    found = {"cell": refined.cell, "cell_sigma": refined.cell_sigma, "U": refined.u}
    found["orientation_sigma_deg"] = np.degrees(refined.orientation_sigma)
    header = world.draft.header_scans[0]
    return compared_with(world.sample, header, world.draft.space_group, found)


def _transform(world: FrameWorld, folder: Path) -> None:
    for r in range(len(world.beam)):
        own = _own(folder, r)
        inputs = {"scan": own / "import_scan_scan.nxs", "mask": own / "pixel_mask_mask.nxs"}
        _run(mask_3d, own, inputs)
        inputs |= {
            "scale": own / "frame_scale_scale.nxs",
            "frame_mask": own / "mask_3d_frame_mask.nxs",
            "orientation": folder / "refine_parent_orientation.json",
            "accepted": folder / "accept_accepted.json",
        }
        _run(transform, own, inputs, rotation=own.name, samples=(1, 1, 1))


def _merge(world: FrameWorld, folder: Path) -> None:
    volumes = _volumes(world, folder)
    _run(merge, folder, {"volumes": volumes})


def _volumes(world: FrameWorld, folder: Path) -> list[Path]:
    return [_own(folder, r) / "transform_transform.nxs" for r in range(len(world.beam))]


def _symmetrise(world: FrameWorld, folder: Path) -> None:
    inputs = {
        "volumes": _volumes(world, folder),
        "orientation": folder / "refine_parent_orientation.json",
    }
    _run(symmetrise, folder, inputs)


def _sentences(name: str, folder: Path) -> Iterator[str]:
    """Yield what a stage says is doubtful, in its metrics or its product."""
    module = {"refine": "refine_parent"}.get(name, name)
    for path in sorted(folder.rglob(f"{module}_*.json")):
        data = stage.read_json(path)
        said = [*data.get("warnings", ()), *data.get("doubts", ()), *data.get("sentences", ())]
        said += data.get("notes", ())
        # Standing remarks of a refinement; a χ² that makes a scan doubtful has another sentence.
        usual = ("are correlated", "not symmetries of", "standard deviations are multiplied")
        yield from (text for text in said if not any(word in text for word in usual))


def _judge_mask(world: FrameWorld, found: Reduced) -> float:
    """Hot and noisy pixels that are not masked, per thousand of all pixels."""
    places = [e for e in world.effects if e["kind"] == "hot_pixels"]
    if not places:
        return 0.0
    mask = nexus.read_mask(_own(found.folder, 0) / "pixel_mask_mask.nxs") != 0
    bad: Any = np.concatenate([places[0]["hot"], places[0]["noisy"], places[0]["dead"]])
    missed = float((~mask[bad[:, 0], bad[:, 1]]).mean())
    found.figures["defects missed"] = missed
    return missed / 0.05


def _judge_peaks(world: FrameWorld, found: Reduced) -> float:
    """Robust width of the pulls of peaks that lie at single true spots."""
    names = ("frame", "slow", "fast")
    pulls = []
    for r in range(len(world.beam)):
        table = nexus.read_peaks(_own(found.folder, r) / "find_peaks_peaks.nxs")
        mine = world.spots["rotation"] == r
        truth = np.stack([world.spots[n][mine] for n in names], 1)
        seen = np.stack([getattr(table, n) for n in names], 1)[table.flags == 0]
        if not len(seen):
            continue
        sigma = np.sqrt(np.stack([getattr(table, f"var_{n}") for n in names], 1))[table.flags == 0]
        near = cKDTree(truth).query(seen, k=2)
        alone = (near[0][:, 0] < 1.5) & (near[0][:, 1] > 8)
        pulls.append((seen[alone] - truth[near[1][alone, 0]]) / sigma[alone])
    every = np.concatenate(pulls)
    width = 1.4826 * np.median(np.abs(every), axis=0)
    found.figures["pulls of the peaks"] = width
    found.figures["peaks at true spots"] = len(every)
    return float(width.max() / RIGHT["peaks"]) if len(every) > 30 else 0.0


def _judge_scale(world: FrameWorld, found: Reduced) -> float:
    """Error of the transmission, against its own error and what counts."""
    off, claimed = [], []
    for r in range(len(world.beam)):
        scale = nexus.read_scale(_own(found.folder, r) / "frame_scale_scale.nxs")
        truth = world.beam[r] * world.illuminated[r] / (world.monitor[r] / world.monitor.max())
        truth = truth * _absorbed(world, r)
        ratio = scale.transmission.transmission / truth
        off.append(ratio / np.median(ratio) - 1)
        claimed.append(np.median(scale.transmission.errors))
    rms = float(np.sqrt(np.mean(np.concatenate(off) ** 2)))
    found.figures |= {"error of the scale": rms, "claimed": float(np.mean(claimed))}
    return rms / max(RIGHT["frame_scale"], FAR * float(np.mean(claimed)))


def _absorbed(world: FrameWorld, r: int) -> Floats:
    """Mean transmission of the crystal over the detector."""
    n = len(world.beam[r])
    if world.transmission is None:
        return np.ones(n)
    frames = np.linspace(0, n - 1, 40).astype(int)
    means = [
        float(np.average(world.transmission(world, r, z), weights=world.weight)) for z in frames
    ]
    return np.interp(np.arange(n), frames, means)


def _judge_orientation(world: FrameWorld, found: Reduced) -> float:
    """Largest pull of cell and orientation."""
    return _model(world, found, "refine_parent_orientation", "")


def _judge_converged(world: FrameWorld, found: Reduced) -> float:
    """The same of the converged model."""
    return _model(world, found, "converge_converged", " converged")


def _model(world: FrameWorld, found: Reduced, name: str, which: str) -> float:
    data = stage.read_json(found.folder / f"{name}.json")
    header, group = world.draft.header_scans[0], world.draft.space_group
    answer = compared_with(world.sample, header, group, data)
    found.figures |= {
        f"pulls of cell and orientation{which}": np.r_[answer.cell_pulls, answer.turn_pulls],
        f"error of the cell{which}": answer.cell_off,
        f"misorientation{which}": answer.turn,
    }
    return answer.worst / FAR


def _judge_volume(world: FrameWorld, found: Reduced) -> float:
    """Systematic error of sums over 5³ voxels away from reflections, against the analytic S(Q)."""
    if any(effect["kind"] in _MORE for effect in world.effects):
        return 0.0
    volume = nexus.read_volume(found.folder / "merge_volume.nxs")
    figures = blocks(world, volume)
    found.figures |= figures
    if not figures:
        return 0.0
    # Of blocks whose errors are right the width is 1; the excess counts where it is large.
    error: float = figures["systematic error of S"]
    return error / RIGHT["volume"] if figures["width of blocks"] > 1.25 else 0.0


def blocks(world: FrameWorld, volume: nexus.Volume) -> dict[str, float]:
    """Width of the pulls of sums over 5³ voxels, and the systematic error that makes it.

    The scale of all is fitted. What does not come from the crystal is in the truth, too.
    """
    grid = volume.grid
    axes = [grid.axis(i) for i in (2, 1, 0)]
    l, k, h = np.meshgrid(*axes, indexing="ij")  # noqa: E741
    hkl = np.stack([h, k, l], axis=-1)
    q = np.linalg.norm(hkl @ world.draft.UB.T, axis=-1)
    # Reflections reach as far as their mosaic spread and the spots' size.
    reach = 4 * np.radians(world.sample.mosaic) * q
    b = np.linalg.norm(np.linalg.inv(world.draft.UB), axis=1)  # r.l.u. per 1/Å, at most
    near = np.all(np.abs(hkl - np.rint(hkl)) < 0.22 + reach[..., None] * b, axis=-1)
    air = world.air * (0.3 + np.exp(-2.5 * q / world.draft.q_max))
    truth = np.empty(q.shape)
    for i in range(len(truth)):
        truth[i] = world.diffuse * world.S(hkl[i].reshape(-1, 3)).reshape(q.shape[1:]) + air[i]
    use = (volume.norm > 0) & ~near
    counts, norm, expected = (
        _fives(np.where(use, x, 0.0)) for x in (volume.counts, volume.norm, volume.norm * truth)
    )
    full = _fives(use.astype(float)) > 60
    enough = full & (counts > 25)
    if enough.sum() < 50:
        return {}
    c, n, e = counts[enough], norm[enough], expected[enough]
    ratio = (c / e) / (c.sum() / e.sum())
    sigma = 1 / np.sqrt(e * c.sum() / e.sum())
    ratio, sigma = ratio[np.argsort(n)], sigma[np.argsort(n)]
    width = 1.4826 * float(np.median(np.abs((ratio - np.median(ratio)) / sigma)))
    excess = np.sqrt(max(width**2 - 1, 0)) * float(np.median(sigma))
    return {"width of blocks": width, "systematic error of S": excess, "blocks": len(c)}


def _fives(x: Floats) -> Floats:
    """Sum over 5³ voxels."""
    n = [m // 5 for m in x.shape]
    cut = x[: 5 * n[0], : 5 * n[1], : 5 * n[2]]
    return cut.reshape(n[0], 5, n[1], 5, n[2], 5).sum(axis=(1, 3, 5))


_KNOWING = {
    "pixel_mask": ("pixel_mask", "find_peaks"),
    "find_peaks": ("import_scan", "pixel_mask", "find_peaks", "refine", "accept"),
    "frame_scale": ("import_scan", "find_peaks", "frame_scale", "merge", "symmetrise"),
    "refine": ("import_scan", "find_peaks", "refine", "accept"),
    "converge": ("import_scan", "find_peaks", "refine", "accept", "converge"),
    "merge": ("import_scan", "pixel_mask", "frame_scale", "accept", "merge", "symmetrise"),
}
"""Stages whose sentences count for each that is judged."""

JUDGED = tuple(_KNOWING)

Step = Callable[[FrameWorld, Path], None]
_STEPS: dict[str, tuple[Step, Callable[[FrameWorld, Reduced], float] | None]] = {
    "import_scan": (_import, None),
    "pixel_mask": (_mask, _judge_mask),
    "find_peaks": (_peaks, _judge_peaks),
    "frame_scale": (_scale, _judge_scale),
    "refine": (_orientation, _judge_orientation),
    "accept": (_accept, None),
    "converge": (_converge, _judge_converged),
    "transform": (_transform, None),
    "merge": (_merge, _judge_volume),
    "symmetrise": (_symmetrise, None),
}
