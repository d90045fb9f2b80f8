"""Inputs and configuration change under a finished experiment: no wrong result is called done.

Judged from outside: by snakemake, the files, and a new experiment that is made of the final
inputs. Each case is a scan; the cases and the comparison are in ``inputs_change``.
"""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ..cli.conftest import shell as command
from .inputs_change import (
    CASES,
    CONFIGURED,
    QUIET,
    STALE,
    Case,
    Experiment,
    Told,
    Workshop,
    differences,
    shell,
    snakemake,
)

pytestmark = pytest.mark.workflow

MOVES = ("moved", "through a link", "cp -a", "tar", "rsync -a")
FOREIGN = ".snakemake of another experiment"
COPIES = ("no hidden folders", "no .snakemake", FOREIGN)
IN_COPIES = (*CONFIGURED, "untouched", "edited-large", "image-edited", "poni-edited", "flat-field")
ORPHANS = [scan for case in CASES.values() for scan in case.orphans]
# What the changed configuration makes again, and nothing else.
OF_CONFIGURED = frozenset().union(*(CASES[name].must for name in CONFIGURED))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("stock"))


# ------------------------------------------------------------- a few cases for every day


@dataclass
class Small:
    folder: Path
    base: Told
    second: Told


@pytest.fixture(scope="module")
def small(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small") / "e"
    experiment = Experiment(folder, shop, ["replaced-cp", "wavelength", "untouched"])
    experiment.measure()
    base = snakemake(folder, *experiment.goals(), cores=2)
    shutil.rmtree(folder / ".snakemake")
    experiment.damage()
    return Small(folder, base, snakemake(folder, *experiment.goals(), cores=2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("replaced-cp", 0.75), ("wavelength", 0.9), ("untouched", 0.5)],
)
def test_without_records_of_snakemake(small: Small, name: str, expected: float) -> None:
    """A file is replaced by an older one, a parameter is changed, another scan stays as it is."""
    assert small.base.code == 0, small.base.text
    assert small.second.code == 0, small.second.text
    _assert_jobs(CASES[name], small.second, "the second run")
    (goal,) = CASES[name].goals([name])
    with h5py.File(small.folder / goal) as file:
        found = file["entry/instrument/monochromator/wavelength"][()]
    assert found == pytest.approx(expected), f"{goal} has the wavelength {found}, not {expected}"


def test_the_comparison_sees_one_bit_and_no_times(small: Small, tmp_path: Path) -> None:
    (name,) = CASES["untouched"].goals(["untouched"])
    mine, right = tmp_path / name, small.folder / name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(right.read_bytes())

    def told() -> list[str]:
        return differences(tmp_path, small.folder, {name})

    with h5py.File(mine, "r+") as file:
        (process,) = file["entry/workflow"].values()
        process["date"][()] = "2001-01-01T00:00:00+00:00"
        record = json.loads(process["record/data"][()])
        process["record/data"][()] = json.dumps(record | {"seconds": 1e3})
    assert told() == []
    with h5py.File(mine, "r+") as file:
        record["inputs"]["raw"][0]["sha256"] = 64 * "0"
        process = next(iter(file["entry/workflow"].values()))
        process["record/data"][()] = json.dumps(record)
        file["entry/frames/monitor"][2] = np.nextafter(file["entry/frames/monitor"][2], np.inf)
        file["entry/frames"].attrs["more"] = 1
    assert len(told()) == 3


# ------------------------------------------------------------------------------ the world


@dataclass
class Runs:
    """An experiment that changed: its run, and a dry run after it."""

    folder: Path
    run: Told
    again: Told


@dataclass
class World:
    folder: Path
    first: Path
    """Results of the first run."""
    base: Told
    fresh: Path
    """The new experiment of the final inputs."""
    fresh_run: Told
    dry: Told
    """Dry run after the change."""
    changed: Runs
    status: str
    """What `hklflow status` says in the end."""
    moves: dict[str, Told]
    """Dry run of the same experiment in another place."""
    copies: dict[str, Runs]
    back: Runs
    """The copy without .snakemake when the old values are back."""


def _run(folder: Path, goals: list[str]) -> Runs:
    run = snakemake(folder, *goals)
    return Runs(folder, run, snakemake(folder, "--dry-run", *goals))


@pytest.fixture(scope="module")
def world(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> World:
    """All that is run, once; two at a time."""
    base = tmp_path_factory.mktemp("inputs")
    folder, fresh, there = base / "e", base / "fresh", base / "there"
    experiment = Experiment(folder, shop, CASES)
    experiment.measure()
    goals, goals_of_copies = experiment.goals(), experiment.goals(IN_COPIES)
    # The clock that is ahead is a case of its own.
    goals_of_moves = experiment.goals(name for name in CASES if name != "future")
    first_run = snakemake(folder, *goals, cores=2)
    shell("cp", "-a", folder / "results", base / "first")

    # Copies of the finished experiment, before anything changes.
    _move_about(folder, base)
    copies = {name: base / f"copy{number}" for number, name in enumerate(COPIES)}
    for name, copy in copies.items():
        if name == "no .snakemake":
            shell("cp", "-a", folder, copy)
        else:
            copy.mkdir()
            shell("cp", "-rp", *sorted(p for p in folder.iterdir() if p.name[0] != "."), copy)
        experiment.configured().write(copy)
    shutil.rmtree(copies["no .snakemake"] / ".snakemake")
    old = {path.name: path.read_text() for path in (folder / "config").iterdir()}

    experiment.damage()
    final, final_of_fresh = experiment.goals(), experiment.goals(STALE)
    shell("cp", "-a", folder, fresh)
    shutil.rmtree(fresh / "results")
    shutil.rmtree(fresh / ".snakemake")

    def make_fresh() -> tuple[Told, Runs]:
        told = snakemake(fresh, *final_of_fresh)
        # Here snakemake's records say that the results are those of the new values.
        copy = copies[FOREIGN]
        shell("cp", "-a", fresh / ".snakemake", copy)
        return told, _run(copy, goals_of_copies)

    def change() -> tuple[Told, Runs, str]:
        dry = snakemake(folder, "--dry-run", *final)
        runs = _run(folder, final)
        return dry, runs, command("hklflow", "status", cwd=folder).stdout

    def there_and_back() -> tuple[Runs, Runs]:
        copy = copies["no .snakemake"]
        new = _run(copy, goals_of_copies)
        there.mkdir()
        shell("cp", "-a", copy / "results", there)
        for name, text in old.items():
            (copy / "config" / name).write_text(text)
        return replace(new, folder=there), _run(copy, goals_of_copies)

    with ThreadPoolExecutor(2) as pool:
        of_fresh, of_change = pool.submit(make_fresh), pool.submit(change)
        of_back = pool.submit(there_and_back)
        of_copy = pool.submit(_run, copies["no hidden folders"], goals_of_copies)
        of_moves = {
            name: pool.submit(snakemake, place, "--dry-run", *goals_of_moves)
            for name, place in _places(base).items()
        }
    fresh_run, foreign = of_fresh.result()
    dry, changed, status = of_change.result()
    there_run, back = of_back.result()
    runs_of_copies = {
        "no hidden folders": of_copy.result(),
        "no .snakemake": there_run,
        FOREIGN: foreign,
    }
    return World(
        folder=folder,
        first=base / "first",
        base=first_run,
        fresh=fresh,
        fresh_run=fresh_run,
        dry=dry,
        changed=changed,
        status=status,
        moves={name: future.result() for name, future in of_moves.items()},
        copies=runs_of_copies,
        back=back,
    )


def _places(base: Path) -> dict[str, Path]:
    found = {"moved": base / "m/e", "through a link": base / "link", "cp -a": base / "c"}
    found["tar"] = base / "t/e"
    if shutil.which("rsync"):
        found["rsync -a"] = base / "r"
    return found


def _move_about(folder: Path, base: Path) -> None:
    """The same experiment in other places."""
    places = _places(base)
    shell("cp", "-a", folder, base / "c")
    places["through a link"].symlink_to("c")
    for parent in ("m", "t", "before"):
        (base / parent).mkdir()
    shell("cp", "-a", folder, base / "before/e")
    shell("mv", base / "before/e", base / "m")
    shell("tar", "-C", base, "-Scf", base / "e.tar", folder.name)
    shell("tar", "-C", base / "t", "-xf", base / "e.tar")
    if "rsync -a" in places:
        shell("rsync", "-aS", f"{folder}/", places["rsync -a"])


def _jobs_of(case: Case, told: Told) -> frozenset[str]:
    own = frozenset().union(*(told.of(scan) for scan in {*case.scans, *case.before}))
    calibrations = {job for job in told.jobs if job.split("/")[1] in case.calibrations}
    return own | calibrations


def _assert_jobs(case: Case, told: Told, where: str) -> None:
    """Exactly the jobs that the case says."""
    found = _jobs_of(case, told)
    missing, more = case.must - found, found - case.must - case.may
    assert not missing, f"{case.name}: {where} leaves old results of {', '.join(sorted(missing))}"
    assert not more, f"{case.name}: {where} makes again without need: {', '.join(sorted(more))}"


def _assert_same(case: Case, mine: Path, right: Path, what: str) -> None:
    """The case's products are those of another experiment, to the bit."""
    names = case.products(mine) | case.products(right)
    assert names, f"{case.name}: there are no products"
    found = differences(mine / "results", right / "results", names)
    told = "\n  ".join(found[:20])
    assert not found, f"{case.name}: {what}; {len(found)} differences:\n  {told}"


# ------------------------------------------------------------------------------ the cases


@pytest.mark.slow
def test_every_run_succeeds(world: World) -> None:
    runs = {"first": world.base, "fresh": world.fresh_run, "second": world.changed.run}
    runs |= {name: copy.run for name, copy in world.copies.items()}
    runs["old value"] = world.back.run
    failed = {name: told.text[-1500:] for name, told in runs.items() if told.code}
    assert not failed, "\n".join(
        f"the run `{name}` fails:\n{told}" for name, told in failed.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", STALE)
def test_a_dry_run_names_what_must_be_made_again(world: World, name: str) -> None:
    assert world.dry.code == 0, world.dry.text[-3000:]
    _assert_jobs(CASES[name], world.dry, "the dry run after the change")


@pytest.mark.slow
@pytest.mark.parametrize("name", STALE)
def test_the_next_run_gives_what_a_fresh_experiment_gives(world: World, name: str) -> None:
    case = CASES[name]
    # Else the case would test nothing.
    there = {name for name in case.products(world.fresh) if name.endswith((".nxs", ".json"))}
    assert differences(world.first, world.fresh / "results", there), f"{name} changes no product"
    _assert_same(case, world.folder, world.fresh, "old results are called done")


@pytest.mark.slow
def test_afterwards_nothing_is_left_to_do(world: World) -> None:
    again = world.changed.again
    assert again.code == 0, again.text[-3000:]
    # Of what has not changed another test tells.
    left = again.jobs.difference(*(_jobs_of(CASES[name], again) for name in QUIET))
    assert not left, f"after the run a dry run would do {sorted(left)}"
    assert again.nothing or again.jobs, again.text[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUIET)
def test_what_has_not_changed_is_not_made_again(world: World, name: str) -> None:
    case, results = CASES[name], world.folder / "results"
    for goal in case.goals(case.scans):
        product = Path(goal).relative_to("results")
        assert (world.first / product).exists(), f"{name}: the first run has not made {goal}"
        assert (results / product).exists(), f"{name}: {goal} was there, and is lost"
        old, new = (path / product for path in (world.first, results))
        assert new.read_bytes() == old.read_bytes(), f"{name}: {goal} was made again"
    _assert_jobs(case, world.dry, "the dry run after the change")
    _assert_jobs(case, world.changed.run, "the run after the change")
    _assert_jobs(case, world.changed.again, "the dry run after this run")


@pytest.mark.slow
@pytest.mark.parametrize("scan", ORPHANS)
def test_status_names_results_that_no_row_makes(world: World, scan: str) -> None:
    told = [line for line in world.status.splitlines() if re.search(rf"\b{scan}\b(?!-)", line)]
    assert told, f"status does not name results/quartz/{scan}, which no row makes:\n{world.status}"


@pytest.mark.slow
@pytest.mark.parametrize("way", MOVES)
def test_the_same_experiment_elsewhere_has_nothing_to_do(world: World, way: str) -> None:
    if way not in world.moves:
        pytest.skip("rsync is not installed")
    told = world.moves[way]
    assert told.nothing, f"{way}: a dry run would do {sorted(told.jobs)}: {told.text[-500:]}"


@pytest.mark.slow
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", CONFIGURED)
def test_a_copy_with_another_configuration(world: World, way: str, name: str) -> None:
    runs = world.copies[way]
    _assert_jobs(CASES[name], runs.run, f"the run in the copy ({way})")
    _assert_same(CASES[name], runs.folder, world.fresh, "results of the old value are called done")


@pytest.mark.slow
@pytest.mark.parametrize("way", COPIES)
def test_in_a_copy_nothing_else_is_made_again(world: World, way: str) -> None:
    runs = world.copies[way]
    # What snakemake does for the records of another experiment may be more than is needed.
    more = runs.run.jobs - OF_CONFIGURED if way != FOREIGN else set()
    assert not more, f"{way}: the run makes again without need: {sorted(more)}"
    assert runs.again.nothing, f"{way}: after the run there is left: {sorted(runs.again.jobs)}"


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURED)
def test_to_a_new_value_and_back(world: World, name: str) -> None:
    """That the new value's results were right, `test_a_copy_with_another_configuration` says."""
    case = CASES[name]
    names = case.products(world.fresh)
    _assert_jobs(case, world.back.run, "the run with the old value")
    found = differences(world.back.folder / "results", world.first, names)
    assert not found, f"{name}: the old value is back, and its results are not: {found[:10]}"
    left = _jobs_of(case, world.back.again)
    assert not left, f"{name}: after the run a dry run would do {sorted(left)}"
