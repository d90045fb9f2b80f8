"""The configuration file and its layers."""

from itertools import pairwise

from .cases import Case, Spoil, edited, removed, several, written
from .experiment import CHECK, CONFIG

YAML = "config/config.yaml"
# Ten values, each of which stands for nine of the one before: 9¹⁰ in all.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghij")
)


def config(*changes: tuple[str, str]) -> Spoil:
    """Change the configuration."""
    return edited(YAML, *changes)


def more(text: str) -> Spoil:
    """Append to the configuration."""
    return written(YAML, CONFIG + text)


def _half(what: str, text: str, told: str) -> Case:
    """Case of half a character, as ``"\\ud800"`` in YAML."""
    return Case(
        f"half a character: {what}",
        CHECK,
        f"…/config/config.yaml: {told}, which has half a character (a surrogate); write the "
        "character itself, in UTF-8",
        more(text),
    )


def _number(section: str, name: str, value: str, told: str) -> Case:
    """Case of a number that no experiment has."""
    return Case(
        f"{name} of {value} in the configuration",
        CHECK,
        f"1 problem in the experiment:\n  config: {section}.{name}: {told}",
        more(f"{section}: {{{name}: {value}}}\n"),
    )


def _crystals(wrong: str, entry: str, told: str) -> Case:
    """Case of a set of scans that are merged."""
    where = "1 problem in the experiment:\n  config: crystals.all"
    return Case(wrong, CHECK, where + told, more(f"crystals: {{all: {{{entry}}}}}\n"))


_SUBSTANCES = "crystals: {all: {scans: [quartz/300K, salt/200K]}}\npixel_mask"


def _run(wrong: str, run: str, told: str, *spoils: Spoil) -> Case:
    """Case of a run without the crystal."""
    section = f"background: {{runs: {{air: {{{run}}}}}}}\n"
    return Case(wrong, CHECK, told, several(more(section), *spoils))


def _stills(wrong: str, told: str, more_text: str = "", **entry: str) -> Case:
    """Case of still frames."""
    facts = {"raw": "raw/r1.nxs", "cell": "[4.91, 4.91, 5.4, 90, 90, 120]"}
    facts |= {"space_group": "P 3 2 1"} | entry
    inner = ", ".join(f"{key}: {value}" for key, value in facts.items())
    return Case(wrong, CHECK, told, more(f"stills: {{jet: {{{inner}}}}}\n{more_text}"))


_ONE = "1 problem in the experiment:\n  "
CASES = [
    _stills(
        "still frames that do not exist",
        _ONE + "config: stills.jet: raw/jet.h5 does not exist",
        raw="raw/jet.h5",
    ),
    _stills(
        "cell of still frames without the symmetry of the space group",
        _ONE + "config: stills.jet.cell: 4.91 5.2 5.4 90 90 120 does not have the symmetry of "
        "P 3 2 1, which needs 5.058 5.058 5.4 90 90 120; correct the cell or the space group",
        cell="[4.91, 5.2, 5.4, 90, 90, 120]",
    ),
    _stills(
        "more batches than still frames",
        _ONE + "jet index_stills: 7 batches cannot be made of the 6 frames of raw/r1.nxs; set "
        "fewer `batches`",
        batches="7",
    ),
    _stills(
        "author of a detector without a store",
        _ONE + "config: stills.jet.refine_stills_detector.author: the detector is proposed to the "
        "store of `calibration`, which is not an entry with `store`; give one, or no author",
        refine_stills_detector="{author: A}",
    ),
    _stills(
        "still frames without DIALS",
        "DIALS is needed but there is no dials.version in nowhere; get it with `apt-get install "
        "dials` or `conda env create -f envs/dials.yaml`, or set its folder in `dials: prefix` "
        "(see docs/dials.md)",
        "dials: {prefix: nowhere}\n",
    ),
    _run(
        "background with the frames of the crystal",
        "raw: ./raw/r1.nxs, seen_through: not",
        "1 problem in the experiment:\n  config: background.runs.air.raw: ./raw/r1.nxs has the "
        "frames of quartz/300K, rotation r1, with the crystal; give a run without the crystal",
    ),
    _run(
        "transmission of the crystal above 1",
        "raw: raw/repeated.nxs, seen_through: crystal, transmission: 1.5",
        "1 problem in the experiment:\n  config: background.runs.air.transmission: Input should be "
        "less than or equal to 1 (it is 1.5)",
    ),
    _run(
        "factor of a background of 0",
        "raw: raw/repeated.nxs, seen_through: not, scale: 0",
        "1 problem in the experiment:\n  config: background.runs.air.scale: Input should be "
        "greater than 0; or: Input should be 'fit' (it is 0)",
    ),
    _run(
        "file of transmissions that is empty",
        "raw: raw/repeated.nxs, seen_through: crystal, transmission: t.txt, rotations: [r1]",
        "1 problem in the experiment:\n  …/config/scans.tsv, row 1 (background): t.txt has an "
        "array of (0,) numbers; give one transmission of the crystal, above 0 and at most 1, for "
        "each of the 6 frames (and 2 more jobs: …)",
        written("t.txt", ""),
    ),
    _run(
        "transmission of a background that does not pass through the crystal",
        "raw: raw/repeated.nxs, seen_through: not, transmission: 0.5",
        "1 problem in the experiment:\n  config: background.runs.air: Value error, `transmission` "
        "has no effect on a background that is `seen_through: not`; correct `seen_through`, or "
        "leave the transmission out",
    ),
    _run(
        "background with a product of the workflow",
        "raw: results/quartz/300K/r1/scan.nxs, seen_through: not",
        "1 problem in the experiment:\n  config: background.runs.air.raw: "
        "results/quartz/300K/r1/scan.nxs is among the products of this workflow, made of frames "
        "with the crystal; give a run without the crystal",
    ),
    _crystals(
        "crystal that is not in the table of scans",
        "scans: [quartz/300K, quartz/50K]",
        ": there is no scan 'quartz/50K' (scans are named `sample/scan`)",
    ),
    _crystals(
        "crystal that is merged twice",
        "scans: [quartz/300K, quartz/100K, quartz/300K]",
        ": quartz/300K is given twice; give each scan once",
    ),
    Case(
        "crystals of two substances",
        CHECK,
        "1 problem in the experiment:\n  config: crystals.all: quartz (SiO2) and salt (NaCl) are "
        "different substances; make a set of each, or correct the formulas",
        several(
            edited(
                "config/samples.tsv",
                ("SiO2\n", "SiO2\nsalt\tF m -3 m" + "\t5.64" * 3 + "\t90" * 3 + "\tNaCl\n"),
            ),
            edited("config/scans.tsv", ("quartz\t200K\t200\t300K", "salt\t200K\t200\t200K")),
            edited(YAML, ("quartz/200K", "salt/200K"), ("pixel_mask", _SUBSTANCES)),
        ),
    ),
    Case(
        "scan that is merged with an analysis of it",
        CHECK,
        "1 problem in the experiment:\n  config: crystals.all: quartz/300K and quartz/300K@near "
        "have the same frames; give one of them",
        more(
            "  quartz/300K@near: {find_peaks: {threshold: 4.0}}\n"
            "crystals: {all: {scans: [quartz/300K, quartz/300K@near]}}\n"
        ),
    ),
    _crystals(
        "single crystal that is merged",
        "scans: [quartz/300K]",
        ".scans: at least 2 values belong here, not 1 (it is ['quartz/300K'])",
    ),
    _crystals(
        "crystal to leave out that is not merged",
        "scans: [quartz/300K, quartz/100K], leave_out: [quartz/200K]",
        ": leave_out names 'quartz/200K', which is not among its scans",
    ),
    _crystals(
        "all crystals but one left out",
        "scans: [quartz/300K, quartz/100K], leave_out: [quartz/100K]",
        ": leave_out leaves fewer than two scans; remove the set or name fewer",
    ),
    _crystals(
        "word instead of crystals to leave out",
        "scans: [quartz/300K, quartz/100K], leave_out: none",
        ".leave_out: Input should be 'auto'; or: Input should be a valid list (it is 'none')",
    ),
    Case(
        "powder rings that are subtracted without `unmeasured: subtract`",
        CHECK,
        "1 problem in the experiment:\n  config: background.rings: `subtract` has no effect "
        "without `unmeasured: subtract`; add it, or leave `rings` out",
        more("background: {unmeasured: report, rings: subtract}\n"),
    ),
    Case(
        "error of the background of an absolute scale without a structure",
        CHECK,
        "1 problem in the experiment:\n  config: absolute_scale.background_error: it has no "
        "effect without a structure (the method of high angles uses both); give `absolute_scale: "
        "{cif: ...}`, or leave it out",
        more("absolute_scale: {background_error: 0.01}\n"),
    ),
    Case(
        "attenuation of the crystal given twice",
        CHECK,
        "1 problem in the experiment:\n  config: absorption: Value error, `mu` and `density` state "
        "the attenuation twice; give one of them (null, for a formula '', removes one of a lower "
        "layer)",
        more("absorption: {shape: {kind: sphere, radii: [0.1]}, mu: 5, density: 4.2}\n"),
    ),
    Case(
        "attenuation of a crystal without a shape",
        CHECK,
        "1 problem in the experiment:\n  config: absorption: mu is given, but no scan has a shape "
        "of its crystal, so nothing would be corrected; give `absorption: {shape: ...}`, or remove "
        "the section",
        more("absorption: {mu: 5}\n"),
    ),
    Case(
        "radius of the crystal in µm",
        CHECK,
        "1 problem in the experiment:\n  config: absorption.shape.radii.0: Input should be less "
        "than or equal to 20 (it is 100)",
        more("absorption: {shape: {kind: sphere, radii: [100]}, mu: 5}\n"),
    ),
    Case(
        "density of the crystal in kg/m³",
        CHECK,
        "1 problem in the experiment:\n  config: absorption.density: Input should be less than or "
        "equal to 25 (it is 2650)",
        more("absorption: {shape: {kind: sphere, radii: [0.1]}, density: 2650}\n"),
    ),
    *(
        Case(
            wrong,
            CHECK,
            f"1 problem in the experiment:\n  config: absorption.shape{message}",
            more(f"absorption: {{shape: {{kind: unknown{extents}}}, mu: 5}}\n"),
        )
        for wrong, message, extents in (
            (
                "unknown shape of the crystal without extents",
                ": Value error, a crystal of unknown shape needs `size: [smallest, largest extent "
                "in mm]`",
                "",
            ),
            (
                "extents of an unknown shape in the wrong order",
                ": Value error, the smallest extent 0.3 mm is above the largest, 0.1 mm",
                ", size: [0.3, 0.1]",
            ),
            (
                "smallest extent of an unknown shape of 0",
                ".size.0: Input should be greater than 0 (it is 0)",
                ", size: [0, 0.3]",
            ),
            (
                "largest extent of an unknown shape below 0",
                ".size.1: Input should be greater than 0 (it is -0.3)",
                ", size: [0.1, -0.3]",
            ),
            (
                "largest extent of an unknown shape in µm",
                ".size.1: Input should be less than or equal to 20 (it is 300)",
                ", size: [0.05, 300]",
            ),
            (
                "one extent of an unknown shape",
                ".size.1: a value is missing (it is [0.1])",
                ", size: [0.1]",
            ),
            (
                "three extents of an unknown shape",
                ".size: at most 2 values belong here, not 3 (it is [0.1, 0.2, 0.3])",
                ", size: [0.1, 0.2, 0.3]",
            ),
            (
                "unknown shape of the crystal with a radius",
                ": Value error, a crystal of unknown shape has no radii: leave it out",
                ", size: [0.1, 0.3], radii: [0.1]",
            ),
            (
                "unknown shape of the crystal with faces",
                ": Value error, a crystal of unknown shape has no faces: leave it out",
                ", size: [0.1, 0.3], faces: [{hkl: [1, 0, 0], distance: 0.1}]",
            ),
        )
    ),
    Case(
        "splines of the scale closer than any frames",
        CHECK,
        "1 problem in the experiment:\n  config: refine_scale.frame_step: Input should be greater "
        "than or equal to 0.1 (it is 1e-09)",
        more("refine_scale: {use: true, frame_step: 1.0e-9}\n"),
    ),
    Case(
        "limits of χ² in the wrong order",
        CHECK,
        "1 problem in the experiment:\n  config: refine_scale: Value error, max_chi2 1.1 is below "
        "told_chi2 1.2, so that results would be left out without a word; give max_chi2 the larger "
        "value",
        more("refine_scale: {max_chi2: 1.1}\n"),
    ),
    _half("folder of the results", 'results: "\\ud800"\n', r"results is '\ud800'"),
    _half("key", '"\\ud800": 3\n', r"a key is '\ud800'"),
    _half("in a list", 'import_scan: {axes: ["\\ud800"]}\n', r"import_scan.axes is '\ud800'"),
    _number(
        "order_parameters",
        "vectors",
        "[[1, 0, 0.01]]",
        "Value error, (1.0, 0.0, 0.01) is a reflection of the parent, not a propagation vector; "
        "follow single reflections with `stack: reflections` (it is [[1, 0, 0.01]])",
    ),
    _number(
        "import_scan",
        "exposure",
        "1e-320",
        "exposure time 9.99989e-321 s is outside the plausible range 1e-15 to 100000 s: set "
        "`import_scan: exposure` in seconds",
    ),
    _number(
        "import_scan",
        "wavelength",
        "1e-320",
        "wavelength 9.99989e-321 Å is outside the range of X-rays, 0.06 to 10 Å (entered in "
        "nm, m or eV?): set `wavelength` in Å",
    ),
    _number(
        "import_scan",
        "saturation",
        "1e-3",
        "saturation 0.001 counts is outside the plausible range 1 to 1e+20: set `saturation`",
    ),
    _number(
        "import_scan",
        "attenuation",
        "1e-320",
        "transmission 9.99989e-321 of the attenuators is not plausible (above 1e-12, at most "
        "1): set `import_scan: attenuation`",
    ),
    _number(
        "correct_frames",
        "energy",
        "18000",
        "energy 18000 keV is outside the range of X-rays, 1.2 to 210 keV (entered in eV?): "
        "set `energy` in keV",
    ),
    _number(
        "accept",
        "min_strain",
        "1e-320",
        "9.99989e-321 is not plausible (1e-30 to 1e+30, or 0); correct the number",
    ),
    Case(
        "text of megabytes in the place of a number",
        CHECK,
        "1 problem in the experiment:\n  config: import_scan.exposure: Input should be a valid "
        "number, unable to parse string as a number (it is 'xxx… (1000002 characters) …xxx')",
        more(f"import_scan: {{exposure: {10**6 * 'x'}}}\n"),
    ),
    Case(
        "no configuration",
        CHECK,
        "…/config/config.yaml does not exist; create an experiment with `hklflow init …`, or "
        "give the folder of an experiment",
        removed(YAML),
    ),
    Case(
        "list in the place of a configuration",
        CHECK,
        "…/config/config.yaml holds a list; it must be `key: value` lines",
        written(YAML, "- calibrations\n- lab\n"),
    ),
    Case(
        "words in the place of a configuration",
        CHECK,
        "…/config/config.yaml holds text; it must be `key: value` lines",
        written(YAML, "hello\n"),
    ),
    Case(
        "bracket that is not closed",
        CHECK,
        "…/config/config.yaml is not valid YAML: …",
        more("find: [1, 2\n"),
    ),
    Case(
        "tab in the place of blanks",
        CHECK,
        "…/config/config.yaml is not valid YAML: …",
        config(("  n_sigma", "\tn_sigma")),
    ),
    Case(
        "configuration in Latin-1",
        CHECK,
        "…/config/config.yaml is not valid YAML: …",
        written(YAML, (CONFIG + "results: ü\n").encode("latin-1")),
    ),
    Case(
        "null byte in the configuration",
        CHECK,
        "…/config/config.yaml is not valid YAML: …",
        written(YAML, CONFIG.encode() + b"a: \0\n"),
    ),
    Case(
        "YAML bomb: aliases of aliases",
        CHECK,
        "…/config/config.yaml holds more than 200000 values with its aliases (`*name`) "
        "written out; write the values without aliases",
        more(BOMB),
    ),
    Case(
        "lists nested 500 deep",
        CHECK,
        "…/config/config.yaml is nested too deeply for a configuration; correct it",
        more("a: " + 500 * "[" + 500 * "]" + "\n"),
    ),
    Case(
        "Python command in YAML",
        CHECK,
        "…/config/config.yaml is not valid YAML: …",
        more("a: !!python/object/apply:os.system ['touch pwned']\n"),
    ),
    Case(
        "mapping that holds itself",
        CHECK,
        "…/config/config.yaml holds more than 200000 values with its aliases (`*name`) "
        "written out; write the values without aliases",
        more("a: &a {b: *a}\n"),
    ),
    Case(
        "two YAML documents in one file",
        CHECK,
        "…/config/config.yaml is not valid YAML: …",
        more("---\na: 1\n"),
    ),
    Case(
        "section that stands twice",
        CHECK,
        "…/config/config.yaml is not valid YAML: the key find_peaks occurs twice; keep one, or "
        "join their items line 5, column 1: find_peaks: ^",
        more("find_peaks:\n  n_sigma: 6\n"),
    ),
    Case(
        "key that stands twice",
        CHECK,
        "…/config/config.yaml is not valid YAML: the key n_sigma occurs twice; keep one, or "
        "join their items line 6, column 3: n_sigma: 5 ^",
        config(("n_sigma: 5", "n_sigma: 5\n  n_sigma: 6")),
    ),
    Case(
        "misspelt key",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peaks.nsigma: there is no such key (it is 5); did you mean n_sigma?",
        config(("n_sigma", "nsigma")),
    ),
    Case(
        "misspelt section",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peak: there is no such key; did you mean find_peaks?",
        config(("find_peaks", "find_peak")),
    ),
    Case(
        "hyphen in the place of an underscore",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peaks.n-sigma: there is no such key (it is 5); did you mean n_sigma?",
        config(("n_sigma", "n-sigma")),
    ),
    Case(
        "number as key",
        CHECK,
        "1 problem in the experiment:\n  config: 5: Keys should be strings (it is 5)",
        more("5: 6\n"),
    ),
    Case(
        "date as a folder",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: Input should be a valid string (it is datetime.date(2026, 1, 1))",
        more("results: 2026-01-01\n"),
    ),
    Case(
        "number in words",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peaks.n_sigma: Input should be a valid number, unable to parse string"
        " as a number (it is 'five')",
        config(("n_sigma: 5", "n_sigma: five")),
    ),
    Case(
        "number with a comma",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peaks.n_sigma: Input should be a valid number, unable to parse string"
        " as a number (it is '5,5')",
        config(("n_sigma: 5", "n_sigma: 5,5")),
    ),
    Case(
        "NaN as parameter",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peaks.n_sigma: Input should be a finite number (it is nan)",
        config(("n_sigma: 5", "n_sigma: .nan")),
    ),
    Case(
        "infinity as parameter",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peaks.n_sigma: Input should be a finite number (it is inf)",
        config(("n_sigma: 5", "n_sigma: .inf")),
    ),
    Case(
        "section that is empty",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peaks: the section is empty; write its keys below it, indented, or "
        "remove it",
        config(("find_peaks:\n  n_sigma: 5", "find_peaks:")),
    ),
    Case(
        "section that is a list",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: find_peaks: keys and their values are wanted, `key: value` (it is [5])",
        config(("find_peaks:\n  n_sigma: 5", "find_peaks: [5]")),
    ),
    Case(
        "results in /",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: '/' cannot be the folder of the products: config/samples.tsv is "
        "in it; give them a folder of their own",
        more("results: /\n"),
    ),
    Case(
        "results without a name",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: '' cannot be the folder of the products: give it a name without "
        "braces and line breaks",
        more("results: ''\n"),
    ),
    Case(
        "results with a placeholder",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: 'out/{sample}' cannot be the folder of the products: give it a "
        "name without braces and line breaks",
        more("results: 'out/{sample}'\n"),
    ),
    Case(
        "results among the raw data",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: 'raw' cannot be the folder of the products: raw/r1.nxs is in it; "
        "give them a folder of their own",
        more("results: raw\n"),
    ),
    Case(
        "results among the configuration",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: 'config' cannot be the folder of the products: config/samples.tsv"
        " is in it; give them a folder of their own",
        more("results: config\n"),
    ),
    Case(
        "results in the folder above",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: '..' cannot be the folder of the products: config/samples.tsv is "
        "in it; give them a folder of their own",
        more("results: ..\n"),
    ),
    Case(
        "results with a line break",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: 'a\\nb' cannot be the folder of the products: give it a name "
        "without braces and line breaks",
        more('results: "a\\nb"\n'),
    ),
    Case(
        "results where a file is",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: results: 'raw/lab.poni' cannot be the folder of the products: it is a "
        "file; give another name, or move the file away",
        more("results: raw/lab.poni\n"),
    ),
    Case(
        "grid step of 0",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: refine_parent.grid_step.0: Input should be greater than or equal to 0.0001"
        " (it is 0)",
        more("refine_parent: {grid_step: [0, 0.1, 0.1]}\n"),
    ),
    Case(
        "negative grid step",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: refine_parent.grid_step.0: Input should be greater than or equal to 0.0001"
        " (it is -0.1)",
        more("refine_parent: {grid_step: [-0.1, 0.1, 0.1]}\n"),
    ),
    Case(
        "grid step that is NaN",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: refine_parent.grid_step.0: Input should be a finite number (it is nan)",
        more("refine_parent: {grid_step: [.nan, 0.1, 0.1]}\n"),
    ),
    Case(
        "grid step of 10^-9",
        CHECK,
        "3 problems in the experiment:\n"
        "  config: refine_parent.grid_step.0: Input should be greater than or equal to 0.0001"
        " (it is '1e-9')\n"
        "  config: refine_parent.grid_step.1: Input should be greater than or equal to 0.0001"
        " (it is '1e-9')\n"
        "  config: refine_parent.grid_step.2: Input should be greater than or equal to 0.0001"
        " (it is '1e-9')",
        more("refine_parent: {grid_step: [1e-9, 1e-9, 1e-9]}\n"),
    ),
    Case(
        "grid that no machine can hold",
        CHECK,
        "1 problem in the experiment:\n"
        "  quartz 300K refine_parent: a grid of 6401 x 6401 x 7201 = 2.95e+11 voxels is too large "
        "for any machine (2e+11 voxels at most: one volume to be symmetrised takes 4 TB of memory, "
        "this one 5.9 TB); set a coarser `grid_step` or a smaller grid",
        more("refine_parent: {grid_step: [0.0025, 0.0025, 0.0025], grid_limits: [8, 8, 9]}\n"),
    ),
    Case(
        "grid limit of 10^300",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: refine_parent.grid_limits.0: Input should be less than or equal to 100000 (it "
        "is 1e+300)",
        more("refine_parent: {grid_limits: [1.0e+300, 1, 1]}\n"),
    ),
    Case(
        "grid limit of 0",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: refine_parent.grid_limits.0: Input should be greater than 0 (it is 0)",
        more("refine_parent: {grid_limits: [0, 1, 1]}\n"),
    ),
    Case(
        "0 blocks of frames",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: frame_blocks: Input should be greater than or equal to 1 (it is 0)",
        more("frame_blocks: 0\n"),
    ),
    Case(
        "axis without a third component",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: import_scan.axes: goniometer axis 'phi=1,0' is not `name=x,y,z`, such as "
        "`phi=-1,0,0`",
        more("import_scan: {axes: ['phi=1,0']}\n"),
    ),
    Case(
        "yes as monitor",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: import_scan.monitor: Input should be a valid string (it is True)",
        more("import_scan: {monitor: yes}\n"),
    ),
    Case(
        "frames to be left out in words",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: import_scan.leave_out.1: Value error, 'last' names no frames: write `17`, "
        "`100-120`, or `r1:17-18` for one rotation, with numbers counted from 0 (it is 'last')",
        more("import_scan: {leave_out: [3, last]}\n"),
    ),
    Case(
        "frames to be left out of a rotation that is not there",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: import_scan.leave_out: 'r9:3' is not in a rotation of the scans that it is for "
        "(they have r1)",
        more("import_scan: {leave_out: [4-5, 'r1:2', 'r9:3']}\n"),
    ),
    Case(
        "mask file that is not there",
        CHECK,
        "1 problem in the experiment:\n  config: pixel_mask: config/masks.yaml does not exist",
        config(("config/mask.yaml", "config/masks.yaml")),
    ),
    Case(
        "PONI file that is not there",
        CHECK,
        "1 problem in the experiment:\n  config: calibrations.lab: raw/lap.poni does not exist",
        config(("raw/lab.poni", "raw/lap.poni")),
    ),
    Case(
        "slash in the name of a calibration",
        CHECK,
        "2 problems in the experiment:\n"
        "  …/config/scans.tsv, row 3: there is no calibration 'lab': the configuration "
        "defines la/b\n"
        "  config: calibration 'la/b' may only have letters, digits, '.', '+' and '-' (it "
        "names files)",
        config(("  lab:", "  la/b:")),
    ),
    Case(
        "calibration without a polarisation",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: calibrations.lab.poni.polarization: Field required",
        config((", polarization: 0.99", "")),
    ),
    Case(
        "polarisation in per cent",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: calibrations.lab.poni.polarization: Input should be less than or equal to "
        "1 (it is 99)",
        config(("polarization: 0.99", "polarization: 99")),
    ),
    Case(
        "calibration by an image and a PONI file",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: calibrations.lab.poni.image: there is no such key (it is 'raw/mask.tif'); "
        "it has no keys",
        config(("{poni:", "{image: raw/mask.tif, poni:")),
    ),
    Case(
        "settings of an unknown sample",
        CHECK,
        "1 problem in the experiment:\n  config: per_sample: there is no sample 'quarz'",
        more("per_sample: {quarz: {find_peaks: {n_sigma: 6}}}\n"),
    ),
    Case(
        "settings of an unknown scan",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: per_scan: there is no scan 'quartz/20K' (scans are named `sample/scan`, "
        "analyses `sample/scan@name`)",
        config(("quartz/200K", "quartz/20K")),
    ),
    Case(
        "facility file that is not there",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: facility: configuration …/../facility.yaml does not exist; correct the path",
        more("facility: ../facility.yaml\n"),
    ),
    Case(
        "facility file that names one itself",
        CHECK,
        "1 problem in the experiment:\n"
        "  facility file config/config.yaml: `facility` is not allowed here",
        more("facility: config/config.yaml\n"),
    ),
    Case(
        "facility file that is no YAML",
        CHECK,
        "1 problem in the experiment:\n  config: facility: …/config/f.yaml is not valid YAML: …",
        several(more("facility: config/f.yaml\n"), written("config/f.yaml", "a: [\n")),
    ),
    Case(
        "folder as facility file",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: facility: configuration …/raw is a folder, not a file; correct the path",
        more("facility: raw\n"),
    ),
    Case(
        "table of samples that is not there",
        CHECK,
        "4 problems in the experiment:\n"
        "  …/config/none.tsv does not exist; `hklflow init` makes the tables\n"
        "  …/config/scans.tsv, row 1: sample 'quartz' is not in the table of samples\n"
        "  …/config/scans.tsv, row 2: sample 'quartz' is not in the table of samples\n"
        "  …/config/scans.tsv, row 3: sample 'quartz' is not in the table of samples",
        more("samples: config/none.tsv\n"),
    ),
    Case(
        "unknown symmetry of volumes",
        CHECK,
        "1 problem in the experiment:\n  config: symmetrise.symmetry: unknown space group "
        "'P9'; use a Hermann-Mauguin symbol (Fd-3m, P 1 21/c 1, R -3 c :H), a Hall symbol or "
        "a number from 1 to 230",
        more("symmetrise: {symmetry: P9}\n"),
    ),
    Case(
        "plane with four indices",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: planes.hkl: plane 'h k 0 l': it has 4 expressions, a plane needs three; write "
        "three linear expressions of two of the letters h, k, l, such as `h k 0`, `h h l` or "
        "`h k 0.5`",
        more("planes: {hkl: ['h k 0 l']}\n"),
    ),
    Case(
        "cell without volume in the configuration",
        CHECK,
        "1 problem in the experiment:\n  config: refine_parent.cell: cell 4 4 5 90 30 150 has "
        "no volume; enter lengths in Å and angles in degrees",
        more("refine_parent: {cell: [4, 4, 5, 90, 30, 150]}\n"),
    ),
    Case(
        "misspelt parameter asked for",
        "hklflow config explain find_peaks.nsigma",
        "there is no 'nsigma' in find_peaks; did you mean n_sigma?",
        good="hklflow config explain find_peaks.n_sigma",
    ),
    Case(
        "orientation to start from that is not there",
        CHECK,
        "1 problem in the experiment:\n  config: orientation: raw/no.expt does not exist",
        more("orientation: {start: raw/no.expt}\n"),
    ),
]
