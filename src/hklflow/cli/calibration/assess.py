"""Metrics, gates and report page of a candidate."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.calibration.assess import GateLimits
    from hklflow.cli.calibration.build import Request
    from hklflow.cli.calibration.target import Target

Record = dict[str, Any]


def assessed(
    to: "Target", name: str, request: "Request", files: dict[str, Path], folder: Path
) -> tuple[dict[str, Path], Record]:
    """Judge the geometry of a candidate, and write its metrics, parameters, report and pictures.

    Returns
    -------
    files : dict of Path
        The input ``files`` and ``metrics.json``, ``parameters.json``, ``report.html``, pictures.
    record : dict
        Record for the store.
    """
    from hklflow import plots
    from hklflow.cli.calibration.build import read_files

    data = stage.read_json(files["geometry.json"])
    accepted = to.accepted()
    before: Record = {}
    if accepted is not None:
        before = stage.read_json(accepted.artefact("geometry.json"))
    metrics = measured(data)
    gates = _gates(to, request, data, measured(before))
    moved = difference(data, before) if before else {}
    files = {**files, "metrics.json": folder / "metrics.json",
             "parameters.json": folder / "parameters.json",
             "report.html": folder / "report.html"}  # fmt: skip
    stage.write_json(files["metrics.json"], {"metrics": metrics, "gates": gates, "change": moved})
    stage.write_json(files["parameters.json"], request.to_dict())
    if metrics:
        files["assessment.png"] = folder / "assessment.png"
        plots.save(plots.assessment(metrics, f"candidate {name}"), files["assessment.png"])
    record: Record = {
        "source": request.source,
        "inputs": [{"path": str(p), "sha256": stage.fingerprint(p)} for p in read_files(request)],
        # Read the JSON file again, because it has no numpy types and no infinities.
        "metrics": stage.read_json(files["metrics.json"])["metrics"],
        "gates": gates,
        "parentVersion": request.parent,
    }
    if "calibrant" in metrics:
        record["calibrant"] = metrics["calibrant"]
    compared = accepted.name if accepted is not None else None
    files["report.html"].write_text(
        _page(to, name, request, data, record, moved, compared, files), encoding="utf-8"
    )
    return files, record


def measured(data: Record) -> Record:
    """Return the metrics of a geometry file; empty for an imported geometry."""
    metrics: Record = data.get("metrics", {})
    return metrics if isinstance(metrics.get("rings"), list) else {}


def difference(a: Record, b: Record) -> Record:
    """Return the differences of two geometries in beam centre, distance along the beam and tilt."""
    from hklflow.calibration.assess import change

    return change(summary(a), summary(b))


def summary(data: Record) -> Record:
    """Return beam centre, distance along the beam, tilt and normal of a geometry file.

    These values are compared, because PONI coordinates and rotations are correlated.
    """
    import numpy as np

    from hklflow.geometry import BEAM, detector_from_dict

    detector = detector_from_dict(data["detector"]).plane
    slow, fast = detector.intersect(BEAM)
    return {
        "beam_centre_px": [float(slow), float(fast)],
        "direct_distance_m": detector.distance / float(BEAM @ detector.normal),
        "tilt_deg": float(np.degrees(np.arccos(min(1.0, float(BEAM @ detector.normal))))),
        "normal": detector.normal.tolist(),
    }


def _gates(to: "Target", request: "Request", data: Record, before: Record) -> list[Record]:
    from hklflow.calibration.assess import judge

    if metrics := measured(data):
        gates = judge(metrics, to.geometry.gates, before or None)
        for number, other in enumerate(metrics.get("others", []), start=2):
            gates += [
                gate | {"name": f"{gate['name']}.{number}",
                        "sentence": f"image {number}: {gate['sentence']}"}
                for gate in judge(other, to.geometry.gates)
            ]  # fmt: skip
        return gates
    if "module_metrics" in data:
        return _module_gates(data["module_metrics"], to.geometry.gates)
    return [
        {
            "name": "measured",
            "value": None,
            "limit": None,
            "passed": False,
            "sentence": f"the geometry was imported ({request.source}): its quality is unknown",
        }
    ]


def _module_gates(metrics: Record, limits: "GateLimits") -> list[Record]:
    """Return the gates for the precision of the modules, and for their effect on the residuals."""
    limit = limits.modules
    better, sigma = metrics["improvement"], metrics["largest_sigma_px"]
    gates: list[Record] = [
        {
            "name": "improvement",
            "value": better,
            "limit": 1.0,
            "passed": better < 1.0,
            "sentence": f"residuals are {better:.3f} times what they were without the shifts of "
            "the modules (less than 1 is better)",
        }
    ]
    if limits.settled and (rounds := metrics.get("rounds")):
        moved, tolerance = rounds[-1]["largest_change_px"], metrics["tolerance_px"]
        gates.append(
            {
                "name": "settled",
                "value": moved,
                "limit": tolerance,
                "passed": moved <= tolerance,
                "sentence": f"round {len(rounds)}, the last, moved a pixel by {moved:.4f} px (at "
                f"most {tolerance:g})",
            }
        )
    if (held_out := metrics.get("held_out")) is not None:
        gates.append(
            {
                "name": "held_out",
                "value": held_out,
                "limit": 1.0,
                "passed": held_out < 1.0,
                "sentence": f"peaks that no fit has seen are off by {held_out:.3f} times what they "
                "were without the shifts (less than 1 is better)",
            }
        )
    if limit is not None:
        gates.append(
            {
                "name": "module_sigma",
                "value": sigma,
                "limit": limit,
                "passed": sigma <= limit,
                "sentence": f"the least known module is known to {sigma:.3f} px (at most "
                f"{limit:g})",
            }
        )
    return gates


def _page(
    to: "Target",
    name: str,
    request: "Request",
    data: Record,
    record: Record,
    moved: Record,
    compared: str | None,
    files: dict[str, Path],
) -> str:
    """Return the report page of a candidate."""
    from html import escape

    from hklflow.calibration import report

    figures, sigma = summary(data), data.get("sigma", {})
    centre_sigma = data.get("beam_centre_sigma_px") or (None, None)
    distance_sigma = record["metrics"].get("direct_distance_sigma_m")
    slow_moved, fast_moved = moved.get("beam_centre_px", (None, None))
    rows: list[report.Row] = [
        ("beam centre, slow (px)", figures["beam_centre_px"][0], centre_sigma[0], slow_moved),
        ("beam centre, fast (px)", figures["beam_centre_px"][1], centre_sigma[1], fast_moved),
        ("distance along the beam (mm)", 1e3 * figures["direct_distance_m"],
         distance_sigma and 1e3 * distance_sigma, moved.get("direct_distance_mm")),
        ("tilt (degrees)", figures["tilt_deg"], None, moved.get("tilt_deg")),
    ]  # fmt: skip
    rows += [
        (f"{key} ({'m' if key in ('dist', 'poni1', 'poni2') else 'rad'})", value, sigma.get(key),
         None)
        for key, value in data.get("poni", {}).items()
        if key in ("dist", "poni1", "poni2", "rot1", "rot2", "rot3")
    ]  # fmt: skip
    against = f"change against {compared}" if compared else "no accepted version"
    parameters = report.table(("parameter", "value", "standard deviation", against), rows)
    sections = [
        ("Verdict", report.verdict(record["gates"])),
        ("Gates", report.gates_table(record["gates"])),
        ("Parameters", parameters),
    ]
    pictures = {
        "rings.png": "The calibrant's image with the rings of this geometry, its profile, and "
        "observed minus calculated 2θ.",
        "assessment.png": "Rings, their widths, azimuthal harmonics; convergence or modules.",
    }
    shown = [report.figure(files[f], text) for f, text in pictures.items() if f in files]
    if shown:
        sections.append(("Pictures", "\n".join(shown)))
    if rings := record["metrics"].get("rings"):
        columns = list(rings[0])
        sections.append(("Rings", report.table(columns, [list(row.values()) for row in rings])))
    if rounds := data.get("module_metrics", {}).get("rounds"):
        round_rows = [list(row.values()) for row in rounds]
        sections.append(("Rounds", report.table(list(rounds[0]), round_rows)))
    if modules := data.get("module_metrics", {}).get("modules"):
        module_rows = [list(row.values()) for row in modules]
        sections.append(("Modules", report.table(list(modules[0]), module_rows)))
    if "wavelength" in record["metrics"]:
        beam = record["metrics"]["wavelength"]
        sections.append(("Wavelength", f"<p>{beam['value_A']} Å, {escape(beam['source'])}.</p>"))
    made = [(str(i["path"]), str(i["sha256"])) for i in record["inputs"]]
    sections += [
        ("Made from", report.table(("file", "SHA-256"), made)),
        ("With", f"<pre>{escape(json.dumps(request.to_dict(), indent=1))}</pre>"),
    ]
    return report.page(f"Calibration {to.name}: candidate {name}, state {to.state.id}", sections)
