"""`hklflow config explain`: show which configuration layer sets a parameter."""

from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import experiment as folder_of
from hklflow.cli.options import Directory


def explain(
    key: str,
    /,
    *,
    sample: str | None = None,
    scan: str | None = None,
    directory: Directory = Path(),
) -> None:
    """Show the value of a parameter and every layer that sets it.

    Layers, lowest priority first: package default, facility file, config.yaml, per_sample in
    config.yaml, per_scan in config.yaml (a parent's entry also applies to its children). Values of
    `snakemake --config` have priority over all layers.

    Example: `hklflow config explain find_peaks.n_sigma --sample quartz --scan 100K`

    Parameters
    ----------
    key
        Section and parameter, such as `find_peaks.n_sigma`, or a section alone.
    sample
        Sample whose value is shown. Default: the value for all samples without their own.
    scan
        Scan of the sample.
    """
    import json

    from hklflow.experiment.config import Config, load, setters, value_in
    from hklflow.experiment.resolve import among

    if scan is not None and sample is None:
        raise HklflowError(f"--scan {scan} needs its --sample")
    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    if sample is not None and sample not in experiment.samples:
        raise HklflowError(f"there is no sample {sample!r}; {among(sample, experiment.samples)}")
    if sample is not None and scan is not None and (sample, scan) not in experiment.scans:
        scans = [name for owner, name in experiment.scans if owner == sample]
        raise HklflowError(f"{sample} has no scan {scan!r}; {among(scan, scans)}")
    keys = key.split(".")
    settings = experiment.config if sample is None else experiment.settings(sample, scan)
    values = settings.model_dump(mode="json")
    for depth in range(len(keys)):
        _, above = value_in(values, keys[:depth])
        if not isinstance(above, dict) or keys[depth] not in above:
            known = list(above) if isinstance(above, dict) else []
            where = ".".join(keys[:depth]) or "the configuration"
            raise HklflowError(
                f"there is no {keys[depth]!r} in {where}; {among(keys[depth], known)}"
            )
    value = value_in(values, keys)[1]
    layers = experiment.layers_of(sample, scan)
    settings_of_layers = list(setters(layers, key))
    has_default, default = value_in(Config().model_dump(mode="json"), keys)
    owner = "" if sample is None else f" for {sample}" + ("" if scan is None else f"/{scan}")
    print(f"{key} = {json.dumps(value)}{owner}")
    lines = [("package default", default)] if has_default else []
    lines += [
        (f"config.yaml, {n}" if n.startswith("per_") else n, v) for n, v in settings_of_layers
    ]
    lines = [("config.yaml" if name == "config" else name, v) for name, v in lines]
    # The value of a section is joined from all layers.
    mark = "  <- joined with the lines above" if isinstance(value, dict) else "  <- in force"
    for number, (name, setting) in enumerate(lines):
        last = mark if number == len(lines) - 1 else ""
        print(f"  {name:40s} {json.dumps(setting, default=str)}{last}")
