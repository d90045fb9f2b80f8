"""Problems of the axis of a series: values that are missing, and two axes that vary at once."""

from collections.abc import Iterator

from hklflow.base.axis import Axis
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.tables import Scan, error_column

# Temperatures that differ less are one temperature: K, and relative.
_SAME_KELVIN, _SAME = 1.0, 0.01


def problems(experiment: Experiment) -> Iterator[str]:
    """Yield scans without a value along the axis of their series, and axes that vary together."""
    for sample in experiment.used_samples():
        axis = experiment.axis(sample)
        if not axis.is_temperature:
            yield from _of_temperature(experiment, sample, axis)
        mine = {name: scan for (of, name), scan in experiment.scans.items() if of == sample}
        missing = [name for name, scan in mine.items() if scan.value is None]
        if missing and not axis.is_temperature:
            yield (
                f"{experiment.config.scans}: {sample} {', '.join(missing)}: no value in the column "
                f"{axis.name!r}, along which the scans of {sample} are compared (`series: axis`)"
            )
            continue
        for parent in dict.fromkeys(scan.parent for scan in mine.values()):
            yield from _two(sample, axis, [x for x in mine.values() if x.parent == parent])


def _of_temperature(experiment: Experiment, sample: str, axis: Axis) -> Iterator[str]:
    """Yield a problem if the errors of temperatures are set along another axis."""
    if experiment.settings(sample).order_parameters.temperature_sigma > 0:
        yield (
            f"config: order_parameters.temperature_sigma of {sample}: the series is along "
            f"{axis.name}; give errors in the column `{error_column(axis.name)}` of the table of "
            "scans"
        )


def _two(sample: str, axis: Axis, scans: list[Scan]) -> Iterator[str]:
    """Yield a problem if the scans of a parent vary along two axes."""
    advice = "give the scans of each value a parent of their own, or make them another sample"
    for other in dict.fromkeys(name for scan in scans for name in scan.others):
        if len({scan.others.get(other) for scan in scans}) > 1:
            yield (
                f"{sample}: {axis.name} is the axis of the series, but {other} varies too among "
                f"the scans of parent {scans[0].parent}; {advice}"
            )
    if axis.is_temperature:
        return
    places: dict[float | None, list[float]] = {}
    for scan in scans:
        if scan.temperature is not None:
            places.setdefault(scan.value, []).append(scan.temperature)
    for value, temperatures in places.items():
        if value is not None and _differ(temperatures):
            yield (
                f"{sample}: scans of parent {scans[0].parent} at {axis.at(value)} have "
                f"temperatures from {min(temperatures):g} to {max(temperatures):g} K, so that "
                f"temperature and {axis.name} vary at once; {advice}"
            )
            return


def _differ(temperatures: list[float]) -> bool:
    low, high = min(temperatures), max(temperatures)
    return high - low > max(_SAME_KELVIN, _SAME * high)


def doubts(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence for each series along another axis in which the temperature varies, too."""
    for sample in experiment.used_samples():
        axis = experiment.axis(sample)
        if axis.is_temperature:
            continue
        known: dict[str, list[float]] = {}
        for (of, _), scan in experiment.scans.items():
            if of == sample and scan.temperature is not None:
                known.setdefault(scan.parent, []).append(scan.temperature)
        for parent, temperatures in known.items():
            if _differ(temperatures):
                yield (
                    f"{sample}: the temperature varies from {min(temperatures):g} to "
                    f"{max(temperatures):g} K along the {axis.name} (parent {parent}); what "
                    f"changes with temperature is attributed to the {axis.name}"
                )
