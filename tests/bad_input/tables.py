"""The tables of samples and scans, and rows that commands add to them."""

import gzip
import shutil
from pathlib import Path

from .cases import Case, Spoil, edited, removed, renamed, several, written
from .experiment import CHECK, CONFIG, SAMPLES, SCANS
from .raw_files import pipe

SAMPLES_TSV, SCANS_TSV = "config/samples.tsv", "config/scans.tsv"
ADD = "hklflow scan add quartz 50K --rotation r1 --raw raw/r4_####.tif --temperature 50"
ADD_SAMPLE = "hklflow sample add hexa --space-group P6/mmm --cell 4.8 4.8 7.1 90 90 120"
CELL = "4.91\t4.91\t5.40\t90\t90\t120"
TOO_LONG = (
    "names have 64 at most, because several of them make the name of a file, which has 255 bytes "
    "at most with all that products, logs and Snakemake add"
)
TWICE = (
    "would count twice; remove one row, or give each row frames of its own "
    "(`import_scan: leave_out`)"
)


def scans(*changes: tuple[str, str]) -> Spoil:
    """Change the table of scans."""
    return edited(SCANS_TSV, *changes)


def samples(old: str, new: str) -> Spoil:
    """Change the table of samples."""
    return edited(SAMPLES_TSV, (old, new))


def cell(old: str, new: str) -> Spoil:
    """Change the sample's cell."""
    return samples(CELL, CELL.replace(old, new))


def copied(start: str, to: str) -> Spoil:
    """Copy the raw files whose names start so."""

    def spoil(folder: Path) -> None:
        for path in sorted((folder / "raw").glob(f"{start}[_.]*")):
            shutil.copy(path, path.with_name(path.name.replace(start, to, 1)))

    return spoil


def link(name: str, to: str) -> Spoil:
    """Make a symbolic link."""
    return lambda folder: (folder / name).symlink_to(to)


def again(raw: str, frames: str = "6") -> Spoil:
    """Add a second rotation to the table of scans."""
    return written(SCANS_TSV, f"{SCANS}quartz\t300K\t300\t300K\tr2\t{raw}\t\t\t{frames}\n")


def own_frames(*items: str) -> Spoil:
    """Leave frames out of the rotations of the first scan."""
    line = f"  quartz/300K: {{import_scan: {{leave_out: [{', '.join(items)}]}}}}\n"
    return edited("config/config.yaml", ("per_scan:\n", f"per_scan:\n{line}"))


CASES = [
    Case(
        "empty table of scans",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv: no column 'sample', no column 'scan', no column 'temperature',"
        " no column 'parent', no column 'rotation', no column 'raw'; columns are sample, "
        "scan, temperature, parent, rotation, raw, goniometer, calibration, frames, run, "
        "date, temperature_error (by tabs)",
        written(SCANS_TSV, ""),
    ),
    Case(
        "no table of scans",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv does not exist; `hklflow init` makes the tables",
        removed(SCANS_TSV),
    ),
    Case(
        "commas in the place of tabs",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv: unknown column "
        "'sample,scan,temperature,parent,rotation,raw,goniometer,calibration,frames', no "
        "column 'sample', no column 'scan', no column 'temperature', no column 'parent', no "
        "column 'rotation', no column 'raw'; columns are sample, scan, temperature, parent, "
        "rotation, raw, goniometer, calibration, frames, run, date, temperature_error (by tabs)",
        written(SCANS_TSV, SCANS.replace("\t", ",")),
    ),
    Case(
        "blanks in the place of tabs",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv: unknown column 'sample  scan  temperature  parent  rotation  "
        "raw  goniometer  calibration  frames', no column 'sample', no column 'scan', no "
        "column 'temperature', no column 'parent', no column 'rotation', no column 'raw'; "
        "columns are sample, scan, temperature, parent, rotation, raw, goniometer, "
        "calibration, frames, run, date, temperature_error (by tabs)",
        written(SCANS_TSV, SCANS.replace("\t", "  ")),
    ),
    Case(
        "table in Latin-1",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv is not UTF-8 text (…); save it as UTF-8",
        written(SCANS_TSV, SCANS.replace("300K", "30ö").encode("latin-1")),
    ),
    Case(
        "table in UTF-16",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv is not UTF-8 text (…); save it as UTF-8",
        written(SCANS_TSV, SCANS.encode("utf-16")),
    ),
    Case(
        "null byte in a table",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv has null bytes: it is damaged or not text; save it again as UTF-8",
        written(SCANS_TSV, SCANS.encode().replace(b"r1.nxs", b"r1\0.nxs")),
    ),
    Case(
        "table packed by gzip",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv is not UTF-8 text (…); save it as UTF-8",
        written(SCANS_TSV, gzip.compress(SCANS.encode(), mtime=0)),
    ),
    Case(
        "misspelt column",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv: unknown column 'temperatur', no column 'temperature'; columns "
        "are sample, scan, temperature, parent, rotation, raw, goniometer, calibration, "
        "frames, run, date, temperature_error (by tabs)",
        scans(("temperature", "temperatur")),
    ),
    Case(
        "column that stands twice",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv: column 'raw' occurs twice; columns are sample, scan, "
        "temperature, parent, rotation, raw, goniometer, calibration, frames, run, "
        "date, temperature_error (by tabs)",
        scans(("goniometer", "raw")),
    ),
    Case(
        "row that stands twice",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: rotation r1 of 300K occurs twice",
        scans(("quartz\t100K\t100", "quartz\t300K\t300")),
    ),
    Case(
        "raw file of two rows",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: raw ./raw/r1.nxs is also used in …/config/scans.tsv, "
        f"row 1: all frames {TWICE}",
        scans(("raw/r2_master.h5", "./raw/r1.nxs")),
    ),
    Case(
        "raw file of two rows, one by a link",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 4: raw raw/again.nxs has the same frames as raw raw/r1.nxs of "
        f"…/config/scans.tsv, row 1: all frames {TWICE}",
        several(link("raw/again.nxs", "r1.nxs"), again("raw/again.nxs")),
    ),
    Case(
        "frames of one file in two rows, some in both",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 4: raw raw/r1.nxs is also used in …/config/scans.tsv, row 1: "
        f"frames 2-3 {TWICE}",
        several(again("raw/r1.nxs"), own_frames("r1:4-5", "r2:0-1")),
    ),
    Case(
        "copy of a raw file in another row",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 4: raw raw/again.nxs has the same frames as raw raw/r1.nxs "
        f"of …/config/scans.tsv, row 1 (a copy, byte for byte): frames 0-5 {TWICE}",
        several(copied("r1", "again"), again("raw/again.nxs")),
    ),
    Case(
        "copy of a series of images in another row",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 3: raw raw/r3_####.cbf has the same frames as raw "
        "raw/again_####.cbf of …/config/scans.tsv, row 4 (a copy, byte for byte): "
        f"frames 0-5 {TWICE}",
        several(copied("r3", "again"), again("raw/again_####.cbf", frames="")),
    ),
    Case(
        "sample that is not in the other table",
        CHECK,
        "2 problems in the experiment:\n"
        "  …/config/scans.tsv, row 2: sample 'quarz' is not in the table of samples\n"
        "  scan quarz 100K: its parent '300K' is not a scan (there is one of sample quartz)",
        scans(("quartz\t100K", "quarz\t100K")),
    ),
    Case(
        "slash in the name of a scan",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: scan '100/K' may only have letters, digits, '.', '+' "
        "and '-' (it names files)",
        scans(("quartz\t100K", "quartz\t100/K")),
    ),
    Case(
        "scan named ..",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: scan '..' may only have letters, digits, '.', '+' and "
        "'-' (it names files)",
        scans(("quartz\t100K", "quartz\t..")),
    ),
    Case(
        "scan whose name begins with a dash",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: scan '-100K' may only have letters, digits, '.', '+' "
        "and '-' (it names files)",
        scans(("quartz\t100K", "quartz\t-100K")),
    ),
    Case(
        "blank in the name of a scan",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: scan '100 K' may only have letters, digits, '.', '+' "
        "and '-' (it names files)",
        scans(("quartz\t100K", "quartz\t100 K")),
    ),
    Case(
        "scan without a name",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: scan '' may only have letters, digits, '.', '+' and '-'"
        " (it names files)",
        scans(("quartz\t100K", "quartz\t")),
    ),
    Case(
        "scan with a name of 300 letters",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: scan 11111111111111111111... has 300 letters; "
        f"{TOO_LONG}",
        scans(("quartz\t100K", "quartz\t" + 300 * "1")),
    ),
    Case(
        "braces in the name of a rotation",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: rotation '{r1}' may only have letters, digits, '.', '+'"
        " and '-' (it names files)",
        scans(("100\t300K\tr1", "100\t300K\t{r1}")),
    ),
    Case(
        "shell command as name of a rotation",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: rotation '$(id)' may only have letters, digits, '.', "
        "'+' and '-' (it names files)",
        scans(("100\t300K\tr1", "100\t300K\t$(id)")),
    ),
    Case(
        "temperature below 0 K in the table",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: temperature -5 K is below absolute zero",
        scans(("100K\t100", "100K\t-5")),
    ),
    Case(
        "temperature nan in the table",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: temperature 'nan' is not a number",
        scans(("100K\t100", "100K\tnan")),
    ),
    Case(
        "temperature with its unit",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: temperature '100 K' is not a number",
        scans(("100K\t100", "100K\t100 K")),
    ),
    Case(
        "temperature with a comma",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 2: temperature '99,5' is not a number",
        scans(("100K\t100", "100K\t99,5")),
    ),
    Case(
        "temperature of a billion K",
        CHECK,
        "1 problem in the experiment:\n  …/config/scans.tsv, row 2: temperature 1e+09 K is "
        "outside the plausible range 0.001 to 5000 K (entered in °C?): set it in K in the "
        "scan table",
        scans(("100K\t100", "100K\t1e9")),
    ),
    Case(
        "axis of a series that is no column of the table",
        CHECK,
        "1 problem in the experiment:\n"
        "  config/scans.tsv: quartz 300K, 100K, 200K: no value in the column 'field', along which "
        "the scans of quartz are compared (`series: axis`)",
        written("config/config.yaml", CONFIG + "series: {axis: {column: field, unit: T}}\n"),
    ),
    Case(
        "axis of a series without a unit",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: series.axis: Value error, the axis field has no unit: give `unit`, such as T or "
        "GPa (1 for numbers without a unit)",
        written("config/config.yaml", CONFIG + "series: {axis: {column: field}}\n"),
    ),
    Case(
        "unit of an axis that pictures take for a formula",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: series.axis: Value error, the unit '$T$' has blanks, `$`, braces or over 20 "
        "letters",
        written("config/config.yaml", CONFIG + "series: {axis: {column: field, unit: $T$}}\n"),
    ),
    Case(
        "feature with a line break in its name",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: features.define: Value error, the name 'a\\nb' of a feature has 1 to 60 "
        "letters, digits, blanks and `_.+-()'`, and begins with a letter or digit",
        written(
            "config/config.yaml",
            CONFIG + 'features: {define: {"a\\nb": {shape: point, point: [0.5, 0, 0]}}}\n',
        ),
    ),
    Case(
        "column of an axis that is not set",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv: unknown column 'field'; columns are sample, scan, temperature, "
        "parent, rotation, raw, goniometer, calibration, frames, run, date, temperature_error "
        "(by tabs); to compare scans along field, set `series: axis`",
        scans(("frames\n", "field\n")),
    ),
    Case(
        "parent that is no scan",
        CHECK,
        "1 problem in the experiment:\n  scan quartz 100K: its parent '30K' is not a scan",
        scans(("100\t300K", "100\t30K")),
    ),
    Case(
        "chain of parents",
        CHECK,
        "1 problem in the experiment:\n"
        "  scan quartz 100K: its parent 200K is itself a child of 300K; name 300K",
        scans(("100\t300K", "100\t200K")),
    ),
    Case(
        "parents in a circle",
        CHECK,
        "2 problems in the experiment:\n"
        "  scan quartz 100K: its parent 200K is itself a child of 100K; name 100K\n"
        "  scan quartz 200K: its parent 100K is itself a child of 200K; name 200K",
        scans(("100\t300K", "100\t200K"), ("200\t300K", "200\t100K")),
    ),
    Case(
        "goniometer in words",
        CHECK,
        "2 problems in the experiment:\n"
        "  …/config/scans.tsv, row 3: goniometer 'to' is not `axis=degrees` or "
        "`axis=start:step`\n"
        "  …/config/scans.tsv, row 3: goniometer '5' is not `axis=degrees` or "
        "`axis=start:step`",
        scans(("phi=-5:0.5", "phi=-5 to 5")),
    ),
    Case(
        "step of 0 in the table",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 3: goniometer 'phi=-5:0' has a step of 0; the scan must "
        "move",
        scans(("phi=-5:0.5", "phi=-5:0")),
    ),
    Case(
        "goniometer axis that is set twice",
        CHECK,
        "1 problem in the experiment:\n  …/config/scans.tsv, row 3: goniometer sets phi twice",
        scans(("phi=-5:0.5", "phi=-5:0.5 phi=3")),
    ),
    Case(
        "step beyond all numbers (1e999)",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 3: goniometer 'phi=-5:1e999' is not `axis=degrees` or "
        "`axis=start:step`",
        scans(("phi=-5:0.5", "phi=-5:1e999")),
    ),
    Case(
        "axis that stands at 10^300°",
        CHECK,
        "1 problem in the experiment:\n  …/config/scans.tsv, row 3: goniometer axis chi at "
        "1e+300° is outside the plausible range -1e+06 to 1e+06°: write `chi=degrees` in the "
        "scan table",
        scans(("chi=0", "chi=1e300")),
    ),
    Case(
        "steps of 10^-300°",
        CHECK,
        "1 problem in the experiment:\n  …/config/scans.tsv, row 3: a scan from -5° in steps "
        "of 1e-300° is not plausible (steps 1e-05 to 90°): write `axis=start:step` in degrees "
        "in the scan table",
        scans(("phi=-5:0.5", "phi=-5:1e-300")),
    ),
    Case(
        "two scanned axes",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 3: goniometer scans chi and phi; scan one axis",
        scans(("chi=0", "chi=0:1")),
    ),
    Case(
        "0 frames expected",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: frames '0' is not a whole number from 1 up",
        scans(("\t\t\t6", "\t\t\t0")),
    ),
    Case(
        "6.5 frames expected",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: frames '6.5' is not a whole number from 1 up",
        scans(("\t\t\t6", "\t\t\t6.5")),
    ),
    Case(
        "10^30 frames expected",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: frames '1e30' is more than 10000000; correct it",
        scans(("\t\t\t6", "\t\t\t1e30")),
    ),
    Case(
        "calibration that is not defined",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 3: there is no calibration 'lap': the configuration defines lab",
        scans(("\tlab", "\tlap")),
    ),
    Case(
        "raw file that is not there",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw file raw/r11.nxs does not exist",
        scans(("raw/r1.nxs", "raw/r11.nxs")),
    ),
    Case(
        "path with .. to a file that is not there",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw file "
        "raw/../../../../../../../../../../../etc/shadow_ does not exist",
        scans(("raw/r1.nxs", "raw/../../../../../../../../../../../etc/shadow_")),
    ),
    Case(
        "folder as raw file",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw is a folder; give the raw file, or `correct_frames:"
        " layout` if it is a run of an integrating detector",
        scans(("raw/r1.nxs", "raw")),
    ),
    Case(
        "row without a raw file",
        CHECK,
        "1 problem in the experiment:\n  …/config/scans.tsv, row 1: no raw file",
        scans(("raw/r1.nxs", "")),
    ),
    Case(
        "raw file whose name begins with a dash",
        CHECK,
        "2 problems in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw -raw.nxs begins with '-'; write ./-raw.nxs\n"
        "  …/config/scans.tsv, row 1: raw file -raw.nxs does not exist",
        scans(("raw/r1.nxs", "-raw.nxs")),
    ),
    Case(
        "braces in the name of a raw file",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw raw/{r1}.nxs has braces, which Snakemake takes for "
        "wildcards; link it under another name",
        several(renamed("raw/r1.nxs", "raw/{r1}.nxs"), scans(("raw/r1.nxs", "raw/{r1}.nxs"))),
    ),
    Case(
        "pattern of HDF5 files",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw/r#.nxs is a series of HDF5 files; give the one file"
        " that holds all frames",
        scans(("raw/r1.nxs", "raw/r#.nxs")),
    ),
    Case(
        "pattern that nothing matches",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 3: no file matches …/raw/r9_####.cbf; check the pattern",
        scans(("raw/r3_####.cbf", "raw/r9_####.cbf")),
    ),
    Case(
        "pattern in a folder that is not there",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 3: folder …/row of the images …/row/r3_####.cbf does not "
        "exist; check the path",
        scans(("raw/r3_####.cbf", "row/r3_####.cbf")),
    ),
    Case(
        "pattern that matches two series, seen by the check",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 3: …/raw/*3_*.cbf matches several series (r3_....cbf, "
        "x3_....cbf); make the pattern narrower",
        several(written("raw/x3_0009.cbf", ""), scans(("raw/r3_####.cbf", "raw/*3_*.cbf"))),
    ),
    Case(
        "sum of a series and a file",
        CHECK,
        "2 problems in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw/r1.nxs + raw/r3_####.cbf sums image series and "
        "single files; give one kind\n"
        "  …/config/scans.tsv, row 3: raw raw/r3_####.cbf is also used in …/config/scans.tsv,"
        f" row 1: frames 0-5 {TWICE}",
        scans(("raw/r1.nxs", "raw/r1.nxs + raw/r3_####.cbf")),
    ),
    Case(
        "cell of megabytes",
        CHECK,
        "1 problem in the experiment:\n  …/config/scans.tsv, row 1: it cannot be read (field "
        "larger than field limit (131072)); the table is damaged, or a quotation mark is not "
        "closed: correct the row",
        scans(("quartz\t300K", "quartz\t" + 10**6 * "3")),
    ),
    Case(
        "cell of 10000 letters",
        CHECK,
        "1 problem in the experiment:\n  …/config/scans.tsv, row 1: temperature 'ccc… (10002 "
        "characters) …ccc' is not a number",
        scans(("quartz\t300K\t300", "quartz\t300K\t" + 10000 * "c")),
    ),
    Case(
        "cell of megabytes where a row is to be added",
        ADD,
        "…/config/scans.tsv, row 1: it cannot be read (field larger than field limit (131072)); "
        "the table is damaged, or a quotation mark is not closed: correct the row",
        scans(("quartz\t300K", "quartz\t" + 10**6 * "3")),
    ),
    Case(
        "pipe in the place of a table to which a row is to be added",
        ADD,
        "…/config/scans.tsv is a pipe, not a file; `hklflow init` makes the tables",
        pipe(SCANS_TSV),
    ),
    Case(
        "file name of 300 letters",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw file "
        "raw/rrr… (304 characters) …rrr.nxs"
        " cannot be reached (File name too long)",
        scans(("raw/r1.nxs", "raw/" + 300 * "r" + ".nxs")),
    ),
    Case(
        "sample that stands twice",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 2: sample quartz occurs twice",
        written(SAMPLES_TSV, SAMPLES + SAMPLES.splitlines()[1] + "\n"),
    ),
    Case(
        "sample named as a folder of the results",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/samples.tsv: a sample cannot be called 'overview': results/overview is "
        "taken",
        several(
            samples("quartz", "overview"),
            scans(("quartz", "overview")),
            edited("config/config.yaml", ("quartz", "overview")),
        ),
    ),
    Case(
        "unknown space group",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: unknown space group 'P "
        "32 2 7'; use a Hermann-Mauguin symbol (Fd-3m, P 1 21/c 1, R -3 c :H), a Hall symbol "
        "or a number from 1 to 230",
        samples("P 32 2 1", "P 32 2 7"),
    ),
    Case(
        "space group 231",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: unknown space group "
        "'231'; use a Hermann-Mauguin symbol (Fd-3m, P 1 21/c 1, R -3 c :H), a Hall symbol or "
        "a number from 1 to 230",
        samples("P 32 2 1", "231"),
    ),
    Case(
        "no space group",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/samples.tsv, row 1: no space group (P1 if it is not known)",
        samples("P 32 2 1", ""),
    ),
    Case(
        "space group at odds with the cell",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/samples.tsv, row 1: the cell 4.91 4.91 5.4 90 90 120 does not fit F d -3 m "
        ":2 (cubic), for which it would be 5.0786 5.0786 5.0786 90 90 90; correct one of them"
        " (P 1 if the space group is not known)",
        samples("P 32 2 1", "F d -3 m"),
    ),
    Case(
        "cell with a length of 0",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: cell 4.91 4.91 0 90 90 "
        "120 has no volume; enter lengths in Å and angles in degrees",
        cell("5.40", "0"),
    ),
    Case(
        "cell with a negative length",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: cell 4.91 4.91 -5.4 90 "
        "90 120 has no volume; enter lengths in Å and angles in degrees",
        cell("5.40", "-5.4"),
    ),
    Case(
        "cell with nan",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: cell 'nan' is not a number",
        cell("5.40", "nan"),
    ),
    Case(
        "cell of 10^6 Å",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: the cell 4.91 4.91 1e+06 "
        "90 90 120 is not plausible (lengths 1 to 2000 Å, angles 10 to 170°; entered in nm or "
        "radians?); enter it in Å and degrees",
        cell("5.40", "1e6"),
    ),
    Case(
        "cell in nm",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: the cell 0.491 0.491 "
        "0.54 90 90 120 is not plausible (lengths 1 to 2000 Å, angles 10 to 170°; entered in "
        "nm or radians?); enter it in Å and degrees",
        samples(CELL, CELL.replace("4.91", "0.491").replace("5.40", "0.54")),
    ),
    Case(
        "angles that span no volume",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: cell 4.91 4.91 5.4 90 30 "
        "150 has no volume; enter lengths in Å and angles in degrees",
        cell("90\t90\t120", "90\t30\t150"),
    ),
    Case(
        "cell with angles in radians",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: the cell 4.91 4.91 5.4 "
        "1.5708 1.5708 2.0944 is not plausible (lengths 1 to 2000 Å, angles 10 to 170°; "
        "entered in nm or radians?); enter it in Å and degrees",
        cell("90\t90\t120", "1.5708\t1.5708\t2.0944"),
    ),
    Case(
        "cell with an angle of 270°",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: the cell 4.91 4.91 5.4 "
        "90 90 270 is not plausible (lengths 1 to 2000 Å, angles 10 to 170°; entered in nm or "
        "radians?); enter it in Å and degrees",
        cell("90\t90\t120", "90\t90\t270"),
    ),
    Case(
        "cell with a negative angle",
        CHECK,
        "1 problem in the experiment:\n  …/config/samples.tsv, row 1: the cell 4.91 4.91 5.4 "
        "90 90 -120 is not plausible (lengths 1 to 2000 Å, angles 10 to 170°; entered in nm "
        "or radians?); enter it in Å and degrees",
        cell("90\t90\t120", "90\t90\t-120"),
    ),
    Case(
        "cell of three numbers",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/samples.tsv, row 1: give all six of a, b, c, alpha, beta, gamma or none",
        cell("90\t90\t120", "\t\t"),
    ),
    Case(
        "scan added with a temperature below 0 K",
        ADD.replace("--temperature 50", "--temperature=-3"),
        "…/config/scans.tsv, row 4: temperature -3 K is below absolute zero",
        good=ADD,
    ),
    Case(
        "scan added with a temperature in words",
        ADD.replace("--temperature 50", "--temperature cold"),
        'Invalid value for --temperature: unable to convert "cold" into float.',
        good=ADD,
    ),
    Case(
        "scan added whose files are not there",
        ADD.replace("r4", "r5"),
        "…/config/scans.tsv, row 4: no file matches …/raw/r5_####.tif; check the pattern",
        good=ADD,
    ),
    Case(
        "scan added with a tab in its path",
        ADD.replace("raw/r4_####.tif", "'raw/\tr4_####.tif'"),
        "raw 'raw/\\tr4_####.tif' has a tab, a line break or a quotation mark, which is not "
        "allowed in …/config/scans.tsv; leave it out",
        good=ADD,
    ),
    Case(
        "scan added with a line break in its path",
        ADD.replace("raw/r4_####.tif", "'raw/\nr4_####.tif'"),
        "raw 'raw/\\nr4_####.tif' has a tab, a line break or a quotation mark, which is not "
        "allowed in …/config/scans.tsv; leave it out",
        good=ADD,
    ),
    Case(
        "scan added with a quotation mark in its path",
        ADD.replace("raw/r4_####.tif", "'raw/\"r4_####.tif'"),
        "raw 'raw/\"r4_####.tif' has a tab, a line break or a quotation mark, which is not "
        "allowed in …/config/scans.tsv; leave it out",
        good=ADD,
    ),
    Case(
        "scan added with an empty path",
        ADD.replace("raw/r4_####.tif", "''"),
        "--raw is empty; name the raw file of the rotation",
        good=ADD,
    ),
    Case(
        "scan added of ../quartz",
        ADD.replace("quartz", "../quartz"),
        "…/config/scans.tsv, row 4: sample '../quartz' may only have letters, digits, '.', "
        "'+' and '-' (it names files); …/config/scans.tsv, row 4: sample '../quartz' is not "
        "in the table of samples",
        good=ADD,
    ),
    Case(
        "scan added again",
        ADD.replace("50K", "300K"),
        "…/config/scans.tsv, row 4: the rotations of 300K differ in temperature or parent; "
        "…/config/scans.tsv, row 4: rotation r1 of 300K occurs twice",
        good=ADD,
    ),
    Case(
        "scan added in a folder that is no experiment",
        ADD + " --directory nowhere",
        "…/nowhere/config/config.yaml does not exist; create an experiment with `hklflow init "
        "…/nowhere`, or give the folder of an experiment",
        good=ADD,
    ),
    Case(
        "scan added with a name of 300 letters",
        ADD.replace("50K", 300 * "5"),
        f"…/config/scans.tsv, row 4: scan 55555555555555555555... has 300 letters; {TOO_LONG}",
        good=ADD,
    ),
    Case(
        "scan added of #quartz",
        ADD.replace("quartz", "'#quartz'"),
        "a row that begins with '#quartz\\t5' would be a comment in …/config/scans.tsv; do not"
        " begin with #",
        good=ADD,
    ),
    Case(
        "sample added with a length of 0",
        ADD_SAMPLE.replace("7.1", "0"),
        "…/config/samples.tsv, row 2: cell 4.8 4.8 0 90 90 120 has no volume; enter lengths "
        "in Å and angles in degrees",
        good=ADD_SAMPLE,
    ),
    Case(
        "sample added with five numbers of a cell",
        ADD_SAMPLE.replace(" 120", ""),
        'Command "sample add" parameter --cell requires 6 positional arguments. Only got 5.',
        good=ADD_SAMPLE,
    ),
    Case(
        "sample added with an unknown space group",
        ADD_SAMPLE.replace("P6/mmm", "P7"),
        "unknown space group 'P7'; use a Hermann-Mauguin symbol (Fd-3m, P 1 21/c 1, R -3 c "
        ":H), a Hall symbol or a number from 1 to 230",
        good=ADD_SAMPLE,
    ),
    Case(
        "sample added with a cell at odds with its space group",
        ADD_SAMPLE.replace("P6/mmm", "Pm-3m"),
        "…/config/samples.tsv, row 2: the cell 4.8 4.8 7.1 90 90 120 does not fit P m -3 m "
        "(cubic), for which it would be 5.6713 5.6713 5.6713 90 90 90; correct one of them (P"
        " 1 if the space group is not known)",
        good=ADD_SAMPLE,
    ),
    Case(
        "sample added with a blank in its name",
        ADD_SAMPLE.replace("hexa", "'hexa gonal'"),
        "…/config/samples.tsv, row 2: sample 'hexa gonal' may only have letters, digits, '.',"
        " '+' and '-' (it names files)",
        good=ADD_SAMPLE,
    ),
    Case(
        "sample added with a name of 5,000 letters",
        ADD_SAMPLE.replace("hexa", 5000 * "h"),
        f"…/config/samples.tsv, row 2: sample hhhhhhhhhhhhhhhhhhhh... has 5000 letters; {TOO_LONG}",
        good=ADD_SAMPLE,
    ),
    Case(
        "sample added again",
        ADD_SAMPLE.replace("hexa", "quartz"),
        "…/config/samples.tsv, row 2: sample quartz occurs twice",
        good=ADD_SAMPLE,
    ),
]
