"""Write MTZ files of merged reflections with iotbx of cctbx."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.native import require_cctbx_is_safe
from hklflow.bragg.structure_factors import Crystal, Means, StructureFactors
from hklflow.geometry import symmetry
from hklflow.geometry.symmetry import SpaceGroup

_TITLE = 70  # characters


def write_mtz(
    path: Path, factors: StructureFactors, crystal: Crystal, group: SpaceGroup, title: str
) -> None:
    """Write merged reflections.

    Columns: H K L, IMEAN SIGIMEAN N (observations), F SIGF, and, if Friedel mates were kept
    separate, I(+) SIGI(+) I(-) SIGI(-) N(+) N(-). Values that were not observed are missing. MTZ
    stores single precision.
    """
    require_cctbx_is_safe()
    from cctbx import miller
    from cctbx.array_family import flex

    of_crystal = symmetry.crystal_symmetry(crystal.cell, group)

    def array(
        hkl: NDArray[np.int64],
        values: NDArray[Any],
        sigma: NDArray[np.float64] | None = None,
        anomalous: bool = False,
    ) -> Any:
        indices = flex.miller_index([(int(h), int(k), int(l)) for h, k, l in hkl])  # noqa: E741
        chosen = miller.set(of_crystal, indices, anomalous_flag=anomalous)
        data = np.ascontiguousarray(values)
        whole = data.dtype.kind == "i"
        flat = flex.int(data.astype(np.int32)) if whole else flex.double(data)
        return miller.array(chosen, flat, None if sigma is None else flex.double(sigma.copy()))

    mean = array(factors.hkl, factors.mean.intensity, factors.mean.sigma)
    dataset = mean.set_observation_type_xray_intensity().as_mtz_dataset(
        "IMEAN",
        column_types="JQ",
        title=title[:_TITLE],
        crystal_name=_name(crystal.sample),
        project_name="hklflow",
        dataset_name=_name(crystal.scan),
        wavelength=crystal.wavelength,
    )
    dataset.add_miller_array(array(factors.hkl, factors.mean.n), "N", column_types="I")
    amplitude = array(factors.hkl, factors.amplitude, factors.amplitude_sigma)
    dataset.add_miller_array(
        amplitude.set_observation_type_xray_amplitude(), "F", column_types="FQ"
    )
    if factors.plus is not None and factors.minus is not None:
        hkl, mates = _mates(factors.hkl, factors.plus, factors.minus)
        pairs = array(hkl, mates.intensity, mates.sigma, anomalous=True)
        dataset.add_miller_array(
            pairs.set_observation_type_xray_intensity(), "I", column_types="KM"
        )
        dataset.add_miller_array(array(hkl, mates.n, anomalous=True), "N", column_types="I")
    content = dataset.mtz_object()
    # iotbx has no name for a second choice of origin and writes `No.88`, which gemmi cannot read.
    content.set_space_group_name(group.symbol)
    content.write(str(path))


def add_history(path: Path, sentences: Sequence[str]) -> None:
    """Add sentences to the history lines of an MTZ file, in lines of 80 characters."""
    require_cctbx_is_safe()
    from cctbx.array_family import flex
    from iotbx import mtz

    content = mtz.object(file_name=str(path))
    plain = [text.encode("ascii", "replace").decode() for text in sentences]
    lines = [line for text in plain for line in textwrap.wrap(text, 79)]
    content.add_history(flex.std_string(lines))
    content.write(str(path))


def _mates(hkl: NDArray[np.int64], plus: Means, minus: Means) -> tuple[NDArray[np.int64], Means]:
    """Return indices and means of the observed reflections, with Friedel mates at -h -k -l."""
    rows = [means.n > 0 for means in (plus, minus)]
    joined = [
        np.concatenate(
            [getattr(means, name)[use] for means, use in zip((plus, minus), rows, strict=True)]
        )
        for name in ("intensity", "sigma", "n")
    ]
    return np.concatenate([hkl[rows[0]], -hkl[rows[1]]]), Means(*joined)


def _name(text: str) -> str:
    """Return a name without blanks, which MTZ requires."""
    return "_".join(text.split()) or "unnamed"
