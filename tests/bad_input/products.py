"""Products, and the commands themselves."""

from .cases import Case, cut, removed, replaced, written
from .experiment import CHECK, IMPORT, SUM

VOLUME, SCAN = "results/quartz/300K/transform.nxs", "results/quartz/300K/r1/scan.nxs"
ORIENTATION = "raw/orientation.json"
SHOW, SHOW_JSON = f"hklflow show {VOLUME}", f"hklflow show {ORIENTATION}"


CASES = [
    Case(
        "product that is not there",
        SHOW,
        "there is no file results/quartz/300K/transform.nxs; check the path",
        removed(VOLUME),
    ),
    Case(
        "product truncated",
        SHOW,
        "results/quartz/300K/transform.nxs cannot be read (…); make it again",
        cut(VOLUME),
    ),
    Case(
        "product of 0 bytes",
        SHOW,
        "results/quartz/300K/transform.nxs is neither HDF5 (NeXus) nor .json; text opens in "
        "any editor",
        written(VOLUME, ""),
    ),
    Case(
        "path that is not in a product",
        SHOW + "/entry/nothing",
        "there is no 'nothing' in results/quartz/300K/transform.nxs/entry; it holds notes, "
        "plane, sample, title, transform",
        good=SHOW + "/entry/transform",
    ),
    Case(
        "path below a number",
        SHOW + "/entry/title/x",
        "entry/title of results/quartz/300K/transform.nxs is not a group",
        good=SHOW + "/entry/transform",
    ),
    Case(
        "picture to be shown",
        "hklflow show x.png",
        "x.png is a picture: open it in a viewer or a browser",
        written("x.png", "x"),
        good=SHOW,
    ),
    Case(
        "table to be shown",
        "hklflow show config/scans.tsv",
        "config/scans.tsv is neither HDF5 (NeXus) nor .json; text opens in any editor",
        good=SHOW,
    ),
    Case(
        "history of a raw file",
        "hklflow show raw/r1.nxs --history",
        "raw/r1.nxs has no history: hklflow did not make it, or only by hand",
        good=f"hklflow show {SCAN} --history",
    ),
    Case(
        "JSON truncated",
        SHOW_JSON,
        "raw/orientation.json is not valid JSON (…); make it again",
        cut(ORIENTATION),
    ),
    Case(
        "key that is not in a JSON file",
        SHOW_JSON + "/nothing",
        "there is no 'nothing' in raw/orientation.json; it holds space_group, cell, U, UB, "
        "rotations, warnings",
        good=SHOW_JSON + "/cell",
    ),
    Case(
        "misspelt command",
        "hklflow chekc",
        'Unknown command "chekc". Did you mean "check"? Available commands: init, import, '
        "sample, scan, config, mask, peaks, lattice, ...",
        good=CHECK,
    ),
    Case(
        "misspelt option of a command",
        "hklflow check --core 2",
        "Unknown option: --core. Did you mean --cores?",
        good="hklflow check --cores 2",
    ),
    Case(
        "0 cores",
        "hklflow check --cores 0",
        "--cores 0 is not a number of cores; give 1 or more",
        good="hklflow check --cores 2",
    ),
    Case(
        "cores in words",
        "hklflow check --cores all",
        'Invalid value for --cores: unable to convert "all" into int.',
        good="hklflow check --cores 2",
    ),
    Case(
        "0 threads",
        IMPORT + " --threads 0",
        "threads: 0 is less than 1; give the number of processor cores to use",
        good=IMPORT,
    ),
    Case(
        "threads in words",
        IMPORT + " --threads two",
        'Invalid value for --threads: unable to convert "two" into int.',
        good=IMPORT,
    ),
    Case(
        "stage without an output",
        IMPORT.replace(" --scan new/scan.nxs", ""),
        "Parameter --scan requires an argument.",
        good=IMPORT,
    ),
    Case(
        "stage without an input",
        IMPORT.replace("--raw raw/r1.nxs", ""),
        "--raw: Field required",
        good=IMPORT,
    ),
    Case(
        "sum of scans at different wavelengths",
        SUM,
        "the scans were not taken under identical conditions: wavelength: 0.5 Å in raw/r1.nxs"
        " but 0.6 Å in raw/repeated.nxs",
        replaced("raw/repeated.nxs", "entry/instrument/beam/incident_wavelength", 0.6),
    ),
    Case(
        "sum of a scan with itself",
        SUM.replace("repeated", "r1"),
        "raw/r1.nxs and raw/r1.nxs are the same scan; give each scan once",
        good=SUM,
    ),
    Case(
        "scan file in the place of a raw file",
        IMPORT.replace("raw/r1.nxs", SCAN),
        "results/quartz/300K/r1/scan.nxs: the wavelength is not known: set "
        "`import_scan: wavelength` in Å; the polarisation is not known: set "
        "`import_scan: polarization` (0.5: unpolarised); the detector's "
        "geometry is not known: give the row a `calibration`; the goniometer is "
        "not known: set `import_scan: axes` in the configuration; the start (None) or the step "
        "(None) of the scan is not known: give both in the scan table, `axis=start:step` in "
        "degrees; the exposure time is not known: set `import_scan: exposure` in seconds; the "
        "raw file has no monitor: set `import_scan: {monitor: none}` if the experiment has none",
        good=IMPORT,
    ),
    Case(
        "volume in the place of a raw file",
        IMPORT.replace("raw/r1.nxs", VOLUME),
        "results/quartz/300K/transform.nxs has no group /entry/data; give a raw data file",
        good=IMPORT,
    ),
]
