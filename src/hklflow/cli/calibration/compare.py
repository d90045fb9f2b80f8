"""`hklflow calibration compare`: compare versions and candidates in a table and a page."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.cli.calibration.target import Entry, in_words
from hklflow.cli.options import AsJson


def compare(
    *names: str,
    output: Path | None = None,
    json_: AsJson = False,
    entry: Entry = Entry(),
) -> None:
    """Compare versions and candidates in a table and a page with pictures.

    Changes are relative to the first version or candidate.

    Example: `hklflow calibration compare v_0001 morning/02 --output compare.html`

    Parameters
    ----------
    names
        `v_0001`, or the name of a candidate; `name` is its last iteration, `name/02` its second.
    output
        HTML page to write.
    """
    from hklflow import stage

    if output is not None and not output.absolute().parent.is_dir():
        raise HklflowError(f"--output {output}: there is no such folder; make it first")
    if len(names) < 2:
        raise HklflowError("give two or more versions or candidates, such as v_0001 morning/02")
    to = entry.target()
    to.require("geometry")
    items: dict[str, dict[str, Any]] = {}
    for name in names:
        item = to.item(name)
        path = item.path / "geometry.json"
        if not path.is_file():
            raise HklflowError(f"{in_words(item)} has no geometry.json; compare others")
        items[in_words(item)] = {"data": stage.read_json(path), "record": item.record}
    if len(items) < 2:
        raise HklflowError(f"{', '.join(names)} are the same; give different ones")
    first = next(iter(items.values()))["data"]
    rows = [_row(name, item["data"], first, item["record"]) for name, item in items.items()]
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        print("\t".join(rows[0]))
        for row in rows:
            print("\t".join("" if v is None else f"{v:.8g}" if isinstance(v, float) else str(v)
                            for v in row.values()))  # fmt: skip
    if output is not None:
        _write_page(output, to.name, items, rows)


def _row(name: str, data: Any, first: Any, record: Any) -> dict[str, Any]:
    """Return the row of the table for a version or candidate."""
    from hklflow.cli.calibration.assess import difference, measured, summary

    figures, moved, metrics = summary(data), difference(data, first), measured(data)
    failed = [gate["name"] for gate in record.get("gates", []) if not gate["passed"]]
    return {
        "name": name,
        "beam_slow_px": figures["beam_centre_px"][0],
        "beam_fast_px": figures["beam_centre_px"][1],
        "distance_mm": 1e3 * figures["direct_distance_m"],
        "tilt_deg": figures["tilt_deg"],
        "change_beam_slow_px": moved["beam_centre_px"][0],
        "change_beam_fast_px": moved["beam_centre_px"][1],
        "change_distance_mm": moved["direct_distance_mm"],
        "change_tilt_deg": moved["tilt_deg"],
        "rings": len(metrics["rings"]) if metrics else None,
        "rms_px": metrics.get("rms_px"),
        "chi2": metrics.get("chi2"),
        "failed_gates": ",".join(failed),
    }


def _write_page(
    output: Path, calibration: str, items: dict[str, dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    from hklflow import plots
    from hklflow.base import publish
    from hklflow.calibration import report
    from hklflow.cli.calibration.assess import measured

    names = list(items)
    table = report.table(
        ("", *names), [(key, *(row[key] for row in rows)) for key in rows[0] if key != "name"]
    )
    sections = [("Figures", table)]
    metrics = {name: measured(item["data"]) for name, item in items.items()}
    metrics = {name: values for name, values in metrics.items() if values}
    if metrics:
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "comparison.png"
            plots.save(plots.comparison(metrics, " and ".join(metrics)), picture)
            sections.append(("Pictures", report.figure(picture, "Rings, widths, harmonics.")))
    for name, item in items.items():
        sections.append((f"Gates of {name}", report.gates_table(item["record"].get("gates", []))))
    temporary = publish.partial(output, "compare")
    temporary.write_text(report.page(f"Calibration {calibration}: {', '.join(names)}", sections),
                         encoding="utf-8")  # fmt: skip
    publish.publish([(temporary, output)])
