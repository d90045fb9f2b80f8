"""Doubts about the diffuse features that are defined in the configuration."""

from collections.abc import Iterator
from itertools import combinations

from hklflow.experiment.experiment import Experiment

# Distance in r.l.u. below which two features are the same.
_CLOSE = 1e-3


def doubts(experiment: Experiment) -> Iterator[str]:
    """Yield features at reflections, and features that symmetry makes equivalent."""
    import numpy as np

    from hklflow.geometry.symmetry import space_group
    from hklflow.series.feature_copies import is_reflection, same
    from hklflow.series.features import Lattice

    for sample in experiment.used_samples():
        features = [
            definition.feature(name)
            for name, definition in experiment.settings(sample).features.define.items()
        ]
        if not features:
            continue
        group = space_group(experiment.samples[sample].space_group)
        # Integer hkl and exact operations need no cell.
        lattice = Lattice(
            np.eye(3),
            group.laue_operations.astype(np.float64),
            group.crystal_system,
            group.centring,
        )
        for feature in features:
            if is_reflection(feature, lattice):
                yield (
                    f"{sample}: features: define: {feature.name} is at a reflection: its tails may "
                    "be taken for diffuse scattering; follow single reflections with "
                    "`stack: reflections`"
                )
        for one, other in combinations(features, 2):
            if same(one, other, lattice, _CLOSE):
                yield (
                    f"{sample}: features: define: {one.name} and {other.name} are equivalent by "
                    "symmetry and have the same results; remove one of them"
                )
