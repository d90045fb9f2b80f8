"""Simulated experiments: the raw files that `rule simulate` makes, and their parameters."""

import zlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from hklflow import stages
from hklflow.base.errors import HklflowError
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.layers import merged
from hklflow.experiment.models import PowderImage
from hklflow.experiment.resolve import validation_problems


def simulated_raws(experiment: Experiment) -> list[str]:
    """Return the raw files that `rule simulate` makes; an empty list for a real experiment."""
    if experiment.config.simulation is None:
        return []
    calibrations = experiment.config.calibrations.values()
    return [*experiment.raws, *(c.image for c in calibrations if isinstance(c, PowderImage))]


def simulation_description(experiment: Experiment, raw: str) -> stages.simulate.Description:
    """Return the parameters of one simulated raw file, from configuration and scan table.

    The seed follows from the name of the file, so that every file has its own noise.
    """
    simulation = experiment.config.simulation
    if simulation is None:
        raise HklflowError(f"{raw} is not simulated: the configuration has no `simulation`")
    given = dict(simulation.scan) | {"seed": zlib.crc32(raw.encode())}
    if (key := experiment.raws.get(raw)) is not None:
        sample, scan, rotation = key
        row = experiment.rotation(sample, scan, rotation)
        if sample not in simulation.samples:
            raise HklflowError(f"config: simulation.samples has no {sample!r}")
        given |= merged(
            [
                simulation.samples[sample],
                simulation.scans.get(f"{sample}/{scan}", {}),
                simulation.rotations.get(rotation, {}),
            ]
        )
        given["angles"] = {name: value for name, (value, step) in row.goniometer.items()}
        for name, (start, step) in row.goniometer.items():
            if step is not None:
                given |= {"scan_axis": name, "start": start, "step": step}
        given["temperature"] = experiment.scans[sample, scan].temperature
        return stages.simulate.Description.model_validate(given)
    given["powder"] = simulation.powder
    return stages.simulate.Description.model_validate(given)


def simulation_problems(experiment: Experiment) -> Iterable[str]:
    """Yield the problems of the `simulation` section."""
    simulation = experiment.config.simulation
    if simulation is None:
        return
    names = {rotation for _, _, rotation in experiment.all_rotations()}
    for name in sorted(set(simulation.rotations) - names):
        yield f"config: simulation.rotations: no rotation is named {name!r}"
    for name in sorted(set(simulation.scans) - {f"{s}/{n}" for s, n in experiment.scans}):
        yield f"config: simulation.scans: no scan is named {name!r}"
    for raw in simulated_raws(experiment):
        if _is_measured(experiment.base / raw):
            yield (
                f"config: {raw} exists and was not simulated, but `simulation` would overwrite it; "
                "remove the `simulation` section, it is for simulated data only"
            )
        try:
            simulation_description(experiment, raw)
        except HklflowError as error:
            yield str(error)
        except ValidationError as error:
            for problem in validation_problems(error):
                yield f"config: simulation of {raw}: {problem}"


def _is_measured(path: Path) -> bool:
    """Return True if a raw HDF5 file exists that `rule simulate` has not written."""
    if path.suffix != ".nxs" or not path.is_file():
        return False
    from hklflow import nexus

    try:
        return "simulate" not in {record["stage"] for record in nexus.read_provenance(path)}
    except HklflowError:  # a damaged file has no value, so the simulation may overwrite it
        return False
