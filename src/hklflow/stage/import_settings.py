"""Settings of the import of a scan that a remedy replaces."""

from pydantic import Field

from hklflow import stage


class ImportSettings(stage.Params):
    """Corrections that the import of a scan makes, and their place in the configuration."""

    detector: tuple[str, ...] = ()
    """`import_scan: detector` of the scan."""
    wavelengths: dict[str, float] = Field(default_factory=dict)
    """`import_scan: wavelengths` of the scan."""
    axes: tuple[str, ...] = ()
    """`import_scan: axes` of the scan for single rotations."""
    layer: str = ""
    """Layer that has settings of the import, such as `per_scan.quartz/300K`; empty: the top of the
    configuration.
    """
