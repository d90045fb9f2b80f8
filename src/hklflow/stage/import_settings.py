"""Settings of the import of a scan that a remedy replaces."""

from hklflow import stage


class ImportSettings(stage.Params):
    """Corrections that the import of a scan makes, and their place in the configuration."""

    detector: tuple[str, ...] = ()
    """`import_scan: detector` of the scan."""
    layer: str = ""
    """Layer that has settings of the import, such as `per_scan.quartz/300K`; empty: the top of the
    configuration.
    """
