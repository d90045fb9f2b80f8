"""Settings of the import of a scan that a remedy replaces."""

from pydantic import Field

from hklflow import stage


class ImportSettings(stage.Params):
    """Corrections that the import of a scan makes, and their place in the configuration."""

    detector: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Corrections of the detector of each rotation, in the form of `import_scan: detector`."""
    layer: str = ""
    """Layer that has settings of the import, such as `per_scan.quartz/300K`; empty: the top of the
    configuration.
    """
