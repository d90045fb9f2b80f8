"""Exports to formats of other programs; more in tests/cli/test_export.py."""

from .cases import Case, cut, renamed, written
from .products import VOLUME

MAP = f"hklflow export ccp4 {VOLUME} x.ccp4"
PARTIAL = "results/quartz/300K/.transform.partial.0a1b2c3d.nxs"

CASES = [
    Case(
        "export without a format",
        "hklflow export",
        "give a format first: ccp4, cube, yell, discus, npy, vtk, mantid, temperatures, xtec, cif; "
        "`hklflow export --help` says which products each of them holds",
        good=MAP,
    ),
    Case(
        "export without a target",
        f"hklflow export ccp4 {VOLUME}",
        "give a file to export and a target: `hklflow export ccp4 FILE TARGET.ccp4`",
        good=MAP,
    ),
    Case(
        "export format that does not exist",
        MAP.replace("ccp4", "cpp4", 1),
        "there is no export format 'cpp4' (did you mean ccp4?); choose ccp4, cube, yell, discus, "
        "npy, vtk, mantid, temperatures, xtec, cif",
        good=MAP,
    ),
    Case(
        "export format that is not written",
        MAP.replace("ccp4", "rmcprofile", 1),
        "rmcprofile is not written: its manual describes no file of single-crystal diffuse "
        "scattering, and no public reader could check one; export yell, discus or mantid, which "
        "3DSConvert (github.com/maximeremenko/3DSConvert) converts for RMCProfile",
        good=MAP,
    ),
    Case(
        "frames to be exported as a map",
        MAP.replace(VOLUME, "raw/r1.nxs"),
        "raw/r1.nxs has no volume (it plots data), and this format holds one volume; give a "
        "merged, symmetrised or filled volume, a difference or a pair distribution",
        good=MAP,
    ),
    Case(
        "one volume to be exported as a series",
        f"hklflow export xtec {VOLUME} x.nxs",
        "results/quartz/300K/transform.nxs has a single volume, and this format holds a series; "
        "give a stack of S(Q) along temperature (`results/SAMPLE/stack_PARENT/transform.nxs`)",
        good=MAP,
    ),
    Case(
        "volume to be exported as reflections",
        f"hklflow export cif {VOLUME} x.cif",
        "results/quartz/300K/transform.nxs has no merged reflections; give structure_factors.nxs "
        "of a scan (`snakemake bragg` makes it)",
        good=MAP,
    ),
    Case(
        "ending of another format",
        MAP.replace("x.ccp4", "x.h5"),
        "x.h5 does not end in .ccp4 or .map or .mrc; give a name with an ending of the format ccp4",
        good=MAP,
    ),
    Case(
        "export over a file that exists",
        MAP,
        "x.ccp4 exists already; --force replaces it",
        written("x.ccp4", "x"),
        good=MAP + " --force",
    ),
    Case(
        "export into a folder that does not exist",
        MAP.replace("x.ccp4", "none/x.ccp4"),
        "there is no folder none; make it first or correct the path",
        good=MAP,
    ),
    Case(
        "export of a product that a job still writes",
        MAP.replace(VOLUME, PARTIAL),
        "results/quartz/300K/.transform.partial.0a1b2c3d.nxs is not finished: a job still writes "
        "it, or died; export the product under its final name",
        renamed(VOLUME, PARTIAL),
        good=MAP,
    ),
    Case(
        "export of a truncated product",
        MAP,
        "results/quartz/300K/transform.nxs is not a readable HDF5 file (…); create it again",
        cut(VOLUME),
    ),
    Case(
        "orientation of a series",
        f"hklflow export xtec {VOLUME} x.nxs --orientation raw/orientation.json",
        "--orientation has no effect on the format xtec; leave it out",
        good=MAP,
    ),
    Case(
        "orientation that is something else",
        MAP + " --orientation raw/orientation.json",
        "raw/orientation.json has no 'sample': an older hklflow wrote it, or it is not an "
        "orientation; refine that scan again",
        good=MAP,
    ),
]
