"""An experiment of which every scan is changed in its own way; used by ``test_inputs_change``.

A scan is a case: what its raw data are, what happens to them, which jobs must then be done again.
What is right is not asked of the code under test: a new experiment, made of the final inputs in
an empty folder, says it.
"""

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin  # noqa: F401  (raw frames are compressed)
import numpy as np
import yaml

from hklflow.formats.write_images import write_cbf_series
from tests.bad_input import experiment as tiny
from tests.forked import Forked
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).parents[2]
SAMPLE, ROTATION = "quartz", "r1"
HOUR = 3600
MEBI = 2**20

# ------------------------------------------------------------------------------ snakemake


@dataclass(frozen=True)
class Told:
    """What a run of snakemake, or a dry one, said."""

    code: int
    text: str
    seconds: float

    @property
    def jobs(self) -> frozenset[str]:
        """Jobs as `rule/what`, by the logs that their commands write."""
        found = re.findall(r"> '?\S*?/logs/(\w+/\S+?)\.log'? 2>&1", self.text)
        return frozenset(found)

    @property
    def nothing(self) -> bool:
        return self.code == 0 and "Nothing to be done" in self.text and not self.jobs

    def of(self, scan: str) -> frozenset[str]:
        """Its jobs of one scan."""
        names = (f"{SAMPLE}_{scan}", f"{SAMPLE}_{scan}_{ROTATION}")
        return frozenset(job for job in self.jobs if job.split("/")[1] in names)


def snakemake(folder: Path, *arguments: str, tools: Path | None = None, cores: int = 1) -> Told:
    """Run snakemake as a user does; the stages by the `python` of ``tools``, if there is one."""
    environment = dict(os.environ)
    before = [str(tools)] if tools else []
    before += [str(Path(sys.executable).parent), environment["PATH"]]
    environment["PATH"] = os.pathsep.join(before)
    command = [sys.executable, "-m", "snakemake", "--printshellcmds", "--cores", str(cores)]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    begin = time.monotonic()
    run = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    return Told(run.returncode, run.stdout + run.stderr, time.monotonic() - begin)


def shell(*words: str | Path) -> None:
    """A command of the system, that must succeed."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


# ---------------------------------------------------------- one process for all the stages

_PRELOAD = [
    "hdf5plugin",
    "fabio",
    "matplotlib.pyplot",
    "hklflow.stages.import_poni",
    "hklflow.stages.import_scan",
    "hklflow.stages.sum_scans",
    "hklflow.stages.pixel_mask",
    "hklflow.stages.find_peaks",
    "hklflow.stages.refine_parent",
    "hklflow.stages.refine",
    "hklflow.stages.accept",
    "hklflow.stages.mask_3d",
    "hklflow.stages.frame_scale",
    "hklflow.stages.transform",
]


class Stages(Forked):
    """The process that all stages are forked from."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _PRELOAD)


# ------------------------------------------------------------------------------ raw files

WAVELENGTH = "entry/instrument/beam/incident_wavelength"


@dataclass
class Rows:
    """Configuration and table, as they are and as they are to be."""

    config: dict[str, Any] = field(default_factory=dict)
    scans: list[dict[str, str]] = field(default_factory=list)

    def add(self, scan: str, raw: str, temperature: str = "300", **more: str) -> None:
        row = {"sample": SAMPLE, "scan": scan, "temperature": temperature, "parent": ""}
        self.scans.append(row | {"rotation": ROTATION, "raw": raw} | more)

    def row(self, scan: str) -> dict[str, str]:
        (found,) = [row for row in self.scans if row["scan"] == scan]
        return found

    def own(self, scan: str, section: str) -> dict[str, Any]:
        """The section of one scan, to be changed in place."""
        per_scan = self.config.setdefault("per_scan", {}).setdefault(f"{SAMPLE}/{scan}", {})
        return per_scan.setdefault(section, {})

    def write(self, folder: Path) -> None:
        (folder / "config").mkdir(exist_ok=True)
        (folder / "config/config.yaml").write_text(yaml.safe_dump(self.config))
        (folder / "config/samples.tsv").write_text(tiny.SAMPLES)
        columns = [*self.scans[0], "goniometer", "calibration"]
        with (folder / "config/scans.tsv").open("w", newline="") as file:
            table = csv.DictWriter(file, columns, "", delimiter="\t", lineterminator="\n")
            table.writeheader()
            table.writerows(self.scans)


class Workshop:
    """Writes raw files; each has counts of its own."""

    def __init__(self, stock: Path) -> None:
        tiny.make(stock)
        self.raw = stock / "raw"
        self.written = 0

    def counts(self, frames: int = tiny.N) -> np.ndarray[Any, Any]:
        self.written += 1
        rng = np.random.default_rng([7, self.written])
        return rng.poisson(50, (frames, *tiny.SHAPE)).astype(np.uint32)

    def nxmx(self, path: Path, wavelength: float = 0.5, pad: int = 0) -> None:
        """A raw file; with ``pad`` bytes before and behind, its numbers are in the middle."""
        path.parent.mkdir(exist_ok=True, parents=True)
        with h5py.File(self.raw / "r1.nxs") as source, h5py.File(path, "w") as file:
            _pad(file, "before", pad)
            file.attrs.update(source.attrs)
            for name in source:
                source.copy(name, file)
            file[WAVELENGTH][...] = wavelength
            file["entry/data/data"][...] = self.counts()
            _pad(file, "behind", pad)

    def linked(self, folder: Path) -> None:
        """A master file and its two data files."""
        folder.mkdir(parents=True)
        for path in self.raw.glob("r2_*"):
            shutil.copy(path, folder)
        counts = self.counts()
        for i in range(2):
            with h5py.File(folder / f"r2_data_{i + 1:06d}.h5", "r+") as file:
                file["entry/data/data"][...] = counts[3 * i : 3 * i + 3]

    def series(self, folder: Path, frames: int = tiny.N) -> None:
        """Images of a CBF series, i_0001.cbf and so on."""
        folder.mkdir(parents=True)
        written = write_cbf_series(
            folder,
            "i",
            [self.counts(frames)],
            wavelength=0.5,
            distance=0.1,
            beam_centre=(6.0, 5.0),
            pixel_size=(1e-4, 1e-4),
            start=np.radians(-5.0),
            step=np.radians(tiny.STEP),
            exposure=0.1,
            monitor=np.full(frames, 100.0),
            pixel_mask=np.zeros(tiny.SHAPE, bool),
        )
        for i, path in enumerate(written, start=1):
            path.rename(folder / f"i_{i:04d}.cbf")


def _pad(file: h5py.File, name: str, size: int) -> None:
    """A dataset of so many bytes, of which the disk holds none."""
    if size:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.CONTIGUOUS)
        made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((size,))
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_UINT8, space, made)


def age(path: Path, hours: float) -> None:
    """Give a file a time of change so many hours ago."""
    then = time.time() - hours * HOUR
    os.utime(path, (then, then))


def age_all(folder: Path, hours: float) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            age(path, hours)


def keeping_times(path: Path, edit: Callable[[Path], None]) -> None:
    """Edit a file in place, and put its times back."""
    before = path.stat()
    edit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def overwrite(path: Path, content: bytes) -> None:
    """Other content into the same file, not a new file."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def set_wavelength(path: Path, value: float = 0.75) -> None:
    """Write eight bytes of the file, where the number stands."""
    with h5py.File(path) as file:
        number = file[WAVELENGTH]
        place, kind = number.id.get_offset(), number.dtype
    assert place is not None
    with path.open("r+b") as raw:
        raw.seek(place)
        raw.write(np.array(value, kind).tobytes())


def replaced_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path}: {old!r} stands there {text.count(old)} times"
    overwrite(path, text.replace(old, new).encode())


# -------------------------------------------------------------------------------- cases

Raw = Path
"""The folder of raw files of the experiment at hand."""


@dataclass(frozen=True)
class Case:
    """What happens to a scan, and what must follow."""

    name: str
    make: Callable[["Rows", Workshop, Raw], None]
    """Write its raw files and its rows."""
    damage: Callable[["Rows", Workshop, Raw], None]
    """Change files and rows."""
    targets: tuple[str, ...] = ("scan.nxs",)
    """Products that are asked for, of the rotation or (with ../) of the scan."""
    must: frozenset[str] = frozenset()
    """Jobs that must be done again, `rule/what`."""
    may: frozenset[str] = frozenset()
    """Jobs that may be done again besides: their products name changed files, but do not change."""
    scans: tuple[str, ...] = ()
    """Scans of the case after the damage; the others of ``before`` are then orphans."""
    before: tuple[str, ...] = ()
    """Scans before it."""
    calibrations: tuple[str, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether something changes at all."""
        return bool(self.must)

    @property
    def orphans(self) -> tuple[str, ...]:
        return tuple(scan for scan in self.before if scan not in self.scans)

    def goals(self, scans: Iterable[str]) -> list[str]:
        places = [f"results/{SAMPLE}/{scan}/{ROTATION}/{t}" for scan in scans for t in self.targets]
        return [os.path.normpath(place) for place in places]

    def products(self, folder: Path) -> set[str]:
        """What there is of its scans, and of its calibrations."""
        results = folder / "results"
        places = [results / SAMPLE / scan for scan in self.scans]
        places += [results / "calibration" / name for name in self.calibrations]
        return {
            str(path.relative_to(results))
            for place in places
            for path in place.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }


def jobs(scan: str, *rules: str) -> frozenset[str]:
    """Jobs of a scan; those of a whole scan end with `!`."""
    return frozenset(
        f"{rule[:-1]}/{SAMPLE}_{scan}"
        if rule.endswith("!")
        else f"{rule}/{SAMPLE}_{scan}_{ROTATION}"
        for rule in rules
    )


CASES: dict[str, Case] = {}


def case(
    name: str,
    *rules: str,
    may: tuple[str, ...] = (),
    more: frozenset[str] = frozenset(),
    **given: Any,
) -> Callable[[Any], Any]:
    """Register a class with `make` and `damage` as a case; ``rules`` must be done again."""

    def register(made: Any) -> Any:
        scans = given.pop("scans", (name,))
        before = given.pop("before", scans)
        must = frozenset().union(*(jobs(scan, *rules) for scan in scans)) | more
        CASES[name] = Case(
            name,
            made.make,
            made.damage,
            must=must,
            may=frozenset().union(*(jobs(scan, *may) for scan in scans)),
            scans=scans,
            before=before,
            **given,
        )
        return made

    return register


def _one_file(name: str) -> Callable[[Rows, Workshop, Raw], None]:
    """The usual `make`: one NXmx file."""

    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.nxmx(raw / f"{name}.nxs")
        rows.add(name, f"raw/{name}.nxs")

    return make


def _other(shop: Workshop, raw: Raw, name: str) -> Path:
    """The right file, which arrives late and is older than what there is."""
    path = raw.parent / "elsewhere" / f"{name}.nxs"
    shop.nxmx(path, wavelength=0.75)
    age(path, 48)
    return path


def raw_file(name: str, *rules: str, **given: Any) -> Callable[[Any], None]:
    """A case of one NXmx file: the function gets its path."""

    def register(function: Callable[[Rows, Workshop, Path], None]) -> None:
        class Made:
            make = staticmethod(_one_file(name))

            @staticmethod
            def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
                function(rows, shop, raw / f"{name}.nxs")

        case(name, *rules, **given)(Made)

    return register


# A raw file is replaced by another one that is older.


@raw_file("replaced-cp", "import_scan")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    shell("cp", "-p", _other(shop, path.parent, "replaced-cp"), path)


@raw_file("replaced-mv", "import_scan")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    shell("mv", _other(shop, path.parent, "replaced-mv"), path)


@raw_file("replaced-tar", "import_scan")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    other = _other(shop, path.parent, "replaced-tar")
    archive = other.with_suffix(".tar")
    shell("tar", "-C", other.parent, "-cf", archive, other.name)
    shell("tar", "-C", path.parent, "-xf", archive)


if shutil.which("rsync"):

    @raw_file("replaced-rsync", "import_scan")
    def _(rows: Rows, shop: Workshop, path: Path) -> None:
        shell("rsync", "-a", _other(shop, path.parent, "replaced-rsync"), path)


@raw_file("edited", "import_scan")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    keeping_times(path, set_wavelength)


@case("edited-large", "import_scan")
class EditedLarge:
    @staticmethod
    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.nxmx(raw / "edited-large.nxs", pad=40 * MEBI)
        rows.add("edited-large", "raw/edited-large.nxs")

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        path = raw / "edited-large.nxs"
        with h5py.File(path) as file:
            place = file[WAVELENGTH].id.get_offset()
        size = path.stat().st_size
        assert size > 64 * MEBI
        assert size / 4 < place < 3 * size / 4, "the edit is not in the middle of the file"
        keeping_times(path, set_wavelength)


@case("folder-link", "import_scan")
class FolderLink:
    @staticmethod
    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.nxmx(raw / "day1/scan.nxs")
        shop.nxmx(raw / "day2/scan.nxs", wavelength=0.75)
        (raw / "day").symlink_to("day1")
        rows.add("folder-link", "raw/day/scan.nxs")

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        age(raw / "day2/scan.nxs", 48)
        (raw / "day").unlink()
        (raw / "day").symlink_to("day2")


# Frames that are not in the file of the table.


def _add_frames(shop: Workshop, path: Path, change: int = 1) -> None:
    with h5py.File(path, "r+") as file:
        file["entry/data/data"][1] = file["entry/data/data"][1] + np.uint32(change)


class _Linked:
    name: str

    @classmethod
    def make(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.linked(raw / cls.name)
        rows.add(cls.name, f"raw/{cls.name}/r2_master.h5")


_OF_FRAMES: dict[str, Any] = {"may": ("import_scan",), "targets": ("peaks.nxs",)}


@case("linked-replaced", "pixel_mask", "find_peaks", **_OF_FRAMES)
class LinkedReplaced(_Linked):
    name = "linked-replaced"

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        path = raw / "linked-replaced/r2_data_000002.h5"
        other = raw.parent / "elsewhere/r2_data_000002.h5"
        other.parent.mkdir(exist_ok=True)
        shutil.copy(path, other)
        _add_frames(shop, other)
        age(other, 48)
        shell("cp", "-p", other, path)


@case("linked-edited", "pixel_mask", "find_peaks", **_OF_FRAMES)
class LinkedEdited(_Linked):
    name = "linked-edited"

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        path = raw / "linked-edited/r2_data_000001.h5"
        keeping_times(path, lambda p: _add_frames(shop, p))


class _Series:
    name: str
    frames = tiny.N

    @classmethod
    def make(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.series(raw / cls.name, cls.frames)
        rows.add(
            cls.name,
            f"raw/{cls.name}/i_####.cbf",
            goniometer=f"chi=0 phi=-5:{tiny.STEP}",
            calibration="lab",
        )
        own = rows.own(cls.name, "import_scan")
        own |= {"axes": ["chi=0,0,1", "phi=-1,0,0"], "monitor": "none"}


def _other_image(raw: Raw, shop: Workshop, name: str) -> Path:
    """Image 4 of another measurement."""
    folder = raw.parent / "elsewhere" / name
    shop.series(folder)
    path = folder / "i_0004.cbf"
    age(path, 48)
    return path


@case("image-replaced", "pixel_mask", "find_peaks", **_OF_FRAMES)
class ImageReplaced(_Series):
    name = "image-replaced"

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        other = _other_image(raw, shop, "image-replaced")
        other.rename(raw / "image-replaced/i_0004.cbf")


@case("image-edited", "pixel_mask", "find_peaks", **_OF_FRAMES)
class ImageEdited(_Series):
    name = "image-edited"

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        content = _other_image(raw, shop, "image-edited").read_bytes()
        keeping_times(raw / "image-edited/i_0004.cbf", lambda path: overwrite(path, content))


@case("image-added", "import_scan")
class ImageAdded(_Series):
    name, frames = "image-added", tiny.N + 1

    @classmethod
    def make(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        super().make(rows, shop, raw)
        (raw / "image-added/i_0007.cbf").rename(raw / "image-added/later.bin")

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        (raw / "image-added/later.bin").rename(raw / "image-added/i_0007.cbf")


@case("sum-second", "sum_scans", "import_scan")
class SumSecond:
    @staticmethod
    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        for part in "ab":
            shop.nxmx(raw / f"sum-{part}.nxs")
        rows.add("sum-second", "raw/sum-a.nxs + raw/sum-b.nxs")

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        other = raw.parent / "elsewhere/sum-b.nxs"
        shop.nxmx(other)
        with h5py.File(other, "r+") as file:
            file["entry/monitor/data"][...] *= 2
        age(other, 48)
        shell("cp", "-p", other, raw / "sum-b.nxs")


# Geometry, masks, flat field, start: inputs that are no raw data.


class _Poni:
    name: str

    @classmethod
    def make(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.nxmx(raw / f"{cls.name}.nxs")
        shutil.copy(shop.raw / "lab.poni", raw / f"{cls.name}.poni")
        entry = {"poni": f"raw/{cls.name}.poni", "polarization": 0.99}
        rows.config["calibrations"][cls.name] = entry
        rows.add(cls.name, f"raw/{cls.name}.nxs", calibration=cls.name)

    @staticmethod
    def move(path: Path) -> None:
        replaced_text(path, "Distance: 0.1\n", "Distance: 0.2\n")


def _poni(name: str) -> dict[str, Any]:
    return {"more": frozenset({f"import_poni/{name}"}), "calibrations": (name,)}


@case("poni-replaced", "import_scan", **_poni("poni-replaced"))
class PoniReplaced(_Poni):
    name = "poni-replaced"

    @classmethod
    def damage(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        other = raw.parent / "elsewhere/other.poni"
        shutil.copy(raw / "poni-replaced.poni", other)
        cls.move(other)
        age(other, 48)
        shell("cp", "-p", other, raw / "poni-replaced.poni")


@case("poni-edited", "import_scan", **_poni("poni-edited"))
class PoniEdited(_Poni):
    name = "poni-edited"

    @classmethod
    def damage(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        keeping_times(raw / "poni-edited.poni", cls.move)


class _Mask:
    name: str
    steps = tiny.MASK

    @classmethod
    def make(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.nxmx(raw / f"{cls.name}.nxs")
        (raw / f"{cls.name}.yaml").write_text(cls.steps)
        rows.own(cls.name, "pixel_mask")["mask_file"] = f"raw/{cls.name}.yaml"
        rows.add(cls.name, f"raw/{cls.name}.nxs")

    @staticmethod
    def widen(path: Path) -> None:
        replaced_text(path, "radius: 2", "radius: 3")


@case("mask-replaced", "pixel_mask", targets=("mask.nxs",))
class MaskReplaced(_Mask):
    name = "mask-replaced"

    @classmethod
    def damage(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        other = raw.parent / "elsewhere/mask.yaml"
        shutil.copy(raw / "mask-replaced.yaml", other)
        cls.widen(other)
        age(other, 48)
        shell("mv", other, raw / "mask-replaced.yaml")


@case("mask-edited", "pixel_mask", targets=("mask.nxs",))
class MaskEdited(_Mask):
    name = "mask-edited"

    @classmethod
    def damage(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        keeping_times(raw / "mask-edited.yaml", cls.widen)


@case("mask-image", "pixel_mask", targets=("mask.nxs",))
class MaskImage(_Mask):
    """An image that a step of the mask file names."""

    name, steps = "mask-image", "- {image: mask-image.tif}\n"

    @classmethod
    def make(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        shutil.copy(shop.raw / "mask.tif", raw / "mask-image.tif")
        super().make(rows, shop, raw)

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        other = raw.parent / "elsewhere/mask.tif"
        mask = np.zeros(tiny.SHAPE, np.uint8)
        mask[7, 8] = mask[7, 9] = 1
        fabio.tifimage.TifImage(data=mask).write(str(other))
        age(other, 48)
        shell("cp", "-p", other, raw / "mask-image.tif")


@case("flat-field", "transform", targets=("transform.nxs",))
class FlatField:
    @staticmethod
    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.nxmx(raw / "flat-field.nxs")
        np.save(raw / "flat-field.npy", np.full(tiny.SHAPE, 1.25))
        rows.own("flat-field", "transform")["flat_field"] = "raw/flat-field.npy"
        rows.add("flat-field", "raw/flat-field.nxs")

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        other = raw.parent / "elsewhere/flat.npy"
        np.save(other, np.full(tiny.SHAPE, 0.75))
        age(other, 48)
        shell("cp", "-p", other, raw / "flat-field.npy")


def _start(rows: Rows, shop: Workshop, raw: Raw, name: str, turn: float) -> None:
    """A start of its own for a parent: the crystal is turned about the beam."""
    start = json.loads((shop.raw / "orientation.json").read_text())
    c, s = np.cos(turn), np.sin(turn)
    about = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    for key in ("U", "UB"):
        start[key] = (about @ np.array(start[key])).tolist()
    (raw / f"{name}.json").write_text(json.dumps(start))
    rows.own(name, "orientation")["start"] = f"raw/{name}.json"


@case("start-edited", "refine_parent!", targets=("../parent.json",))
class StartEdited:
    @staticmethod
    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        _one_file("start-edited")(rows, shop, raw)
        _start(rows, shop, raw, "start-edited", 0.1)

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        def turn(path: Path) -> None:
            _start(rows, shop, raw.parent / "elsewhere", "start-edited", 0.3)
            overwrite(path, (raw.parent / "elsewhere/start-edited.json").read_bytes())

        keeping_times(raw / "start-edited.json", turn)


# The tables.


@case(
    "renamed",
    "import_scan",
    scans=("renamed-new",),
    before=("renamed-old",),
)
class Renamed:
    @staticmethod
    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.nxmx(raw / "renamed.nxs")
        rows.add("renamed-old", "raw/renamed.nxs")

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        rows.row("renamed-old")["scan"] = "renamed-new"


@case("renamed-onto", "import_scan", scans=("onto",), before=("onto", "onto-from"))
class RenamedOnto:
    """The name that a scan gets was that of another one, whose results are there."""

    @staticmethod
    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        for name, file, wavelength in (("onto", "one", 0.5), ("onto-from", "two", 0.75)):
            shop.nxmx(raw / f"{file}.nxs", wavelength)
            rows.add(name, f"raw/{file}.nxs")

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        rows.scans.remove(rows.row("onto"))
        rows.row("onto-from")["scan"] = "onto"


class _Pair:
    name: str

    @classmethod
    def make(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        for part, wavelength, temperature in (("a", 0.5, "100"), ("b", 0.75, "300")):
            shop.nxmx(raw / f"{cls.name}-{part}.nxs", wavelength)
            rows.add(f"{cls.name}-{part}", f"raw/{cls.name}-{part}.nxs", temperature)

    @classmethod
    def swap(cls, rows: Rows, key: str) -> None:
        a, b = (rows.row(f"{cls.name}-{part}") for part in "ab")
        a[key], b[key] = b[key], a[key]


def _pair(name: str) -> dict[str, Any]:
    return {"scans": (f"{name}-a", f"{name}-b")}


@case("temperatures", "import_scan", **_pair("temperatures"))
class Temperatures(_Pair):
    name = "temperatures"

    @classmethod
    def damage(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        cls.swap(rows, "temperature")


@case("swapped-table", "import_scan", **_pair("swapped-table"))
class SwappedTable(_Pair):
    name = "swapped-table"

    @classmethod
    def damage(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        cls.swap(rows, "raw")


@case("swapped-disk", "import_scan", **_pair("swapped-disk"))
class SwappedDisk(_Pair):
    name = "swapped-disk"

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        a, b, t = (raw / f"swapped-disk-{part}.nxs" for part in "abt")
        for source, target in ((a, t), (b, a), (t, b)):
            shell("mv", source, target)


@case(
    "parent",
    scans=("child", "other"),
    more=jobs("child", "refine!", "accept!"),
    targets=("../accepted.json",),
)
class Parent:
    @staticmethod
    def make(rows: Rows, shop: Workshop, raw: Raw) -> None:
        # Its parent was `flat-field`.
        for name, parent in (("child", "flat-field"), ("other", "")):
            shop.nxmx(raw / f"{name}.nxs")
            rows.add(name, f"raw/{name}.nxs", parent=parent)
        _start(rows, shop, raw, "other", 0.2)

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        rows.row("child")["parent"] = "other"


@case("deleted", scans=(), before=("deleted-row",))
class Deleted:
    make = staticmethod(_one_file("deleted-row"))

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        rows.scans.remove(rows.row("deleted-row"))


# The configuration. Copies of the experiment are changed in the same way, see `configure`.


@raw_file("wavelength", "import_scan")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    rows.own("wavelength", "import_scan")["wavelength"] = 0.9


@raw_file("polarisation", "import_scan")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    rows.own("polarisation", "import_scan")["polarization"] = 0.5


@raw_file("grid", "refine_parent!", targets=("../parent.json",))
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    rows.own("grid", "refine_parent")["grid_step"] = [0.2, 0.2, 0.2]


CONFIGURED = ("wavelength", "polarisation", "grid")

# No change at all.


def _none(rows: Rows, shop: Workshop, path: Path) -> None:
    pass


raw_file("untouched")(_none)


class _Padded:
    """A file of more than a megabyte, of which snakemake takes no checksum."""

    name: str

    @classmethod
    def make(cls, rows: Rows, shop: Workshop, raw: Raw) -> None:
        shop.nxmx(raw / f"{cls.name}.nxs", pad=MEBI)
        rows.add(cls.name, f"raw/{cls.name}.nxs")


@case("touched")
class Touched(_Padded):
    name = "touched"

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        (raw / "touched.nxs").touch()


@case("future")
class Future(_Padded):
    """A clock that is ahead, from the beginning (see `measure`)."""

    name = "future"
    damage = staticmethod(_none)


@case("future-later")
class FutureLater(_Padded):
    name = "future-later"

    @staticmethod
    def damage(rows: Rows, shop: Workshop, raw: Raw) -> None:
        age(raw / "future-later.nxs", -2)


@raw_file("touched-small")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    path.touch()


@raw_file("chmod")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    path.chmod(0o640)


@raw_file("hard-link")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    path.with_name("another-name.bin").hardlink_to(path)


@raw_file("read")
def _(rows: Rows, shop: Workshop, path: Path) -> None:
    """Its time of access changes."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


STALE = tuple(name for name, c in CASES.items() if c.stale)
QUIET = tuple(name for name, c in CASES.items() if not c.stale and name != "deleted")

CONFIG: dict[str, Any] = {
    "calibrations": {"lab": {"poni": "raw/lab.poni", "polarization": 0.99}},
    "orientation": {"fixed": True, "start": "raw/start.json"},
    "frame_scale": {"source": "none"},
    "refine_parent": {"grid_step": [0.1, 0.1, 0.1], "grid_limits": [1.0, 1.0, 1.0]},
    "delta_pdf": [],
}


class Experiment:
    """The experiment of some cases: as measured, and as it is in the end."""

    def __init__(self, folder: Path, shop: Workshop, names: Iterable[str]) -> None:
        self.folder, self.shop = folder, shop
        self.cases = [CASES[name] for name in names]
        self.rows = Rows(copy.deepcopy(CONFIG))

    @property
    def raw(self) -> Raw:
        return self.folder / "raw"

    def measure(self) -> None:
        """Write all as it is at first; all files are an hour old."""
        self.raw.mkdir(parents=True)
        (self.folder / "elsewhere").mkdir()
        shutil.copy(self.shop.raw / "lab.poni", self.raw)
        shutil.copy(self.shop.raw / "orientation.json", self.raw / "start.json")
        for one in self.cases:
            one.make(self.rows, self.shop, self.raw)
        self.rows.write(self.folder)
        age_all(self.folder, 1)
        if (self.raw / "future.nxs").exists():
            age(self.raw / "future.nxs", -2)

    def damage(self) -> None:
        for one in self.cases:
            one.damage(self.rows, self.shop, self.raw)
        self.rows.write(self.folder)

    def configured(self) -> Rows:
        """The first tables with the cases of the configuration only."""
        rows = copy.deepcopy(self.rows)
        for name in CONFIGURED:
            CASES[name].damage(rows, self.shop, self.raw / f"{name}.nxs")
        return rows

    def goals(self, names: Iterable[str] | None = None) -> list[str]:
        """Products that are asked for, of the scans that the table has now."""
        there = [row["scan"] for row in self.rows.scans]
        chosen = [one for one in self.cases if names is None or one.name in set(names)]
        found = [
            goal
            for one in chosen
            for goal in one.goals(s for s in dict.fromkeys(one.before + one.scans) if s in there)
        ]
        return found


# ------------------------------------------------------------------------- comparison

#: Keys of a provenance record that tell when and how long, not what.
IGNORED_IN_RECORDS = {"started", "ended", "date", "seconds"}
#: Keys of an input's record that tell the state of a file, not its content.
IGNORED_OF_INPUTS = {
    "standing",
    "mtime",
    "mtime_ns",
    "ctime",
    "ctime_ns",
    "inode",
    "ino",
    "device",
    "dev",
}
#: Keys of an input's record that are hashes of bytes. A product holds its own times, so its hash is
#: ignored too; that of a raw file must be the same.
HASHES = {"sha256", "sampled", "fingerprint", "state"}
#: Datasets of NeXus files, by the end of their name within an NXprocess.
IGNORED_DATASETS = {"date"}


def differences(first: Path, second: Path, names: set[str]) -> list[str]:
    """How these products differ, `-` and `+` of what is in one folder only."""
    found = []
    for name in sorted(names):
        a, b = first / name, second / name
        if not a.exists() or not b.exists():
            found.append(f"{name}: only in {'the fresh' if b.exists() else 'this'} experiment")
        elif a.suffix == ".nxs":
            one, two = (_hdf5(path) for path in (a, b))
            found += _told(name, one, two)
        elif a.suffix == ".json":
            one, two = (_flat(_plain_json(json.loads(path.read_text()))) for path in (a, b))
            found += _told(name, one, two)
        elif a.read_bytes() != b.read_bytes():
            found.append(f"{name}: other bytes")
    return found


def _told(name: str, one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    keys = [key for key in one.keys() | two.keys() if one.get(key, ...) != two.get(key, ...)]
    return [
        f"{name}: {key}: {_short(one.get(key))} / {_short(two.get(key))}" for key in sorted(keys)
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _plain_json(data: Any) -> Any:
    """JSON without what the lists above name."""
    if isinstance(data, dict):
        kept = {
            key: [_record(record) for record in value]
            if key == "provenance" and isinstance(value, list)
            else _plain_json(value)
            for key, value in data.items()
        }
        return kept
    return [_plain_json(item) for item in data] if isinstance(data, list) else data


def _record(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key not in IGNORED_IN_RECORDS}
    kept["inputs"] = {
        name: [_input(item) for item in items] for name, items in record["inputs"].items()
    }
    kept["sources"] = [_input(item) for item in record.get("sources", ())]
    return kept


def _input(item: dict[str, Any]) -> dict[str, Any]:
    ignored = set(IGNORED_OF_INPUTS)
    if "results" in Path(item["path"]).parts:
        ignored |= HASHES | {"size"}
    return {key: value for key, value in item.items() if key not in ignored}


def _flat(data: Any, at: str = "") -> dict[str, Any]:
    """The values of JSON by their places."""
    if isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        found = {at or "/": f"{type(data).__name__} of {len(data)}"}
        for key, value in items:
            found |= _flat(value, f"{at}/{key}")
        return found
    return {at: repr(data)}  # so that 1, 1.0, True and NaN are what they are


def _hdf5(path: Path) -> dict[str, Any]:
    """Everything in a file by its name; links are not followed."""
    with h5py.File(path) as file:
        return _group(file)


def _group(group: h5py.Group) -> dict[str, Any]:
    found: dict[str, Any] = {f"{group.name}@{k}": _bits(v) for k, v in group.attrs.items()}
    for name in group:
        link, place = group.get(name, getlink=True), f"{group.name.rstrip('/')}/{name}"
        if isinstance(link, h5py.ExternalLink):
            found[place] = ("external link", link.filename, link.path)
        elif isinstance(link, h5py.SoftLink):
            found[place] = ("link", link.path)
        elif isinstance(item := group[name], h5py.Group):
            found |= {place: "group"} | _group(item)
        else:
            found |= {f"{place}@{k}": _bits(v) for k, v in item.attrs.items()}
            process = "/process_" in place
            if process and name in IGNORED_DATASETS:
                continue
            if process and place.endswith("/record/data"):
                found |= _flat(_record(json.loads(item[()])), place)
            else:
                found[place] = (str(item.dtype), item.shape, item.chunks, _bits(item[()]))
    return found


def _bits(value: Any) -> Any:
    """Something that compares to the bit."""
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype.hasobject else (str(value.dtype), value.tobytes())
    if isinstance(value, np.generic):
        return (str(value.dtype), value.tobytes())
    return value.decode() if isinstance(value, bytes) else value
