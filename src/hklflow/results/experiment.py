"""An experiment: its samples, scans and temperatures, and the products of its scans."""

from pathlib import Path
from typing import Any

from hklflow.base.axis import Axis
from hklflow.base.errors import HklflowError
from hklflow.base.names import ANALYSIS
from hklflow.experiment.config import load, read_yaml
from hklflow.results.arguments import shown
from hklflow.results.findings import Findings, read_findings
from hklflow.results.opening import open_product
from hklflow.results.rotation import MeasuredRotation
from hklflow.results.stack import Stack
from hklflow.results.volume import Volume


class Experiment:
    """Samples, scans and temperatures of an experiment.

    Attributes
    ----------
    scans : dict
        Temperature in K (or None) of each ``(sample, scan)``.
    values : dict
        Value (or None) of each scan along the axis of its sample's series; the temperature without
        another axis.

    Raises
    ------
    HklflowError
        If the folder has no configuration, or its configuration or tables have mistakes.
    """

    def __init__(self, folder: Path) -> None:
        config = folder / "config" / "config.yaml"
        if not config.is_file():
            raise HklflowError(
                f"{folder} has no config/config.yaml; give the folder of an experiment, or a file"
            )
        self._folder = folder
        self._experiment = load(read_yaml(config), folder)
        self.scans = {key: scan.temperature for key, scan in self._experiment.scans.items()}
        self.values = {key: scan.value for key, scan in self._experiment.scans.items()}

    def axis(self, sample: str) -> Axis:
        """Return the quantity along which the scans of a sample are compared.

        Raises
        ------
        HklflowError
            If there is no such sample.
        """
        if sample not in self.samples:
            raise HklflowError(
                f"there is no sample {sample!r} with scans; there are {', '.join(self.samples)}"
            )
        return self._experiment.axis(sample)

    @property
    def samples(self) -> list[str]:
        """Names of the samples that have scans."""
        return self._experiment.used_samples()

    @property
    def findings(self) -> Findings:
        """Sentences on each sample, each with the command that shows it."""
        paths = self._experiment.paths
        files = {name: [paths.series("order.json").format(sample=name)] for name in self.samples}
        for sample, parent in self._experiment.stacks():
            stack = paths.stack("pdf_series_{kind}.json")
            kinds = self._experiment.config.delta_pdf
            files[sample] += [
                stack.format(sample=sample, parent=parent, kind=kind) for kind in kinds
            ]
        return read_findings(
            {name: [self._folder / path for path in own] for name, own in files.items()}
        )

    def __repr__(self) -> str:
        return f"<experiment {self._folder}: {len(self.scans)} scans of {', '.join(self.samples)}>"

    def path(self, sample: str, scan: str, product: str) -> Path:
        """Return the path of a product of a scan, such as ``symm_transform.nxs``.

        Raises
        ------
        HklflowError
            If there is no such scan, or the product is not a name.
        """
        if (sample, scan) not in self.scans:
            known = ", ".join(" ".join(key) for key in self.scans)
            raise HklflowError(f"there is no scan {scan!r} of {sample!r}; the scans are {known}")
        if not isinstance(product, str):
            raise HklflowError(f"{shown(product)} is not a file name; give one, as transform.nxs")
        pattern = self._experiment.paths.scan(product)
        return self._folder / pattern.format(sample=sample, scan=scan)

    def open(self, sample: str, scan: str, product: str = "symm_transform.nxs") -> Any:
        """Open a product of a scan; see `hklflow.open`."""
        return open_product(self.path(sample, scan, product))

    def rotations(self, sample: str, scan: str) -> list[str]:
        """Return the names of the rotations of a scan."""
        return self._experiment.rotations(sample, scan)

    def rotation(self, sample: str, scan: str, rotation: str) -> MeasuredRotation:
        """Return frames, masks, peaks and predicted spots of a rotation.

        Raises
        ------
        HklflowError
            If there is no such rotation, or it is not imported yet.
        """
        folder = self.path(sample, scan, "scan.nxs").parent
        known = self.rotations(sample, scan)
        if rotation not in known:
            raise HklflowError(
                f"there is no rotation {rotation!r} of {sample} {scan}; the rotations are "
                f"{', '.join(known)}"
            )
        return MeasuredRotation(folder / rotation, self._folder)

    def stack(self, sample: str, product: str = "symm_transform.nxs") -> Stack:
        """Return the volumes of a sample that exist, along temperature or its other axis.

        Raises
        ------
        HklflowError
            If the sample has no such volume with a temperature, or their grids differ.
        """
        found: list[tuple[float, Volume]] = []
        for (name, scan), value in self.values.items():
            if name != sample or value is None or ANALYSIS in scan:
                continue
            if self.path(sample, scan, product).is_file():
                volume = self.open(sample, scan, product)
                if not isinstance(volume, Volume):
                    raise HklflowError(f"{product} is no volume; give the name of a volume")
                found.append((value, volume))
        if not found:
            raise HklflowError(
                f"no scan of {sample!r} with a temperature has {product}; the samples are "
                f"{', '.join(self.samples)}, and `hklflow status` shows what is done"
            )
        found.sort(key=lambda item: item[0])
        return Stack([at for at, _ in found], [volume for _, volume in found], self.axis(sample))
