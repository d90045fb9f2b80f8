"""Problems of the crystals' shapes that only the whole experiment shows."""

from collections.abc import Iterator

from hklflow.experiment.experiment import Experiment

_NEED_SHAPE = ("mu", "formula", "density", "formula_units", "beam")


def problems(experiment: Experiment) -> Iterator[str]:
    """Yield a problem if the absorption of crystals without a shape is described."""
    own = [experiment.settings(*key).absorption for key in experiment.scans]
    if any(settings.shape is not None for settings in own):
        return  # shapes may be given for some scans
    given = [name for name in _NEED_SHAPE if any(getattr(settings, name) for settings in own)]
    if given:
        yield (
            f"config: absorption: {', '.join(given)} {'is' if len(given) == 1 else 'are'} given, "
            "but no scan has a shape of its crystal, so nothing would be corrected; give "
            "`absorption: {shape: ...}`, or remove the section"
        )
