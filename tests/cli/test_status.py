"""`hklflow status`, of folders whose states are made here, as snakemake 9 leaves them.

`tests/workflow/test_status.py` holds the table of jobs to the workflow's own.
"""

import base64
import hashlib
import html
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.patience import PATIENCE

from .conftest import Hklflow

SAMPLES = """sample	space_group	a	b	c	alpha	beta	gamma
hexa	P 6/m m m	4.8	4.8	7.15	90	90	120
"""
SCANS = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
START = 1_700_000_000


@pytest.fixture(autouse=True)
def hollow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are empty files here: what they say of themselves is `tests/test_freshness.py`."""
    monkeypatch.setattr("hklflow.experiment.freshness.Freshness.verdicts", lambda self: [])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An experiment of two scans of two rotations in which everything is done."""
    (tmp_path / "config").mkdir()
    (tmp_path / "raw").mkdir()
    config = {
        "calibrations": {"powder": {"poni": "raw/a.poni", "polarization": 0.99}},
        "import_scan": {"axes": ["phi=-1,0,0"], "exposure": 0.1},
    }
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "config/samples.tsv").write_text(SAMPLES)
    rows = [
        f"hexa\t{t}K\t{t}\t300K\tr{r}\traw/{t}_{r}.nxs\tphi=0:1\tpowder\n"
        for t in (300, 100)
        for r in (1, 2)
    ]
    (tmp_path / "config/scans.tsv").write_text(SCANS + "".join(rows))
    for name in ("a.poni", *(f"{t}_{r}.nxs" for t in (300, 100) for r in (1, 2))):
        (tmp_path / "raw" / name).touch()
    finish(tmp_path)
    return tmp_path


# All jobs of the experiment and their products, in an order in which they can be made. Of the
# default `delta_pdf` only the volume without artefacts goes on to the PDF.
OF_ROTATION = """
import_scan scan.nxs
pixel_mask mask.nxs mask.png mask.json
find_peaks peaks.nxs peaks.png peaks.json statistics.nxs statistics.png statistics.json
frame_scale scale.nxs scale.png scale.json
mask_3d frame_mask.nxs frame_mask.png
"""
OF_PARENT = """
refine_parent parent.json parent.png
"""
OF_SCAN = """
refine orientation.json residuals.png
accept accepted.json
transform r1/transform.nxs r1/masked_transform.nxs
transform r2/transform.nxs r2/masked_transform.nxs
merge transform.nxs transform.png transform_coverage.png transform.json
merge masked_transform.nxs masked_transform.png masked_transform_coverage.png masked_transform.json
symmetrise symm_transform.nxs symm_transform.png symm_transform.json
symmetrise symm_masked_transform.nxs symm_masked_transform.png symm_masked_transform.json
fill filled_masked_transform.nxs filled_masked_transform.png filled_masked_transform.json
pdf delta_pdf_masked_transform.nxs delta_pdf_masked_transform.png delta_pdf_masked_transform.json
pdf total_pdf_masked_transform.nxs total_pdf_masked_transform.png total_pdf_masked_transform.json
planes planes_symm_masked_transform.png
planes planes_delta_pdf_masked_transform.png
"""
OF_CHILD = """
difference difference_masked_transform.nxs difference_masked_transform.png \
    difference_masked_transform.json pdf_difference_masked_transform.nxs
"""
MASTER = """
scan_file hexa_{scan}.nxs
"""
OF_SAMPLE = """
temperature_series temperature_series/series.tsv temperature_series/series.nxs \
    temperature_series/series.png temperature_series/findings.json
order_parameters temperature_series/order.tsv temperature_series/order.png \
    temperature_series/order.json
stack stack_300K/transform.nxs stack_300K/transform.tsv stack_300K/transform.png
stack stack_300K/masked_transform.nxs stack_300K/masked_transform.tsv \
    stack_300K/masked_transform.png
stack stack_300K/symm_masked_transform.nxs stack_300K/symm_masked_transform.tsv \
    stack_300K/symm_masked_transform.png
stack_pdf stack_300K/delta_pdf_masked_transform.nxs stack_300K/delta_pdf_masked_transform.tsv \
    stack_300K/delta_pdf_masked_transform.png stack_300K/pdf_series_masked_transform.tsv \
    stack_300K/pdf_series_masked_transform.png stack_300K/pdf_series_masked_transform.json
sample_page hexa.html in_report_hexa.html findings.md
"""


class Made(NamedTuple):
    """A job as it is known without hklflow."""

    rule: str
    key: tuple[str, ...]
    products: tuple[str, ...]


def all_jobs(results: str = "results", binned: bool = False) -> list[Made]:
    """The jobs of the experiment: two scans of two rotations, the first of them the parent."""

    def listed(text: str, *key: str) -> Iterator[Made]:
        folder = "/".join((results, *key))
        for line in text.format(scan=key[-1]).strip().splitlines():
            rule, *names = line.split()
            mine = key
            if rule == "transform":
                mine = (*key, names[0].split("/")[0])
            elif rule.startswith("stack"):
                mine = (*key, "300K")
            yield Made(rule, mine, tuple(f"{folder}/{name}" for name in names))

    # It is the same in a quick look.
    found = [Made("import_poni", ("powder",), ("results/calibration/powder/geometry.json",))]
    for scan in ("300K", "100K"):
        for rotation in ("r1", "r2"):
            if binned:
                found += listed("bin_frames binned.nxs", "hexa", scan, rotation)
            found += listed(OF_ROTATION, "hexa", scan, rotation)
    for scan, of_one in (
        ("300K", (OF_PARENT, OF_SCAN, MASTER)),
        ("100K", (OF_SCAN, OF_CHILD, MASTER)),
    ):
        for text in of_one:
            found += listed(text, "hexa", scan)
    found += listed(OF_SAMPLE, "hexa")
    names = ("summary.tsv", "overview.html", "series.png")
    return [*found, Made("overview", (), tuple(f"{results}/overview/{name}" for name in names))]


N_JOBS = len(all_jobs())


def finish(base: Path, results: str = "results", binned: bool = False) -> None:
    """Make all products, later ones later."""
    for number, job in enumerate(all_jobs(results, binned)):
        for product in job.products:
            write(base / product, product, START + number)


def write(path: Path, text: str, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (seconds, seconds))


def encoded(path: str) -> Path:
    """Name of an output in ``.snakemake``: base64, long ones in folders."""
    name = base64.urlsafe_b64encode(path.encode()).decode()
    parts = [name[i : i + 254] for i in range(0, len(name), 254)]
    return Path(*("@" + part for part in parts[:-1]), parts[-1])


def begin(base: Path, *products: str, number: str | None = None) -> None:
    """What is there while a job makes these."""
    for product in products:
        mark = base / ".snakemake/incomplete" / encoded(product)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps({"external_jobid": number}))


def lock(base: Path, seconds: float = START + 1000, host: str | None = None) -> None:
    for name in ("0.input.lock", "0.output.lock"):
        write(base / ".snakemake/locks" / name, "results/x\n", seconds)
    told = f"  Date: 2026-01-01\n  Host: {host or os.uname().nodename}\n"
    write(base / ".snakemake/log/2026-01-01T000000.000000.snakemake.log", told, seconds)


def remove(base: Path, *products: str) -> None:
    for product in products:
        (base / "results/hexa" / product).unlink()


@pytest.fixture
def alive(base: Path) -> Iterator[None]:
    """A process that looks like snakemake, in the experiment's folder."""
    code = "import sys, time; print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "snakemake"]
    with subprocess.Popen(command, cwd=base, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def told(hklflow: Hklflow, base: Path, *arguments: str) -> str:
    done = hklflow("status", base, *arguments)
    assert done.code == 0, done.err
    return done.out


def cells(out: str, scan: str) -> dict[str, str]:
    """Row of a scan by the names of the columns, whose places are those of the first line."""
    lines = out.splitlines()
    head = lines[0]
    (row,) = [line for line in lines if line.startswith("hexa") and line.split()[1] == scan]
    names = head.split()
    starts = [head.index(name) for name in names]
    ends = [*starts[1:], None]
    return {name: row[a:b].strip() for name, a, b in zip(names, starts, ends, strict=True)}


def told_jobs(hklflow: Hklflow, base: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(told(hklflow, base, "--json", *arguments))["jobs"]
    return found


def states(hklflow: Hklflow, base: Path, *arguments: str) -> dict[tuple[str, ...], Any]:
    """Jobs by their key and rule; of several kinds of volumes the last."""
    return {(*job["key"], job["rule"]): job for job in told_jobs(hklflow, base, *arguments)}


def test_every_job_is_told_once(hklflow: Hklflow, base: Path) -> None:
    jobs = all_jobs()
    assert len(jobs) == N_JOBS
    found = [
        (job["rule"], tuple(job["key"]), job["product"], job["state"])
        for job in told_jobs(hklflow, base)
    ]
    wanted = [(job.rule, job.key, job.products[0], "done") for job in jobs]
    assert sorted(found) == sorted(wanted)


def test_everything_is_done(hklflow: Hklflow, base: Path) -> None:
    out = told(hklflow, base)
    for scan in ("300K", "100K"):
        row = cells(out, scan)
        assert list(row) == [
            "sample", "scan", "import", "mask", "peaks", "refine", "accept", "transform",
            "merge", "symm", "fill", "pdf", "file",
        ]  # fmt: skip
        assert set(row.values()) == {"hexa", scan, "done"}
    assert "powder: calibration done\nhexa: series done, stacks done, page done\n" in out
    assert out.splitlines()[-1].startswith("everything is done, as the configuration")


def test_nothing_is_done(hklflow: Hklflow, base: Path) -> None:
    (base / "results").rename(base / "gone")
    out = told(hklflow, base)
    assert set(cells(out, "100K").values()) == {"hexa", "100K", "-", "0/2 -"}
    assert f"{N_JOBS} of {N_JOBS} jobs are to be done; next" in out.splitlines()[-1]
    assert {job["state"] for job in told_jobs(hklflow, base)} == {"wait"}


def test_a_column_with_steps_that_were_not_asked_for(hklflow: Hklflow, base: Path) -> None:
    """A run to accepted.json makes the pixel mask and the peaks, no 3-D mask and no scale."""
    for rotation in ("r1", "r2"):
        kinds = ("frame_mask.nxs", "frame_mask.png", "scale.nxs", "scale.png", "scale.json")
        remove(base, *(f"100K/{rotation}/{kind}" for kind in kinds))
    row = cells(told(hklflow, base), "100K")
    assert row["import"] == row["refine"] == row["accept"] == "done"
    assert row["mask"] == row["peaks"] == "0/2 part"


def fail(base: Path, sentence: str = "hklflow find_peaks: no peak was found; look") -> None:
    """As snakemake leaves it: the products of the job are gone, the log stays."""
    for name in ("peaks", "statistics"):
        remove(base, *(f"100K/r2/{name}.{kind}" for kind in ("nxs", "png", "json")))
    text = f"frames: 150/150 after 1.3 s\n{sentence}\n"
    write(base / "results/logs/find_peaks/hexa_100K_r2.log", text, START + 900)


def test_a_failure_has_its_sentence_its_log_and_what_waits(hklflow: Hklflow, base: Path) -> None:
    fail(base)
    out = told(hklflow, base)
    row = cells(out, "100K")
    assert row["import"] == row["mask"] == "done"
    assert row["peaks"] == "1/2 fail"
    # What follows was made from what is gone: it is not done, though it is there.
    assert {row[name] for name in ("refine", "accept", "merge", "pdf", "file")} == {"old"}
    assert row["transform"] == "0/2 old"
    assert set(cells(out, "300K").values()) == {"hexa", "300K", "done"}
    assert "\nfail  hexa 100K r2 find_peaks: no peak was found; look\n" in out
    assert "      log: results/logs/find_peaks/hexa_100K_r2.log\n" in out
    assert (
        "waits for it: hexa 100K: peaks, refine, accept, transform, merge, symm, fill, pdf, file; "
        "hexa: series, stacks, page; experiment: overview\n"
    ) in out
    assert "\n1 job failed: correct the errors above; next" in out
    # Done are the calibration, all jobs of 300K, and of 100K those of r1 and all but two of r2.
    of_rotation = len(OF_ROTATION.strip().splitlines())
    of_parent = [job for job in all_jobs() if job.key[:2] == ("hexa", "300K")]
    of_parent = [job for job in of_parent if not job.rule.startswith("stack")]
    done = 1 + len(of_parent) + of_rotation + (of_rotation - 2)
    number = Counter(job["state"] for job in told_jobs(hklflow, base))
    assert number == {"done": done, "fail": 1, "old": N_JOBS - done - 1}


def test_what_was_not_made_yet_is_held_by_a_failure(hklflow: Hklflow, base: Path) -> None:
    fail(base)
    remove(base, "100K/orientation.json", "100K/transform.nxs", "100K/r1/transform.nxs")
    out = told(hklflow, base)
    row = cells(out, "100K")
    # What is not there counts for more than what is old.
    assert (row["refine"], row["transform"], row["merge"]) == ("held", "0/2 held", "held")
    assert (row["accept"], row["fill"]) == ("old", "old")
    found = states(hklflow, base)
    assert found["hexa", "100K", "r1", "transform"]["state"] == "held"
    assert found["hexa", "100K", "r2", "transform"]["state"] == "old"
    assert found["hexa", "100K", "r2", "frame_scale"]["state"] == "old"
    assert found["hexa", "100K", "r2", "mask_3d"]["state"] == "done"


def test_an_error_without_a_sentence(hklflow: Hklflow, base: Path) -> None:
    fail(base, 'Traceback (most recent call last):\n  File "x"\nValueError: shapes differ')
    found = states(hklflow, base)["hexa", "100K", "r2", "find_peaks"]
    assert (found["state"], found["reason"]) == ("fail", "ValueError: shapes differ")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("None", "it ended without a word, as if killed"),
        ("SLURM-job '7' failed, SLURM status is: 'OUT_OF_MEMORY'.",
         "SLURM-job '7' failed, SLURM status is: 'OUT_OF_MEMORY'."),
    ],
)  # fmt: skip
def test_a_job_that_was_killed_is_told_by_snakemake(
    hklflow: Hklflow, base: Path, message: str, reason: str
) -> None:
    fail(base, "")
    # Products that are gone for another reason are to be made, not failed.
    assert states(hklflow, base)["hexa", "100K", "r2", "find_peaks"]["state"] == "wait"
    log = base / ".snakemake/log/2026-01-01T000000.000000.snakemake.log"
    text = (
        "Error in rule pixel_mask:\n    message: other\n    log: results/logs/x.log (check log"
        f" file(s) for error details)\nError in rule find_peaks:\n    message: {message}\n"
        "    log: results/logs/find_peaks/hexa_100K_r2.log (check log file(s) for error details)\n"
    )
    write(log, text, START)
    found = states(hklflow, base)["hexa", "100K", "r2", "find_peaks"]
    assert (found["state"], found["reason"]) == ("fail", reason)


def test_a_half_written_product_is_not_done(hklflow: Hklflow, base: Path) -> None:
    remove(base, "100K/r1/mask.nxs")
    write(base / "results/hexa/100K/r1/.mask.partial.0123abcd.nxs", "half", START)
    assert cells(told(hklflow, base), "100K")["mask"] == "1/2 -"
    # One of several outputs: neither.
    write(base / "results/hexa/100K/r1/mask.nxs", "whole", START)
    remove(base, "100K/r1/mask.png")
    assert cells(told(hklflow, base), "100K")["mask"] == "1/2 -"


@pytest.mark.usefixtures("alive")
def test_a_job_at_work(hklflow: Hklflow, base: Path) -> None:
    lock(base)
    begin(base, "results/hexa/100K/transform.nxs", "results/hexa/100K/transform.png", number="812")
    out = told(hklflow, base)
    # Its product is there still, or already: snakemake has not said that it is whole.
    row = cells(out, "100K")
    assert (row["merge"], row["transform"], row["file"]) == ("run", "done", "old")
    assert "\nrun   hexa 100K merge (Slurm job 812)\n" in out
    assert "\nsnakemake is at work since " in out
    (merge,) = [
        job
        for job in told_jobs(hklflow, base)
        if job["product"].endswith("K/transform.nxs") and "100K" in job["key"]
    ]
    assert (merge["rule"], merge["state"], merge["slurm_job"]) == ("merge", "run", "812")


@pytest.mark.usefixtures("alive")
def test_the_time_that_is_left_is_that_of_the_jobs_that_ended(hklflow: Hklflow, base: Path) -> None:
    """Two of three sums run, half done, one waits: 21 s each, two at a time."""
    lock(base)
    head = "s\th:m:s\tmax_rss\n"
    write(base / "results/benchmarks/planes/a.tsv", f"{head}20.0\t-\t-\n", START)
    write(base / "results/benchmarks/planes/b.tsv", f"{head}22.0\t-\t-\n", START)
    write(base / "results/benchmarks/planes/c.tsv", "half a table", START)
    jobs = [job for job in all_jobs() if job.rule == "planes"]
    for job in jobs[:2]:
        begin(base, *job.products)
    (base / jobs[2].products[0]).unlink()
    others = sum(x["state"] != "done" for x in told_jobs(hklflow, base)) - 3
    line = told(hklflow, base).splitlines()[-1]
    found = re.search(r"snakemake is at work .*, about (\d+) s left \(2 jobs at a time\); ", line)
    assert found, line
    # What is made of the planes is left too: the page, which takes seconds.
    assert 21 <= int(found[1]) <= 21 + 20 * others


def test_the_state_is_a_page_that_renews_itself(
    hklflow: Hklflow, base: Path, tmp_path: Path
) -> None:
    page = tmp_path / "state.html"
    remove(base, "100K/r1/mask.nxs")
    out = told(hklflow, base, "--html", str(page))
    text = page.read_text()
    assert "refresh" not in text
    assert out.splitlines()[-1] in html.unescape(text)
    assert '<span class="badge warn">old</span>' in text
    # Without a snakemake at work, --watch looks once.
    assert told(hklflow, base, "--watch", "--html", str(page)) == out
    assert '<meta http-equiv="refresh" content="10">' in page.read_text()
    for name, message in (
        ("state.txt", "state.txt: give the page a name that ends with .html"),
        ("other.html", "other.html exists and is no page of `hklflow status`; give another name"),
        ("none/state.html", "make it first or correct the path"),
    ):
        (tmp_path / "other.html").write_text("<p>mine</p>")
        done = hklflow("status", base, "--html", tmp_path / name)
        assert (done.code, done.out) == (2, "")
        assert done.err.rstrip().endswith(message)
    assert (tmp_path / "other.html").read_text() == "<p>mine</p>"
    done = hklflow("status", base, "--watch", "--json")
    assert (done.code, "--watch and --json exclude each other" in done.err) == (2, True)


@pytest.mark.usefixtures("alive")
def test_watch_looks_again_and_ends_by_an_interrupt(
    hklflow: Hklflow, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock(base)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("hklflow.cli.status.time.sleep", sleep)
    done = hklflow("status", base, "--watch")
    assert (done.code, done.err, waits) == (0, "", [10, 10])
    assert done.out.count("snakemake is at work") == 2


@pytest.mark.usefixtures("alive")
def test_verify_says_that_snakemake_is_at_work(hklflow: Hklflow, base: Path) -> None:
    lock(base)
    remove(base, "100K/transform.nxs")
    line = hklflow("verify", base).out.splitlines()[-1]
    assert re.fullmatch(
        r"snakemake is at work \(process \d+\): products that it has not made yet are out "
        "of date or missing; verify again when it has ended",
        line,
    )


@pytest.mark.usefixtures("alive")
def test_a_failure_of_an_earlier_run_will_be_tried_again(hklflow: Hklflow, base: Path) -> None:
    fail(base)
    lock(base, seconds=START + 500)
    assert cells(told(hklflow, base), "100K")["peaks"] == "1/2 fail"
    lock(base, seconds=START + 1000)
    assert cells(told(hklflow, base), "100K")["peaks"] == "1/2 -"
    assert states(hklflow, base)["hexa", "100K", "r2", "find_peaks"]["state"] == "wait"


def test_a_killed_run(hklflow: Hklflow, base: Path) -> None:
    lock(base)
    begin(base, "results/hexa/100K/r1/transform.nxs", "results/hexa/100K/r1/masked_transform.nxs")
    out = told(hklflow, base)
    assert cells(out, "100K")["transform"] == "1/2 lost"
    assert "\nlost  hexa 100K r1 transform\n" in out
    last = out.splitlines()[-1]
    assert " was killed; next in " in last
    assert last.count("--unlock, then snakemake") == 1
    # Interrupted in order: no lock is left.
    for path in (base / ".snakemake/locks").iterdir():
        path.unlink()
    out = told(hklflow, base)
    assert cells(out, "100K")["transform"] == "1/2 lost"
    assert "(interrupted jobs start again); next" in out.splitlines()[-1]


def test_a_run_on_another_machine_may_live(hklflow: Hklflow, base: Path) -> None:
    lock(base, host="cluster-head")
    begin(base, "results/hexa/100K/r1/transform.nxs")
    out = told(hklflow, base)
    assert cells(out, "100K")["transform"] == "1/2 run"
    assert "(on cluster-head), about" in out.splitlines()[-1]


def test_a_long_name_of_an_output(hklflow: Hklflow, base: Path) -> None:
    results = "results_" + "x" * 200
    (base / "results").rename(base / results)
    product = f"{results}/hexa/100K/r1/mask.nxs"
    assert len(base64.urlsafe_b64encode(product.encode())) > 255
    arguments = ("--config", f"results={results}")
    assert cells(told(hklflow, base, *arguments), "100K")["mask"] == "done"
    begin(base, product)
    out = told(hklflow, base, *arguments)
    assert cells(out, "100K")["mask"] == "1/2 lost"
    assert out.splitlines()[-1].endswith(f"--config results={results}")


def test_what_is_older_than_its_inputs_is_old(hklflow: Hklflow, base: Path) -> None:
    orientation = "results/hexa/100K/orientation.json"
    os.utime(base / orientation, (START + 800, START + 800))
    found = states(hklflow, base)
    old = {key for key, job in found.items() if job["state"] == "old"}
    # What is made of it, and what is made of that.
    after = ["accept", "merge", "symmetrise", "fill", "pdf", "planes", "difference", "scan_file"]
    assert old == {
        *(("hexa", "100K", rule) for rule in after),
        *(("hexa", "100K", rotation, "transform") for rotation in ("r1", "r2")),
        *(("hexa", "300K", rule) for rule in ("stack", "stack_pdf")),
        ("hexa", "temperature_series"),
        ("hexa", "order_parameters"),
        ("hexa", "sample_page"),
        ("overview",),
    }
    assert {job["state"] for key, job in found.items() if key not in old} == {"done"}
    # As for snakemake, the same content in a small file is the same.
    same = f"sha256:{hashlib.sha256(orientation.encode()).hexdigest()}"
    readers = {"accept", "transform", "symmetrise", "fill", "scan_file"}
    for job in all_jobs():
        if (job.key[:2] == ("hexa", "100K") and job.rule in readers) or (
            job.rule in {"temperature_series", "order_parameters", "sample_page", "overview"}
        ):
            for product in job.products:
                record = base / ".snakemake/metadata" / encoded(product)
                record.parent.mkdir(parents=True, exist_ok=True)
                record.write_text(json.dumps({"input_checksums": {orientation: same}}))
    assert {job["state"] for job in states(hklflow, base).values()} == {"done"}
    (base / orientation).write_text("other")
    os.utime(base / orientation, (START + 800, START + 800))
    assert states(hklflow, base)["hexa", "100K", "accept"]["state"] == "old"


def test_a_quick_look_has_its_own_results(hklflow: Hklflow, base: Path) -> None:
    arguments = ("--config", "binning=4")
    out = told(hklflow, base, *arguments)
    assert cells(out, "100K")["import"] == "0/2 -"
    assert "powder: calibration done" in out  # which is the same
    assert out.splitlines()[-1].endswith(" --config binning=4")
    finish(base, "results_binned4", binned=True)
    assert (base / "results_binned4/hexa/100K/r1/binned.nxs").exists()
    assert set(cells(told(hklflow, base, *arguments), "100K").values()) == {"hexa", "100K", "done"}
    (base / "results_binned4/hexa/100K/r1/binned.nxs").unlink()
    assert cells(told(hklflow, base, *arguments), "100K")["import"] == "1/2 -"
    assert cells(told(hklflow, base), "100K")["import"] == "done"


def test_failures_only_and_one_sample(hklflow: Hklflow, base: Path) -> None:
    out = told(hklflow, base, "--failed")
    assert out.splitlines()[0] == "nothing failed in any scan"
    fail(base)
    out = told(hklflow, base, "--failed")
    assert "100K" in out.splitlines()[1]
    assert "300K" not in out.split("\nfail")[0]
    found = states(hklflow, base, "--failed", "--sample", "hexa")
    assert list(found) == [("hexa", "100K", "r2", "find_peaks")]
    other = hklflow("status", base, "--sample", "quartz")
    assert other.code == 2
    assert "there is no sample 'quartz' with scans; there are hexa" in other.err


def test_constants_that_failed_are_told_by_their_logs(hklflow: Hklflow, base: Path) -> None:
    config = yaml.safe_load((base / "config/config.yaml").read_text())
    runs = {"dark": "raw/300_1.nxs", "flood": "raw/300_2.nxs"}
    config["constants"] = {"eiger": {"detector": "eiger", "runs": runs}}
    (base / "config/config.yaml").write_text(yaml.safe_dump(config))
    log = base / "results/logs/counter_dark/eiger.log"
    write(log, "hklflow counter_dark: 3 frames are too few; give more\n", START)
    done = hklflow("status", base)
    if done.code:
        pytest.fail(done.err)
    assert "eiger: constants -" in done.out
    assert "fail  eiger counter_dark: 3 frames are too few; give more" in done.out


def test_wrong_arguments_are_one_sentence(hklflow: Hklflow, base: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        ((base / "raw",), "config.yaml does not exist"),
        ((base, "--config", "binning"), "--config binning: write KEY=VALUE"),
        ((base, "--config", "resultss=x"), "resultss"),
    ):
        done = hklflow("status", *arguments)
        assert (done.code, done.out) == (2, "")
        assert sentence in done.err


def test_nothing_is_written(hklflow: Hklflow, base: Path) -> None:
    fail(base)
    lock(base)
    before = {path: path.lstat().st_mtime_ns for path in base.rglob("*")}
    told(hklflow, base)
    assert {path: path.lstat().st_mtime_ns for path in base.rglob("*")} == before


def test_what_stands_in_logs_does_not_act_on_the_terminal(base: Path, hklflow: Hklflow) -> None:
    fail(base)
    log = base / "results/logs/find_peaks/hexa_100K_r2.log"
    for text in (
        "hklflow find_peaks: no peaks in a\x1b[2Jb\x9b; look\n",
        "Traceback (most recent call last)\nError: no peaks in a\x1b[2Jb\x9b; look\n",
    ):
        log.write_text(text)
        out = hklflow("status", "--directory", base).out
        assert "no peaks in a\\x1b[2Jb\\x9b; look" in out
        assert not {c for c in out if not c.isprintable()} - {"\n"}


def test_a_pipe_in_the_place_of_a_log_is_not_waited_for(base: Path) -> None:
    fail(base)
    log = "results/logs/find_peaks/hexa_100K_r2.log"
    (base / log).unlink()
    (base / ".snakemake/log").mkdir(parents=True, exist_ok=True)
    (base / ".snakemake/incomplete").mkdir(exist_ok=True)
    name = base64.urlsafe_b64encode(b"x").decode()
    for path in (log, ".snakemake/log/1.snakemake.log", f".snakemake/incomplete/{name}"):
        os.mkfifo(base / path)
    command = [sys.executable, "-m", "hklflow.cli", "status", str(base)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)


@pytest.mark.parametrize("command", ["status", "check"])
def test_the_folder_by_place_or_by_name(base: Path, hklflow: Hklflow, command: str) -> None:
    one, two = hklflow(command, base), hklflow(command, "--directory", base)
    assert (one.code, one.out, one.err) == (two.code, two.out, two.err)
    assert str(base / "nowhere") in hklflow(command, "--directory", base / "nowhere").err
